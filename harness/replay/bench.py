"""Replay on this process's device: timer, clocks, series and their sampling."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, fields, replace

import torch
from pydantic import BaseModel

from harness import device, layout
from harness.measure import ceilings, clocks, timers
from harness.measure.budget import Budget
from harness.measure.sampler import Series, sample
from harness.replay.placement import Placement
from harness.replay.series import Replay
from harness.runs.record import Status, request_series_name, series_name


@dataclass(frozen=True)
class Sampled:
    """A sampled series in a form that processes can exchange, and the budget after it."""

    series: Series  # without steps
    budget: Budget
    interrupted: bool = False  # by Ctrl-C; the series holds what was sampled up to then


@dataclass(frozen=True)
class Equipment:
    """The equipment that a process measures with."""

    timer: str
    # Figures, the reason why there are none, or None: not requested.
    ceilings: dict[str, float | None] | str | None


@dataclass(frozen=True)
class ReplaySpec:
    """How calls are replayed; names are the options'."""

    timer: str
    l2: timers.L2 | None
    gap: layout.Gap
    segment_sizes: layout.Sizes
    seed: int
    precision: float

    @classmethod
    def of(cls, options: BaseModel) -> ReplaySpec:
        """From an experiment's resolved options."""
        return cls(**{each.name: getattr(options, each.name) for each in fields(cls)})


class Bench:
    """Samples series according to a ReplaySpec."""

    def __init__(self, spec: ReplaySpec, rank: int | None = None, gpu: int = 0) -> None:
        """
        Args:
            rank: whose results these are; None: there is one rank only.
            gpu: index of this process's device among those that CUDA may use.
        """
        self.spec, self.rank = spec, rank
        self.device = device.kind()
        self.timer = timers.for_device(self.device, spec.timer, spec.l2)
        self.monitor = clocks.for_device(self.device, gpu)
        self.replay = Replay(self.device, spec.gap, spec.segment_sizes, spec.seed)

    @property
    def launch_bound(self) -> int:
        """Number of samples that may include time in which the GPU waited for the host."""
        return int(getattr(self.timer, "launch_bound", 0))

    def equipment(self, with_ceilings: bool) -> Equipment:
        """This process's equipment."""
        return Equipment(self.timer.name, self._ceilings() if with_ceilings else None)

    def _ceilings(self) -> dict[str, float | None] | str:
        """The device's ceilings, or why they could not be measured."""
        try:
            return asdict(ceilings.measure(self.device, self.monitor))
        except Exception as error:  # a secondary figure, not worth failing the run
            return str(error)
        finally:
            if self.device == "cuda":
                torch.cuda.empty_cache()

    def round_s(self, place: Placement) -> float:
        """Seconds that one round of a series takes, without random inputs."""
        series = self.replay.series(place, with_synthetic=False)
        start = time.perf_counter()
        self.timer.time_round([step for step in series.steps if step])
        return time.perf_counter() - start

    def measure(self, place: Placement, with_synthetic: bool, budget: Budget, problem: str | None) -> Sampled:
        """Sample the series of one call at one spread_k; `budget` is unchanged; the result has a copy that
        was charged.

        Args:
            problem: what was wrong with the fragmented prefill, whose arms are then reported, not timed.
        """
        series = self.replay.series(place, with_synthetic)
        name = series_name(place.spread_k, place.call.layer, self.rank)
        seed = self.spec.seed + place.call.layer
        return self._sample(series, name, budget, problem, seed, 1 + with_synthetic)

    def measure_request(self, place: Placement, index: int, budget: Budget, problem: str | None) -> Sampled:
        """The same for the engine's kernel on one request of the call alone.

        Args:
            index: of the request.
        """
        series = self.replay.request_series(place, index)
        name = request_series_name(place.spread_k, place.call.layer, index, self.rank)
        return self._sample(series, name, budget, problem, self.spec.seed + index, 1)

    def _sample(
        self, series: Series, name: str, budget: Budget, problem: str | None, seed: int, weight: int
    ) -> Sampled:
        budget, interrupted = replace(budget), False
        self._sign(series, name)
        if problem:
            _mark_wrong(series, problem)
        try:
            sample(
                series,
                self.timer,
                budget,
                seed,
                weight=weight,
                monitor=self.monitor,
                precision_pct=self.spec.precision,
            )
        except KeyboardInterrupt:
            interrupted = True
        without_steps = Series(series.results, [None] * len(series.results), batches=series.batches)
        return Sampled(without_steps, budget, interrupted)

    def _sign(self, series: Series, name: str) -> None:
        """Set the results' rank."""
        series.results[:] = [
            replace(result, cell=replace(result.cell, rank=self.rank), series=name)
            for result in series.results
        ]


def _mark_wrong(series: Series, problem: str) -> None:
    """The fragmented captured arms of a prefill that went wrong are reported, not timed."""
    for n in series.ready():
        result = series.results[n]
        fragmented = result.cell.arm in ("fragmented", "paged") and not result.one_segment_for
        if fragmented and result.cell.data == "captured":
            series.fail(n, Status.WRONG_OUTPUT, problem)
