"""What the experiments that replay attention calls share: timer, time, series, and what is left to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from harness import arms
from harness.capture import AttentionCall
from harness.config import RunConfig
from harness.experiments.sampling import Sampling
from harness.measure import ceilings, timers
from harness.measure.sampler import Budget, Series
from harness.record import Status, series_name
from harness.recorder import Recorder
from harness.replay import Replay

# By spread_k: calls to replay, and whether random Q, K and V go with each.
Todo = dict[int, list[tuple[AttentionCall, bool]]]

SAMPLED_LAYERS = 3


class Replaying(Sampling):
    """Samples series of attention calls."""

    config: RunConfig

    def __init__(self, config: RunConfig, recorder: Recorder) -> None:
        super().__init__(config, recorder)
        self.timer = timers.for_device(self.device, config.timer, config.l2)
        self.replay = Replay(self.device, config.gap, config.run_sizes, config.seed)
        recorder.note(timer=self.timer.name)
        if "ceilings" not in recorder.record:
            recorder.note(ceilings=self._ceilings())

    def describe(self, calls: Sequence[AttentionCall], **model: Any) -> None:
        """Note the calls' shapes and what else is known of the model."""
        call = calls[0]
        self.recorder.note(
            spread_k=self.config.spreads(),
            num_blocks=self.config.num_blocks(),
            layers=[call.layer for call in calls],
            layer_windows={
                str(c.layer): list(c.sliding_window) for c in calls if c.sliding_window != (-1, -1)
            },
            causal=call.causal,
            model=model
            | {
                "num_heads": call.num_heads,
                "num_kv_heads": call.num_kv_heads,
                "head_dim": call.head_dim,
                "dtype": str(call.query.dtype).removeprefix("torch."),
            },
        )

    def todo(self, calls: Sequence[AttentionCall]) -> Todo:
        """The calls to replay that are not finished; random inputs go with the first call of every shape."""
        first = {call.shape_key(): call.layer for call in reversed(calls)}
        return {
            k: [
                (call, first[call.shape_key()] == call.layer)
                for call in calls
                if series_name(k, call.layer) not in self.recorder.finished
            ]
            for k in self.config.spreads()
        }

    def budget_for(self, todo: Todo, share: float) -> Budget:
        """That share of the time, for the calls to do; those with random inputs have twice the arms."""
        return self.budget(sum(1 + extra for calls in todo.values() for _, extra in calls), share)

    def measure(
        self, place: arms.Placement, with_synthetic: bool, budget: Budget, problem: str | None
    ) -> None:
        """Sample the series of one call at one spread_k.

        Args:
            problem: what was wrong with the fragmented prefill; its arms are then reported, not timed.
        """
        series = self.replay.series(place, with_synthetic)
        if problem:
            _mark_wrong(series, problem)
        seed = self.config.seed + place.call.layer
        self.sample(series, self.timer, budget, seed, weight=1 + with_synthetic)

    def _ceilings(self) -> dict[str, float] | None:
        try:
            return asdict(ceilings.measure(self.device))
        except Exception as error:  # a figure beside the others, not worth a run
            self.recorder.notice(f"the device's ceilings could not be measured: {error}")
            return None
        finally:
            if self.device == "cuda":
                torch.cuda.empty_cache()  # vLLM sizes its KV cache by what is free


def spaced(count: int, wanted: int) -> list[int]:
    """`wanted` indices out of range(count), evenly spaced, ends included."""
    if wanted >= count:
        return list(range(count))
    if wanted == 1:
        return [0]
    return [round(n * (count - 1) / (wanted - 1)) for n in range(wanted)]


def _mark_wrong(series: Series, problem: str) -> None:
    """The fragmented captured arms of a prefill that went wrong are reported, not timed."""
    for n in series.ready():
        result = series.results[n]
        fragmented = result.cell.arm in ("fragmented", "paged") and not result.one_run_for
        if fragmented and result.cell.data == "captured":
            series.fail(n, Status.WRONG_OUTPUT, problem)
