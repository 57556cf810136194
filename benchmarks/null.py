"""How often the harness finds a difference where there is none.

    python benchmarks/null.py [--contrasts 200] [--seconds 75] [--precision 0.5] [--timer events]
        [--l2 warm] [--output FILE]

A/A contrasts on real arms: FA3 calls of about 20 us, 100 us and 1 ms, each contrast out of a series of its
own with the engine kernel's four arms, sampled as the main job samples them. Targets, over all contrasts: at
most 7% of the 95% intervals miss zero, median |difference| under 0.2%, median half-width under 0.3%.
"""

from __future__ import annotations

import argparse

import numpy as np
from common import report, sampling_parser


def main() -> None:
    parser = sampling_parser(__doc__, seconds=75.0)
    parser.add_argument("--contrasts", type=int, default=200)
    options = parser.parse_args()

    import torch
    from calls import CALLS

    with torch.inference_mode():
        found = {name: measure(name, n, options) for n, name in enumerate(CALLS)}
    rows = [row(name, contrasts) for name, contrasts in found.items()]
    rows.append(row("all", [contrast for contrasts in found.values() for contrast in contrasts]))
    report(f"A/A contrasts, {options.l2} L2", rows, options.output)


def measure(name: str, index: int, options: argparse.Namespace) -> list[tuple[float, float, float, int]]:
    """Difference, interval (percent) and number of pairs of each contrast of one call."""
    from calls import CALLS, Placed, contrast

    from harness.analysis import stats
    from harness.measure import clocks, timers
    from harness.measure.budget import Budget
    from harness.measure.sampler import sample

    count = options.contrasts // len(CALLS) + (index < options.contrasts % len(CALLS))
    placed = Placed(**CALLS[name])
    timer, monitor = timers.for_device("cuda", options.timer, options.l2), clocks.for_device("cuda")
    budget = Budget(options.seconds / len(CALLS), count)
    found = []
    for n in range(count):
        results = sample(
            placed.series(f"{name} {n}"), timer, budget, n, monitor=monitor, precision_pct=options.precision
        )
        baseline, again = contrast(results)
        difference = stats.paired_difference(*stats.pull_in([baseline.samples_us, again.samples_us]))
        if difference.ci95_pct is not None:
            found.append((difference.delta_pct, *difference.ci95_pct, difference.n))
    return found


def row(name: str, contrasts: list[tuple[float, float, float, int]]) -> dict[str, object]:
    difference, low, high, pairs = np.array(contrasts).T
    return {
        "call": name,
        "contrasts": len(difference),
        "pairs each": np.median(pairs),
        "intervals that miss zero %": 100 * np.mean((low > 0) | (high < 0)),
        "median |difference| %": np.median(np.abs(difference)),
        "median half-width %": np.median((high - low) / 2),
    }


if __name__ == "__main__":
    main()
