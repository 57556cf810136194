"""Where random inputs predict the time of the engine's kernel, and what explains it where they do not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.analysis import stats
from harness.analysis.breakdown.samples import Replayed, Rounds, Row
from harness.units import counted

# Each step differs from the one before it in one thing, which its name says.
STEPS = {
    "random, contiguous, no schedule": "synthetic random_unscheduled",
    "random, contiguous": "synthetic random",
    "random, engine's strides": "synthetic dense",
    "captured (replay)": "dense",
}
IN_ENGINE = "engine (profiled)"
FIGURES = ("us", "ci95_us", "delta_us", "delta_ci95_us", "delta_pct", "delta_ci95_pct", "verdict")


def compared(record: Mapping[str, Any], replayed: Replayed) -> list[Row]:
    """One row a step from a benchmark's inputs to the engine's own, dense arm; [] without random inputs.

    Times are the mean over the layers that have random inputs; the last step's over all layers, as it is
    the profiled prefill's time in attention, and its difference is from the replay of all layers. A step of
    which the kernel has no such arm is left out, all others are there.
    """
    on_both = replayed.with_any(lambda name: name.startswith("synthetic "))
    if not on_both.layers:
        return []
    steps = {
        step: name
        for step, name in STEPS.items()
        if name != "synthetic random_unscheduled" or on_both.has(name)
    }
    rows: list[Row] = []
    previous: str | None = None
    for step, name in steps.items():
        rows.append(_row(step, on_both, previous, name))
        previous = name
    return [*rows, _in_engine(record, replayed)]


def _row(step: str, replayed: Replayed, previous: str | None, name: str) -> Row:
    own = replayed.together([name])[name]
    row: Row = {"step": step, **dict.fromkeys(FIGURES), "n": len(own.values), "reason": own.reason}
    if not len(own.values):
        return row
    median = stats.median_interval(own.values)
    row |= {"us": median.median, "ci95_us": median.ci95 and list(median.ci95)}
    if previous is not None:
        pair = replayed.together([previous, name])
        row |= _delta(pair[previous], pair[name])
    return row


def _delta(before: Rounds, after: Rounds) -> Row:
    """The paired difference, on the layers that both steps have."""
    if not len(before.values):
        return {"reason": f"no difference: {before.reason}"}
    found = stats.paired_difference(before.values, after.values)
    return {
        "delta_us": found.delta_us,
        "delta_ci95_us": found.ci95_us and list(found.ci95_us),
        "delta_pct": found.delta_pct,
        "delta_ci95_pct": found.ci95_pct and list(found.ci95_pct),
        "verdict": stats.verdict(found.ci95_pct),
        "reason": before.reason,
    }


def _in_engine(record: Mapping[str, Any], replayed: Replayed) -> Row:
    """The profiled prefill's time in attention per layer: one prefill, so without an interval."""
    row: Row = {"step": IN_ENGINE, **dict.fromkeys(FIGURES), "n": 0, "reason": None}
    profile = next((p for p in record.get("profile") or [] if p["arm"] == "dense"), None)
    num_layers = record.get("model", {}).get("num_layers")
    if profile is None or not num_layers:
        return row | {"reason": "no prefill of dense was profiled" if num_layers else "layers not known"}
    row |= {"us": 1000 * profile["categories"].get("attention", 0.0) / num_layers, "n": 1}
    replay = replayed.together(["dense"])["dense"]
    if replay.median is None:
        return row | {"reason": f"no difference: {replay.reason}"}
    row["delta_us"] = row["us"] - replay.median
    row["delta_pct"] = 100 * row["delta_us"] / replay.median
    if replay.layers != num_layers:
        row["reason"] = f"replayed: {replay.layers} of {counted(num_layers, 'layer')}"
    return row
