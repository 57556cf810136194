"""Whether random inputs predict the time of the engine's kernel, and what explains the difference where they
do not.
"""

from __future__ import annotations

from harness.analysis import stats, verdicts
from harness.analysis.breakdown.rows import StepRow
from harness.analysis.breakdown.samples import Replayed, Rounds
from harness.runs.schema import RunRecord
from harness.units import pluralise

# Each step differs from the previous one in one thing, which its name says.
STEPS = {
    "random, contiguous, no schedule": "synthetic random_unscheduled",
    "random, contiguous": "synthetic random",
    "random, engine's strides": "synthetic dense",
    "captured (replay)": "dense",
}
IN_ENGINE = "engine (profiled)"
FIGURES = ("us", "ci95_us", "delta_us", "delta_ci95_us", "delta_pct", "delta_ci95_pct", "verdict")


def compare_inputs(record: RunRecord, replayed: Replayed) -> list[StepRow]:
    """One row for each step from a benchmark's inputs to the engine's own, for the dense arm; [] without
    random inputs.

    Times are the mean over the layers that have random inputs; the last step's over all layers, as it is the
    profiled prefill's time in attention, and its difference is from the replay of all layers. A step for
    which the kernel has no arm is left out.
    """
    on_both = replayed.with_any(lambda name: name.startswith("synthetic "))
    if not on_both.layers:
        return []
    steps = {
        step: name
        for step, name in STEPS.items()
        if name != "synthetic random_unscheduled" or on_both.has(name)
    }
    rows: list[StepRow] = []
    previous: str | None = None
    for step, name in steps.items():
        rows.append(_row(step, on_both, previous, name))
        previous = name
    return [*rows, _in_engine(record, replayed)]


def _row(step: str, replayed: Replayed, previous: str | None, name: str) -> StepRow:
    own = replayed.average([name])[name]
    row = StepRow(step=step, **dict.fromkeys(FIGURES), n=len(own.values), reason=own.reason)
    if not len(own.values):
        return row
    median = stats.median_interval(own.values)
    row.us, row.ci95_us = median.median, median.ci95
    if previous is not None:
        pair = replayed.average([previous, name])
        _compare(row, pair[previous], pair[name])
    return row


def _compare(row: StepRow, before: Rounds, after: Rounds) -> None:
    """Fill in the paired difference, on the layers that both steps have."""
    if not len(before.values):
        row.reason = f"no difference: {before.reason}"
        return
    difference = stats.paired_difference(before.values, after.values)
    row.delta_us, row.delta_ci95_us = difference.delta_us, difference.ci95_us
    row.delta_pct, row.delta_ci95_pct = difference.delta_pct, difference.ci95_pct
    row.p_value = difference.p_value
    row.verdict, row.reason_code = verdicts.judge(difference.ci95_pct)
    row.reason = before.reason


def _in_engine(record: RunRecord, replayed: Replayed) -> StepRow:
    """The profiled prefill's time in attention per layer: one prefill, so without an interval."""
    row = StepRow(step=IN_ENGINE, **dict.fromkeys(FIGURES), n=0, reason=None)
    profile = next((p for p in record.profile or [] if p.arm == "dense"), None)
    num_layers = record.model.num_layers
    if profile is None or not num_layers:
        row.reason = "no prefill of dense was profiled" if num_layers else "layers not known"
        return row
    if record.model.layers_left_out:
        row.reason = f"{pluralise(record.model.layers_left_out, 'layer')} left out is in the profile as well"
        return row
    row.us, row.n = 1000 * profile.categories.get("attention", 0.0) / num_layers, 1
    replay = replayed.average(["dense"])["dense"]
    if replay.median is None:
        row.reason = f"no difference: {replay.reason}"
        return row
    row.delta_us = row.us - replay.median
    row.delta_pct = 100 * row.delta_us / replay.median
    if replay.layers != num_layers:
        row.reason = f"replayed: {replay.layers} of {pluralise(num_layers, 'layer')}"
    return row
