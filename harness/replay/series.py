"""Prepare the arms of a series and check each output before anything is timed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NoReturn

import torch

from harness import kernels, layout
from harness.calls.capture import AttentionCall
from harness.kernels import Unsupported, reference
from harness.measure.sampler import Series
from harness.measure.timers import Step
from harness.replay import arms
from harness.replay.arms import Arm, Bound
from harness.replay.placement import Placement, make_placement
from harness.runs.record import Data, Result, Status, request_series_name, series_name, status_of


class Judge:
    """Holds a call's float32 reference and checks arms' outputs against it."""

    def __init__(self, call: AttentionCall) -> None:
        self.call = call
        self.rows = reference.sampled_rows(call)
        self.expected = reference.attention_rows(call, self.rows)
        self.tolerance = reference.TOLERANCE[call.query.dtype]

    def error_of(self, output: torch.Tensor) -> float:
        """Relative error of an output against float32, over the sampled query rows."""
        return reference.relative_error(self.call, output, self.rows, self.expected)

    def objection(self, bound: Bound, output: torch.Tensor) -> str | None:
        """Why the output is wrong, or None. A known expected output must match bit for bit."""
        if bound.expected is not None and not torch.equal(
            output.reshape(bound.expected.shape), bound.expected
        ):
            different = (output.reshape(bound.expected.shape) != bound.expected).float().mean()
            share = f"{100 * float(different):.3g}%"
            return f"{share} of it differs from the expected output, which must match bit for bit"
        if not bound.is_output:
            return None
        error = self.error_of(output)
        if error <= self.tolerance:  # also false for nan
            return None
        return f"relative error {error:.2g} against float32, {self.tolerance:.2g} allowed"


@dataclass(frozen=True)
class Replay:
    """Builds the series for replaying attention calls in one run of the harness."""

    device: str  # "cpu" or "cuda"
    gap: layout.Gap  # of the segments, in caches made here
    sizes: layout.Sizes
    seed: int
    judges: dict[int, Judge] = field(default_factory=dict)  # by layer; a captured call is checked at every k

    def series(self, place: Placement, with_synthetic: bool) -> Series:
        """All arms of one layer at one spread_k, prepared and checked, optionally also on random Q, K and
        V.
        """
        series = self._series(place, "captured")
        if with_synthetic:
            more = self._synthetic(place)
            series = Series(series.results + more.results, series.steps + more.steps)
        return series

    def request_series(self, place: Placement, index: int) -> Series:
        """The engine's kernel on one request of the step alone, prepared and checked."""
        name = request_series_name(place.spread_k, place.call.layer, index)
        alone, engine = place.alone(index), kernels.for_engine(place.call)
        try:
            _refuse_quantised(place.call)
            alone = arms.with_output(alone, engine)
            judge = Judge(alone.call)
        except Exception as error:
            return prepare(failing(arms.of_request(alone, engine, index), error), None, name)
        return prepare(arms.of_request(alone, engine, index), judge, name)

    def cache_plan(self, blocks: Sequence[int], segments: Sequence[int]) -> list[list[int]]:
        """Each request's block ids in a new cache, split into `segments` segments, beyond sum(blocks).

        Lower ids belong to the single segments. Scattered segments get a pool of layout.SCATTER times the
        blocks, as the engine's pool would not fit twice.
        """
        count = sum(blocks)
        pool = count * (layout.SCATTER if self.gap == "scattered" else 1)
        ids = range(count + 1, count + pool + 1)
        seed = self.seed + max(segments)
        return layout.plan_batch(blocks, segments, ids, gap=self.gap, sizes=self.sizes, seed=seed)

    def own_cache(self, call: AttentionCall, spread_k: int, segments: Sequence[int]) -> Placement:
        """The call's K and V in a new cache, each request's in `segments` segments."""
        blocks = [layout.num_blocks(length, call.block_size) for length in call.lengths]
        return make_placement(call, kernels.for_engine(call), spread_k, self.cache_plan(blocks, segments))

    def _series(self, place: Placement, data: Data) -> Series:
        name = series_name(place.spread_k, place.call.layer)
        if place.call.quantised:
            return prepare(_only_writing(self._arms(place, data), place.call), None, name)
        try:
            judge = self._judge(place.call)
        except Exception as error:
            return prepare(failing(self._arms(place, data), error), None, name)
        return prepare(self._arms(place, data), judge, name)

    def _judge(self, call: AttentionCall) -> Judge:
        """The call's judge, reused while the call is the same."""
        judge = self.judges.get(call.layer)
        if judge is None or judge.call is not call:
            judge = Judge(call)
            if call.kv_cache is not None:  # a captured call, which returns at the next spread_k
                self.judges[call.layer] = judge
        return judge

    def _synthetic(self, place: Placement) -> Series:
        try:
            _refuse_quantised(place.call)
            call = arms.synthetic(place.call, self.seed)
            made = arms.with_output(
                self.own_cache(call, place.spread_k, place.segments), kernels.for_engine(call)
            )
        except Exception as error:
            name = series_name(place.spread_k, place.call.layer)
            return prepare(failing(self._arms(place, "synthetic"), error), None, name)
        return self._series(made, "synthetic")

    def _arms(self, place: Placement, data: Data) -> list[Arm]:
        functions = kernels.flash_attn_functions(self.device)
        return arms.of_series(place, kernels.for_engine(place.call), functions, data, self.cache_plan)


def _refuse_quantised(call: AttentionCall) -> None:
    """Raise Unsupported if the call's cache is not in the data type of its K and V."""
    if call.quantised:
        raise _refusal(call)


def _refusal(call: AttentionCall) -> Unsupported:
    return Unsupported(
        f"the layer's KV cache is {call.cache_dtype}, its K and V are {_name(call.key.dtype)}: a replay "
        "would lack vLLM's scales; whole prefills and the cache write are timed"
    )


def _only_writing(series_arms: Sequence[Arm], call: AttentionCall) -> list[Arm]:
    """The arms of a call with a quantised cache: those that read it fail, and those that write it remain."""
    refusal = _refusal(call)
    return [
        arm if arm.cell.stage == "cache_write" else arm_failing
        for arm, arm_failing in zip(series_arms, failing(series_arms, refusal), strict=True)
    ]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def prepare(series_arms: Sequence[Arm], judge: Judge | None, name: str) -> Series:
    """Bind every arm, run it once and check its output; failures keep their status and reason.

    Args:
        judge: may be None only if no arm that can be bound returns attention output.
    """
    series = Series([], [])
    for arm in series_arms:
        status, reason, step = _ready(arm, judge)
        cell = Result(
            arm.cell, name, status, reason, one_segment_for=arm.one_segment_for, control=arm.control
        )
        series.results.append(cell)
        series.steps.append(step)
    return series


def _ready(arm: Arm, judge: Judge | None) -> tuple[Status, str | None, Step | None]:
    try:
        bound = arm.bind()
        output = bound.run()
        assert judge is not None or not bound.is_output
        objection = judge.objection(bound, output) if judge else None
    except Unsupported as error:
        return Status.UNSUPPORTED, str(error), None
    except Exception as error:
        status, reason = status_of(error)
        return status, reason, None
    if objection:
        return Status.WRONG_OUTPUT, objection, None
    return Status.OK, bound.remark, Step(bound.run)


def failing(series_arms: Sequence[Arm], error: Exception) -> list[Arm]:
    """The arms, all of which failed because of `error`."""

    def bind() -> NoReturn:
        raise error

    return [replace(arm, bind=bind) for arm in series_arms]
