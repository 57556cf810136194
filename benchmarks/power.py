"""How reliably the harness detects a real slow-down.

    python benchmarks/power.py [--series 30] [--processes 1] [--seconds 45] [--precision 0.5]
        [--timer events] [--l2 warm] [--output FILE]

The baseline is an FA3 call of about 1 ms, the treatment the same with 128 tokens more: one more of the
kernel's tiles, at lengths where that is 0.3%, 0.5%, 1% and 3% more work. The true ratio is that of the
visible pairs of query and key. Target: the right sign, with an interval that misses zero, in at least 90% of
the series at 1% and 3%.

With --processes N, each of N processes measures each slow-down in series of its own, and a second table says
what an interval over processes finds: the mean, and with which power by how many processes (by Student's t,
not central, from what lies between the processes).
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pandas as pd
from common import report, sampling_parser
from tabulate import tabulate

from harness.analysis import stats

if TYPE_CHECKING:
    from calls import Placed

TILE = 128  # rows and columns of FA3's tiles for causal bfloat16 at a head size of 128
HEAD_DIM = 128
INJECTED = {
    "0.3%": (667, 1),
    "0.5%": (400, 1),
    "1%": (200, 4),
    "3%": (66, 32),
}  # tiles in the sequence, heads


POWER = 0.9
turn: Any = None  # a process's: the lock of the one that measures


def main() -> None:
    parser = sampling_parser(__doc__, seconds=45.0)
    parser.add_argument("--series", type=int, default=30, help="for each slow-down, in each process")
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()

    spawn = multiprocessing.get_context("spawn")
    with spawn.Pool(options.processes, _take_turns, (spawn.Lock(),), maxtasksperchild=1) as pool:
        measured = pool.starmap(measure_all, [(options, n) for n in range(options.processes)], chunksize=1)
    found = [pd.DataFrame(each) for each in measured]
    rows = [summarise(name, pd.concat(each[each.injected == name] for each in found)) for name in INJECTED]
    over = []
    if options.processes > 1:
        means = {name: [each[each.injected == name].delta.mean() for each in found] for name in INJECTED}
        over = [between(name, deltas) for name, deltas in means.items()]
        print(tabulate(over, headers="keys", floatfmt=".3g"))
    report(f"injected slow-downs, {options.l2} L2", rows, options.output, processes=over)


def _take_turns(lock: Any) -> None:
    global turn
    turn = lock


def measure_all(options: argparse.Namespace, process: int) -> list[dict[str, Any]]:
    """Every slow-down's series, a row each, while no other process measures."""
    import calls  # with the kernels: ahead of its turn
    import torch

    torch.zeros(1, device="cuda")
    with turn, torch.inference_mode():
        return [row for name in INJECTED for row in measure(name, options, process, calls.Placed)]


def measure(
    name: str, options: argparse.Namespace, process: int, placed: Callable[..., Placed]
) -> list[dict[str, Any]]:
    """A slow-down's series in this process."""
    from harness.analysis import figures, stats
    from harness.analysis import roofline as work
    from harness.measure import clocks, timers
    from harness.measure.budget import Budget
    from harness.measure.sampler import Series, sample
    from harness.runs.record import Cell, Result, Status

    tiles, heads = INJECTED[name]
    lengths = tiles * TILE, (tiles + 1) * TILE
    shape = {"heads": heads, "kv_heads": heads, "head_dim": HEAD_DIM}
    steps = [placed(length=length, **shape).one_segment() for length in lengths]
    flops = [work.attention_flops([length], [length], heads, HEAD_DIM) for length in lengths]
    timer, monitor = timers.for_device("cuda", options.timer, options.l2), clocks.for_device("cuda")
    budget = Budget(options.seconds / len(INJECTED), options.series)
    rows = []
    for n in range(options.series):
        # The sampler sees the longer call as the fragmented arm.
        arms: tuple[tuple[int, dict[str, Any]], ...] = ((1, {"one_segment_for": 2}), (2, {}))
        results = [
            Result(Cell("kernel", "fa3", "vLLM FA3", "paged", k, 16, 0, "captured"), name, Status.OK, **more)
            for k, more in arms
        ]
        seed = process * options.series + n
        series = Series(results, list(steps))
        pulled = figures.pull_in(
            sample(series, timer, budget, seed, monitor=monitor, precision_pct=options.precision)
        )
        difference = stats.paired_difference(*(result.samples_us for result in pulled))
        if (bounds := difference.ci95_pct) is not None:
            rows.append(
                {
                    "injected": name,
                    "true": 100 * (flops[1] / flops[0] - 1),
                    "delta": difference.delta_pct,
                    "low": bounds[0],
                    "high": bounds[1],
                    "us": difference.baseline_us,
                    "n": difference.n,
                }
            )
    return rows


def summarise(name: str, series: pd.DataFrame) -> dict[str, object]:
    """What single series found of a slow-down."""
    return {
        "injected": name,
        "true %": series.true.median(),
        "found %": series.delta.median(),
        "right sign %": 100 * (series.low > 0).mean(),
        "wrong sign %": 100 * (series.high < 0).mean(),
        "median half-width %": ((series.high - series.low) / 2).median(),
        "baseline us": series.us.median(),
        "series": len(series),
        "pairs each": series.n.median(),
    }


def between(name: str, deltas: list[float]) -> dict[str, object]:
    """What an interval over processes finds of a slow-down, and by how many processes with POWER."""
    found = stats.mean(deltas)
    low, high = found.interval()
    apart = found.error * found.n**0.5  # standard deviation between processes
    enough = (n for n in range(2, 100) if power(found.value, apart, n) >= POWER)
    return {
        "injected": name,
        "mean %": found.value,
        "95%": f"[{low:+.3f}, {high:+.3f}]",
        "between processes, points": apart,
        "power of 5": power(found.value, apart, 5),
        f"processes for {POWER:.0%}": next(enough, None),
    }


def power(effect: float, apart: float, processes: int) -> float:
    """How often Student's 95% interval over `processes` processes lies above zero."""
    from scipy import special

    freedom = processes - 1
    return float(
        1 - special.nctdtr(freedom, effect / apart * processes**0.5, special.stdtrit(freedom, 0.975))
    )


if __name__ == "__main__":
    main()
