"""What the experiments that replay attention calls share: timer, time, series, and what is left to do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import torch

from harness import arms, device
from harness.capture import AttentionCall
from harness.config import RunConfig
from harness.measure import ceilings, clocks, timers
from harness.measure.sampler import WARMUP_ROUNDS, Budget, Series, sample
from harness.record import Status, series_name
from harness.recorder import Recorder
from harness.replay import Replay

# By spread_k: calls to replay, and whether random Q, K and V go with each.
Todo = dict[int, list[tuple[AttentionCall, bool]]]

SAMPLED_LAYERS = 3


class Replaying:
    """Samples series within the configured time and keeps what they give."""

    def __init__(self, config: RunConfig, recorder: Recorder) -> None:
        self.config, self.recorder = config, recorder
        self.device = device.kind()
        self.timer = timers.for_device(self.device, config.timer, config.l2)
        self.monitor = clocks.for_device(self.device)
        self.replay = Replay(self.device, config.gap, config.run_sizes, config.seed)
        self.budgets: list[Budget] = []
        recorder.note(timer=self.timer.name)
        if "ceilings" not in recorder.record:
            recorder.note(ceilings=self._ceilings())

    @property
    def seconds(self) -> float:
        """Time for all sampling."""
        assert self.config.max_seconds is not None
        return self.config.max_seconds

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

    def budget(self, series: int, share: float) -> Budget:
        """That share of the time, for so many series."""
        self.budgets.append(Budget(share * self.seconds, series, self.config.repeats))
        return self.budgets[-1]

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

    def sample(
        self,
        series: Series,
        timer: timers.Timer,
        budget: Budget,
        seed: int,
        on_round: Callable[[], object] = lambda: None,
        weight: int = 1,
        least_warmup: int = WARMUP_ROUNDS,
    ) -> None:
        """Sample any series; what it gave is on disk when this returns, also on Ctrl-C."""
        try:
            sample(
                series,
                timer,
                budget,
                seed,
                on_round,
                weight=weight,
                least_warmup=least_warmup,
                monitor=self.monitor,
                precision_pct=self.config.precision,
            )
        finally:
            self.recorder.keep(series)

    def note_limits(self, budget: Budget) -> None:
        """Say what cut the replay short, if anything did."""
        self.recorder.note(fewest_samples=budget.least_rounds)
        if late := getattr(self.timer, "launch_bound", 0):
            self.recorder.notice(
                f"{late} samples may hold time in which the GPU waited for the host to launch"
            )
        if self.config.repeats is None and budget.shortened:
            self.recorder.notice(
                f"--max-seconds {self.seconds:g} ended some series before every interval was narrower "
                f"than {self.config.precision:g}% of its baseline; the fewest samples a cell has are "
                f"{budget.least_rounds}"
            )

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
