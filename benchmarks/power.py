"""How reliably the harness detects a real slow-down.

    python benchmarks/power.py [--series 30] [--seconds 45] [--precision 0.5] [--timer events] [--l2 warm]
        [--output FILE]

The baseline is an FA3 call of about 1 ms, the treatment the same with 128 tokens more: one more of the
kernel's tiles, at lengths where that is 0.5%, 1% and 3% more work. The true ratio is that of the visible
pairs of query and key. Target: the right sign, with an interval that misses zero, in at least 90% of the
series at 1% and 3%.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from common import report, sampling_parser

TILE = 128  # rows and columns of FA3's tiles for causal bfloat16 at a head size of 128
HEAD_DIM = 128
INJECTED = {"0.5%": (400, 1), "1%": (200, 4), "3%": (66, 32)}  # tiles in the sequence, heads


def main() -> None:
    parser = sampling_parser(__doc__, seconds=45.0)
    parser.add_argument("--series", type=int, default=30, help="for each slow-down")
    options = parser.parse_args()

    import torch

    with torch.inference_mode():
        rows = [measure(name, *INJECTED[name], options) for name in INJECTED]
    report(f"injected slow-downs, {options.l2} L2", rows, options.output)


def measure(name: str, tiles: int, heads: int, options: argparse.Namespace) -> dict[str, object]:
    from calls import Placed

    from harness.analysis import roofline as work
    from harness.analysis import stats
    from harness.measure import clocks, timers
    from harness.measure.budget import Budget
    from harness.measure.sampler import Series, sample
    from harness.runs.record import Cell, Result, Status

    lengths = tiles * TILE, (tiles + 1) * TILE
    shape = {"heads": heads, "kv_heads": heads, "head_dim": HEAD_DIM}
    steps = [Placed(length=length, **shape).one_segment() for length in lengths]
    flops = [work.attention_flops([length], [length], heads, HEAD_DIM) for length in lengths]
    timer, monitor = timers.for_device("cuda", options.timer, options.l2), clocks.for_device("cuda")
    budget = Budget(options.seconds / len(INJECTED), options.series)
    found = []
    for n in range(options.series):
        # The sampler sees the longer call as the fragmented arm.
        arms: tuple[tuple[int, dict[str, Any]], ...] = ((1, {"one_segment_for": 2}), (2, {}))
        results = [
            Result(Cell("kernel", "fa3", "vLLM FA3", "paged", k, 16, 0, "captured"), name, Status.OK, **more)
            for k, more in arms
        ]
        short, long = sample(
            Series(results, list(steps)), timer, budget, n, monitor=monitor, precision_pct=options.precision
        )
        difference = stats.paired_difference(*stats.pull_in([short.samples_us, long.samples_us]))
        if difference.ci95_pct is not None:
            found.append((difference.delta_pct, *difference.ci95_pct, difference.baseline_us, difference.n))
    delta, low, high, baseline_us, pairs = np.array(found).T
    return {
        "injected": name,
        "true %": 100 * (flops[1] / flops[0] - 1),
        "found %": np.median(delta),
        "right sign %": 100 * np.mean(low > 0),
        "wrong sign %": 100 * np.mean(high < 0),
        "median half-width %": np.median((high - low) / 2),
        "baseline us": np.median(baseline_us),
        "series": len(found),
        "pairs each": np.median(pairs),
    }


if __name__ == "__main__":
    main()
