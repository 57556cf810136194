"""What the paged KV cache costs: measured in the engine, predicted from the replay, and the residual."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from harness.analysis import stats
from harness.analysis.breakdown.rows import MeasuredRow, PredictedRow, ResidualRow
from harness.analysis.breakdown.samples import (
    Replayed,
    Rounds,
    enough,
    generator,
    no_rounds,
    percentile_interval,
    resampled_medians,
    why_not,
)
from harness.runs.record import Result
from harness.units import pluralise

# Baseline and treatment of what is measured; "paged" stands for paged at the largest spread_k.
MEASURED = {
    "fragmentation": ("paged@1", "paged"),
    "paging": ("dense", "paged@1"),
    "cache_write": ("no_write", "dense"),
    "total": ("no_write", "paged"),
    "allocation": ("paged@1", "wrapped"),
    "hooks": ("engine", "wrapped"),
    "compact": ("paged", "compact"),
}
# The same, as sums of replayed arms; what the host does differently has no prediction.
PREDICTED = {
    "fragmentation": {"paged": 1, "paged@1": -1},
    "paging": {"paged@1": 1, "dense": -1},
    "cache_write": {"cache_write": 1},
    "total": {"paged": 1, "dense": -1, "cache_write": 1},
    "compact": {"gather_kv": 1, "compact": 1, "paged": -1},
}
# Where the write into one segment was replayed too: dense and no_write differ by that one, and what the
# write takes longer into k segments is a part of what fragmentation costs.
ONE_SEGMENT_WRITE = {
    "fragmentation": {"paged": 1, "paged@1": -1, "cache_write": 1, "cache_write@1": -1},
    "cache_write": {"cache_write@1": 1},
}
ONE_SPREAD = "only spread_k = 1 was measured"


def measured_rounds(arms: Mapping[str, Result], spread_k: int) -> dict[str, Rounds]:
    """Paired differences of each component, in ms."""
    rounds_by_component = {}
    for component, pair in MEASURED.items():
        names = [_at(name, spread_k) for name in pair]
        reasons = [why_not(arms.get(name), name) for name in names]
        if names[0] == names[1]:
            rounds_by_component[component] = no_rounds(ONE_SPREAD)
        elif any(reasons):
            rounds_by_component[component] = no_rounds("; ".join(reason for reason in reasons if reason))
        else:
            one, two = (np.asarray(arms[name].samples_us) for name in names)
            n = min(len(one), len(two))
            rounds_by_component[component] = Rounds((two[:n] - one[:n]) / 1000, _remarks(arms, names))
    return rounds_by_component


def _remarks(arms: Mapping[str, Result], names: Sequence[str]) -> str | None:
    """The remarks on these ok arms, each once: the same text in every row becomes one footnote."""
    reasons = dict.fromkeys(arms[name].reason for name in names)
    return "; ".join(reason for reason in reasons if reason) or None


def predicted_rounds(replayed: Replayed, spread_k: int, num_layers: int | None) -> dict[str, Rounds]:
    """Each component as the mean over the replayed layers, times the model's layers, in ms.

    Layers that were not replayed are assumed to behave like the others: the intervals cover only what varies
    from round to round.
    """
    components = PREDICTED | (ONE_SEGMENT_WRITE if replayed.has("cache_write@1") else {})
    return {
        component: no_rounds(ONE_SPREAD)
        if spread_k == 1 and component == "fragmentation"
        else _over_layers(replayed.combine(terms), num_layers)
        for component, terms in components.items()
    }


def _over_layers(mean_us: Rounds, num_layers: int | None) -> Rounds:
    if mean_us.layers is None:
        return mean_us
    if num_layers is None:
        return no_rounds("the model's number of layers is not known")
    sampled = f"{mean_us.layers} of {pluralise(num_layers, 'layer')}, times {num_layers}"
    reasons = [sampled if mean_us.layers != num_layers else None, mean_us.reason]
    reason = "; ".join(filter(None, reasons)) or None
    return Rounds(mean_us.values * num_layers / 1000, reason, mean_us.layers)


def measured_rows(measured: Mapping[str, Rounds], spread_k: int, base_ms: float | None) -> list[MeasuredRow]:
    """The rows of `measured`; intervals are of medians of paired differences."""
    rows = []
    for component, differences in measured.items():
        baseline, treatment = (_at(name, spread_k) for name in MEASURED[component])
        figures = _figures(differences, base_ms)
        verdict = stats.verdict(figures["ci95_pct"]) if figures["n"] else None
        rows.append(
            MeasuredRow(
                component=component, baseline=baseline, treatment=treatment, verdict=verdict, **figures
            )
        )
    return rows


def predicted_rows(predicted: Mapping[str, Rounds], base_ms: float | None) -> list[PredictedRow]:
    """The rows of `predicted`; `layers` is how many layers the figure comes from."""
    return [
        PredictedRow(component=component, layers=sums.layers, **_figures(sums, base_ms))
        for component, sums in predicted.items()
    ]


def residual_rows(
    measured: Mapping[str, Rounds], predicted: Mapping[str, Rounds], num_layers: int | None
) -> list[ResidualRow]:
    """Measured minus predicted, of each component that has a prediction.

    The interval is a bootstrap over the medians of two independent series; it lies below zero where the
    difference is hidden behind the host. `includes_zero` is None if not all layers were replayed: the
    interval does not cover differences between layers, and would exclude zero too readily.
    """
    rng = generator()
    rows = []
    for component, sums in predicted.items():
        differences = measured[component]
        empty = dict.fromkeys(("ms", "ci95_ms", "pct_of_measured", "includes_zero"))
        sides = {"measured": differences.reason, "predicted": sums.reason}
        reason = "; ".join(f"{side}: {text}" for side, text in sides.items() if text) or None
        row = ResidualRow(component=component, **empty, reason=reason)
        if differences.median is not None and sums.median is not None:
            row.ms = differences.median - sums.median
            if differences.median:
                row.pct_of_measured = 100 * row.ms / abs(differences.median)
            if enough(differences.values, sums.values):
                one, two = (resampled_medians(r.values, rng) for r in (differences, sums))
                low, high = percentile_interval(one - two)
                row.ci95_ms = low, high
                row.includes_zero = low <= 0 <= high if sums.layers == num_layers else None
        rows.append(row)
    return rows


def _figures(rounds_ms: Rounds, base_ms: float | None) -> dict[str, Any]:
    """One row's ms, pct, their intervals, n and reason."""
    if not len(rounds_ms.values):
        empty = dict.fromkeys(("ms", "ci95_ms", "pct", "ci95_pct"))
        return {**empty, "n": 0, "reason": rounds_ms.reason}
    difference = stats.median_interval(rounds_ms.values)  # of ms here
    share = stats.map_interval(difference.ci95, lambda bound: 100 * bound / base_ms) if base_ms else None
    return {
        "ms": difference.median,
        "ci95_ms": difference.ci95,
        "pct": base_ms and 100 * difference.median / base_ms,
        "ci95_pct": share,
        "n": difference.n,
        "reason": rounds_ms.reason,
    }


def _at(name: str, spread_k: int) -> str:
    return f"paged@{spread_k}" if name == "paged" else name
