"""The interleaving sampler: all arms of a series in every round, in a new random order each time."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from harness.measure.timers import Step, Timer
from harness.record import Result, Status, status_of

MIN_ROUNDS = 3
MAX_ROUNDS = 50
WARMUP_ROUNDS = 2


@dataclass
class Series:
    """What is sampled together. `results` and `steps` have the same order; a result without a step
    could not be made ready and keeps the reason why."""

    results: list[Result]
    steps: list[Step | None]
    failed: set[int] = field(default_factory=set)

    def ready(self) -> list[int]:
        """Indices of the arms that can still be timed."""
        return [n for n, step in enumerate(self.steps) if step is not None and n not in self.failed]


@dataclass
class Budget:
    """Seconds left for sampling, shared evenly by the series still to come."""

    seconds: float
    series_left: int
    repeats: int | None = None  # rounds asked for by the user; None: as many as fit
    most_rounds: int = MAX_ROUNDS
    least_rounds: int | None = None  # the fewest that any series got

    def rounds(self, seconds_per_round: float) -> int:
        """How many rounds the next series gets."""
        if self.repeats is not None:
            count = self.repeats
        else:
            share = self.seconds / max(self.series_left, 1)
            count = max(MIN_ROUNDS, min(self.most_rounds, int(share / max(seconds_per_round, 1e-9))))
        self.least_rounds = min(self.least_rounds or count, count)
        return count

    @property
    def shortened(self) -> bool:
        """Whether a series got fewer rounds than it would with enough time."""
        return self.least_rounds is not None and self.least_rounds < self.most_rounds

    def spend(self, seconds: float) -> None:
        """Take a finished series off the account."""
        self.seconds = max(self.seconds - seconds, 0.0)
        self.series_left -= 1


def sample(
    series: Series,
    timer: Timer,
    budget: Budget,
    seed: int,
    on_round: Callable[[], object] = lambda: None,
) -> list[Result]:
    """Warm up, then time every ready arm once a round, and return the series' results with samples.

    An arm that fails drops out with its reason; the others go on. On KeyboardInterrupt the results so
    far are marked interrupted and kept by the caller through `series.results`.

    Args:
        seed: of the rounds' random orders.
        on_round: called after every timed round.
    """
    began = time.perf_counter()
    order = random.Random(seed)
    warmup_s = 0.0
    try:
        for _ in range(WARMUP_ROUNDS):
            start = time.perf_counter()
            _round(series, timer, order, warming=True)
            warmup_s = time.perf_counter() - start
        for _ in range(budget.rounds(warmup_s)):
            _round(series, timer, order, warming=False)
            on_round()
    except KeyboardInterrupt:
        for n in series.ready():
            series.results[n] = replace(
                series.results[n], status=Status.INTERRUPTED, reason="interrupted by the user"
            )
        raise
    budget.spend(time.perf_counter() - began)
    return series.results


def _round(series: Series, timer: Timer, order: random.Random, warming: bool) -> None:
    """One sample of each ready arm; arms that fail are taken out and the round is done again."""
    while ready := series.ready():
        order.shuffle(ready)
        steps = [step for n in ready if (step := series.steps[n])]
        try:
            times = timer.time_round(steps)
        except Exception as error:
            if not _drop_failing(series, ready):
                raise RuntimeError("a round failed though each of its arms runs alone") from error
            continue
        for n, microseconds in zip(ready, times, strict=True):
            result = series.results[n]
            (result.warmup_us if warming else result.samples_us).append(microseconds)
        return


def _drop_failing(series: Series, ready: Sequence[int]) -> bool:
    """Run each arm alone; those that fail are out for good. Whether any was."""
    before = len(series.failed)
    for n in ready:
        step = series.steps[n]
        assert step is not None
        try:
            if step.before:
                step.before()
            step.run()
        except Exception as error:
            series.failed.add(n)
            status, reason = status_of(error)
            series.results[n] = replace(series.results[n], status=status, reason=reason)
    return len(series.failed) > before
