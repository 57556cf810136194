"""How long the statistics take over a million samples.

    python benchmarks/summarise.py [--repeats 3] [--output FILE]

Two runs' worth of made-up samples, skewed and with outliers as timings have them: 250 series of the engine
kernel's four arms, 1000 rounds each, through everything that turns them into summary.json (medians,
intervals, paired differences, verdicts, warnings, means over layers); and a single contrast of a million
pairs. The file is not called after the statistics because a `statistics.py` here would hide Python's own.
Target: 2 s on two cores.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from common import parser_of, report

from harness.analysis import sample_warnings, stats, verdicts
from harness.experiments.prefill.summary import summarise
from harness.runs.record import Cell, Result, Status, series_name
from harness.runs.schema import Device, Model, RunRecord

SPREADS = [2**n for n in range(10)]
LAYERS = 25
ROUNDS = 1000
PAIRS = 10**6
RECORD = RunRecord(
    experiment="prefill",
    status="finished",
    config={},
    device=Device(name="made up", kind="cpu"),
    versions={},
    model=Model(name="made up"),
    notices=[],
    layers=list(range(LAYERS)),
)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    results = [result for k in SPREADS for layer in range(LAYERS) for result in series(k, layer, rng)]
    baseline, treatment = timings(rng, PAIRS), timings(rng, PAIRS)

    def one_contrast() -> int:
        found = stats.paired_difference(baseline, treatment)
        return len(
            [
                verdicts.judge(found.ci95_pct).verdict,
                *sample_warnings.warnings(baseline),
                *sample_warnings.warnings(treatment),
            ]
        )

    def whole_run() -> int:
        summary = summarise(RECORD, results)
        return len(summary.kernels) + len(summary.contrasts)

    samples = sum(len(result.samples_us) for result in results)
    rows = [
        time_work(f"{len(SPREADS) * LAYERS} series, {ROUNDS} rounds", samples, whole_run, options.repeats),
        time_work(f"one contrast, {PAIRS} pairs", 2 * PAIRS, one_contrast, options.repeats),
    ]
    report("statistics", rows, options.output)


def series(spread_k: int, layer: int, rng: np.random.Generator) -> list[Result]:
    """The four arms of the engine's kernel, the one-segment baseline twice."""
    arms = [
        ("dense", spread_k, None, False),
        ("paged", spread_k, None, False),
        ("paged", 1, spread_k, False),
        ("paged", 1, spread_k, True),
    ]
    return [
        Result(
            Cell("kernel", "flash_attn_varlen_func", "made up", arm, segments, 16, layer, "captured"),
            series_name(spread_k, layer),
            Status.OK,
            samples_us=timings(rng, ROUNDS).tolist(),
            warmup_us=[100.0] * 3,
            one_segment_for=one_segment_for,
            control=control,
        )
        for arm, segments, one_segment_for, control in arms
    ]


def timings(rng: np.random.Generator, count: int) -> np.ndarray:
    """Around 100 us, 1% noise with a tail to the right, one in a hundred half as long again."""
    times = 100 + rng.lognormal(0, 0.7, count)
    times[rng.random(count) < 0.01] *= 1.5
    return times


def time_work(work: str, samples: int, run: Callable[[], int], repeats: int) -> dict[str, object]:
    """A row: the median and the slowest of a few repetitions. `run` says how many figures it made."""
    seconds, figures = [], 0
    for _ in range(repeats):
        start = time.perf_counter()
        figures = run()
        seconds.append(time.perf_counter() - start)
    return {
        "statistics of": work,
        "samples": samples,
        "rows": figures,
        "median s": float(np.median(seconds)),
        "slowest s": max(seconds),
        "repeats": repeats,
    }


if __name__ == "__main__":
    main()
