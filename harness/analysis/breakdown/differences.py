"""What the paged KV cache costs: measured in the engine, predicted from the replay, and the residual."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from harness.analysis import stats, verdicts
from harness.analysis.breakdown.rows import MeasuredRow, PredictedRow, ResidualRow, ResidualVerdict
from harness.analysis.breakdown.samples import Replayed, Rounds, no_rounds, why_not
from harness.runs.record import Result
from harness.units import pluralise

# Baseline and treatment of what is measured; "paged" stands for paged at the largest spread_k.
MEASURED = {
    "fragmentation": ("paged@1", "paged"),
    "paging": ("dense", "paged@1"),
    "cache_write": ("no_write", "dense"),
    "total": ("no_write", "paged"),
    "placebo": ("paged@1", "placebo"),
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
COMPONENTS_OF_TOTAL = ("fragmentation", "paging", "cache_write")  # of "total"
AS_PREDICTED: dict[str, ResidualVerdict] = {
    "slower": "more than predicted",
    "faster": "less than predicted",
    "same": "as predicted",
    "unclear": "unclear",
}
ONE_SPREAD = "only spread_k = 1 was measured"


def measured_rounds(arms: Mapping[str, Result], spread_k: int) -> dict[str, Rounds]:
    """Paired differences of each component, in ms; `arms` are of results after `figures.pull_in`."""
    rounds_by_component = {}
    for component, pair in MEASURED.items():
        if component == "placebo" and "placebo" not in arms:
            continue  # runs of earlier versions have none
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

    Where layers were left out, how those replayed differ is in the interval; of a single one there is none.
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
    values = mean_us.values * num_layers / 1000
    left_out = _left_out(mean_us, num_layers) if mean_us.layers < num_layers else None
    return Rounds(values, reason, mean_us.layers, left_out=left_out)


def _left_out(mean_us: Rounds, num_layers: int) -> stats.Mean:
    """The error of a sum over all layers that comes from those not replayed, in ms: a sample's, without
    replacement.
    """
    of_layers = mean_us.of_layers
    if of_layers is None or len(of_layers) < 2:
        return stats.Mean(0.0, 0.0, 0.0, 0)  # not known: no interval
    count = len(of_layers)
    error = num_layers * np.std(of_layers, ddof=1) * np.sqrt((1 - count / num_layers) / count) / 1000
    return stats.Mean(0.0, float(error), count - 1, len(mean_us.values))


def measured_rows(measured: Mapping[str, Rounds], spread_k: int, base_ms: float | None) -> list[MeasuredRow]:
    """The rows of `measured`. The components of `total` add up to it, and their intervals hold together."""
    together = [name for name in (*COMPONENTS_OF_TOTAL, "total") if len(measured[name].values)]
    joint = dict(zip(together, _joint([measured[name] for name in together]), strict=True))
    rows = []
    for component, differences in measured.items():
        baseline, treatment = (_at(name, spread_k) for name in MEASURED[component])
        figures = _figures(differences, base_ms, joint.get(component))
        row = MeasuredRow(
            component=component, baseline=baseline, treatment=treatment, verdict=None, **figures
        )
        if row.n:
            row.p_value = differences.mean.p_value
            row.verdict, row.reason_code = verdicts.judge(row.ci95_pct)
        rows.append(row)
    return rows


def _joint(differences: Sequence[Rounds]) -> list[stats.Interval | None]:
    shortest = min((len(each.values) for each in differences), default=0)
    return stats.joint_intervals([each.values[:shortest] for each in differences]) if shortest else []


def predicted_rows(predicted: Mapping[str, Rounds], base_ms: float | None) -> list[PredictedRow]:
    """The rows of `predicted`; `layers` is how many layers the figure comes from."""
    return [
        PredictedRow(component=component, layers=sums.layers, **_figures(sums, base_ms))
        for component, sums in predicted.items()
    ]


def residual_rows(
    measured: Mapping[str, Rounds], predicted: Mapping[str, Rounds], base_ms: float | None
) -> list[ResidualRow]:
    """Measured minus predicted, of each component that has a prediction.

    The interval is that of two independent means; it lies below zero where the difference is hidden behind
    the host.
    """
    rows = []
    for component, sums in predicted.items():
        differences = measured[component]
        empty = dict.fromkeys(("ms", "ci95_ms", "pct_of_measured", "includes_zero", "verdict"))
        sides = {"measured": differences.reason, "predicted": sums.reason}
        reason = "; ".join(f"{side}: {text}" for side, text in sides.items() if text) or None
        row = ResidualRow(component=component, **empty, reason=reason)
        if len(differences.values) and len(sums.values):
            residual = differences.mean.minus(sums.mean)
            row.ms, row.ci95_ms = residual.value, residual.ci95
            if whole := differences.mean.value:
                row.pct_of_measured = 100 * residual.value / abs(whole)
            if row.ci95_ms is not None:
                row.includes_zero = row.ci95_ms[0] <= 0 <= row.ci95_ms[1]
            if base_ms:
                row.ci95_pct = _share(row.ci95_ms, base_ms)
                judged, row.reason_code = verdicts.judge(row.ci95_pct)
                row.verdict = AS_PREDICTED[judged]
        rows.append(row)
    return rows


def _figures(
    rounds_ms: Rounds, base_ms: float | None, interval: stats.Interval | None = None
) -> dict[str, Any]:
    """One row's ms, pct, their intervals, n and reason; `interval`: another than the mean's own."""
    if not len(rounds_ms.values):
        empty = dict.fromkeys(("ms", "ci95_ms", "pct", "ci95_pct"))
        return {**empty, "n": 0, "reason": rounds_ms.reason}
    mean = rounds_ms.mean
    bounds = interval or mean.ci95
    return {
        "ms": mean.value,
        "ci95_ms": bounds,
        "pct": base_ms and 100 * mean.value / base_ms,
        "ci95_pct": _share(bounds, base_ms) if base_ms else None,
        "n": len(rounds_ms.values),
        "reason": rounds_ms.reason,
    }


def _share(bounds_ms: stats.Interval | None, base_ms: float) -> stats.Interval | None:
    return stats.map_interval(bounds_ms, lambda bound: 100 * bound / base_ms)


def _at(name: str, spread_k: int) -> str:
    return f"paged@{spread_k}" if name == "paged" else name
