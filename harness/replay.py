"""Make the arms of a series ready and prove each right, before anything is timed."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from harness.arms import Arm, Bound
from harness.capture import AttentionCall
from harness.kernels import Unsupported, reference
from harness.measure.sampler import Series
from harness.measure.timers import Step
from harness.record import Result, Status, status_of


class Judge:
    """Holds a call's float32 reference and says whether an arm's output is right."""

    def __init__(self, call: AttentionCall) -> None:
        self.call = call
        self.rows = reference.sampled_rows(call)
        self.expected = reference.attention_rows(call, self.rows)
        self.tolerance = reference.TOLERANCE[call.query.dtype]

    def error_of(self, output: torch.Tensor) -> float:
        """Relative error of an output against float32, over the sampled query rows."""
        return reference.relative_error(self.call, output, self.rows, self.expected)

    def objection(self, bound: Bound, output: torch.Tensor) -> str | None:
        """Why the output is wrong, or None. Arms of one kernel must agree bit for bit."""
        if bound.expected is not None:
            if torch.equal(output.reshape(bound.expected.shape), bound.expected):
                return None
            different = (output.reshape(bound.expected.shape) != bound.expected).float().mean()
            return f"{100 * float(different):.3g}% of the output is not bit for bit that of the engine"
        error = self.error_of(output)
        if error <= self.tolerance:  # false for nan too
            return None
        return f"relative error {error:.2g} against float32, {self.tolerance:.2g} allowed"


def prepare(arms: Sequence[tuple[Arm, Judge]], name: str) -> Series:
    """Bind every arm, run it once and judge its output; what fails is kept with its status and reason."""
    series = Series([], [])
    for arm, judge in arms:
        status, reason, step = _ready(arm, judge)
        cell = Result(arm.cell, name, status, reason, one_run_for=arm.one_run_for, control=arm.control)
        series.results.append(cell)
        series.steps.append(step)
    return series


def _ready(arm: Arm, judge: Judge) -> tuple[Status, str | None, Step | None]:
    try:
        bound = arm.bind()
        if bound.before:
            bound.before()
        objection = judge.objection(bound, bound.run())
    except Unsupported as error:
        return Status.UNSUPPORTED, str(error), None
    except Exception as error:
        status, reason = status_of(error)
        return status, reason, None
    if objection:
        return Status.WRONG_OUTPUT, objection, None
    return Status.OK, bound.remark, Step(bound.run, bound.before)
