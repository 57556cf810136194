"""The interleaving sampler: all arms of a series in every round, in a new random order each time.

A series is sampled in batches of rounds with a reading of the GPU's clock in between, until its contrasts are
as precise as requested or its share of the time is spent.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from harness import interrupts
from harness.analysis.contrasts import series_pairs
from harness.measure.budget import Budget
from harness.measure.clocks import ClockMonitor, NoClocks
from harness.measure.round_batches import PrecisionCheck, RoundBatch, RoundBatches
from harness.measure.timers import Step, Timer, time_rounds
from harness.runs.record import Result, Status, status_of

PRECISION_PCT = 0.5
ENOUGH_ROUNDS = 20  # with fewer, a series that was held up may take its share of the time again
BLOCK_S = 0.05  # reading the clock takes under 1 ms

MAX_WARMUP_ROUNDS = 10
WARMUP_SHARE = 0.2  # of the series' time
STABLE_ROUNDS = 3
STABLE_WITHIN = 0.02

NO_CLOCKS = NoClocks()


@dataclass
class Series:
    """Arms sampled together. `results` and `steps` have the same order; a result without a step could not be
    prepared and has the reason.
    """

    results: list[Result]
    steps: list[Step | None]
    pairs: list[tuple[int, int]] | None = None  # indices of the contrasts' baselines and treatments; None:
    # those of the main job (harness.analysis.contrasts)
    failed: set[int] = field(default_factory=set)
    batches: list[RoundBatch] = field(default_factory=list)  # everything sampled, including discarded batches

    def ready(self) -> list[int]:
        """Indices of the arms that can still be timed."""
        return [n for n, step in enumerate(self.steps) if step is not None and n not in self.failed]

    def mark(self, status: Status, reason: str) -> None:
        """Set the status of the arms that can still be timed."""
        for n in self.ready():
            self.results[n] = replace(self.results[n], status=status, reason=reason)

    def fail(self, n: int, status: Status, reason: str) -> None:
        """Take one arm out, with a reason."""
        self.failed.add(n)
        self.results[n] = replace(self.results[n], status=status, reason=reason)


def sample(
    series: Series,
    timer: Timer,
    budget: Budget,
    seed: int,
    on_round: Callable[[], object] = lambda: None,
    *,
    weight: int = 1,
    monitor: ClockMonitor = NO_CLOCKS,
    precision_pct: float = PRECISION_PCT,
    sleep: Callable[[float], object] = time.sleep,
    now: Callable[[], float] = time.perf_counter,
) -> list[Result]:
    """Warm up, time every ready arm once a round, and return the series' results with samples.

    Warm-up: until the sums over the arms of the last three rounds lie within 2% of each other; at most 10
    rounds, and none after the first once warm-up has taken a fifth of the series' time. If all results
    already have `warmup_us`, that counts as the first round.

    End, whichever comes first; `Result.stopped` says which:
        "precision" every contrast's 95% interval is at most `precision_pct` of its baseline's median wide
        (without a contrast: every arm's, of its own median). Checked from 20 rounds on, with growing gaps.
        "time" the series' share of the budget is spent, or twice that where something held it up and it has
        fewer than 20 rounds by then; never before its `min_rounds`, nor before 6, which an interval takes,
        where these take under 0.3 s, unless the budget limits what all series together may exceed it by
        "rounds" the budget's `most_rounds` are done "repeats" the requested
        rounds are done, in which case none of the others counts

    Throttling: a batch of rounds (about 50 ms) is discarded if the GPU was throttled before or after it, and
    done again after a back-off, which doubles from 50 ms to 1 s and is part of the series' time. Once 4 or
    more batches, and over half of all, were throttled, the series ends as throttled and keeps all of them.

    An arm that fails drops out with its reason; the others continue. On KeyboardInterrupt the results so far
    are marked interrupted; the caller has them in `series.results`.

    Args:
        seed: of the rounds' random orders.
        on_round: called after every timed round, discarded ones included.
        weight: how many times an ordinary series' share this one gets, because it has more arms.
        monitor: read between batches.
        sleep, now: how to wait, and a clock, both in seconds; for simulations.
    """
    began, share_s = now(), budget.share(weight)
    runner = _Runner(series, timer, random.Random(seed), on_round, now)
    batches, stopped = RoundBatches(), None
    with interrupts.deferred():  # so that a signal comes between rounds, and each arm has as many samples
        try:
            runner.warm_up(began + WARMUP_SHARE * share_s)
            pairs = series_pairs(series.results) if series.pairs is None else series.pairs
            check = PrecisionCheck(pairs, precision_pct)
            end = began + share_s
            stopped = _take_batches(runner, batches, budget, check, monitor, sleep, share_s, end, weight)
        except KeyboardInterrupt:
            series.mark(Status.INTERRUPTED, "interrupted by the user")
            raise
        finally:
            _store(series, batches, stopped, seed)
    budget.spend(now() - began, weight, batches.rounds(), stopped)
    return series.results


def _take_batches(
    runner: _Runner,
    batches: RoundBatches,
    budget: Budget,
    check: PrecisionCheck,
    monitor: ClockMonitor,
    sleep: Callable[[float], object],
    share_s: float,
    deadline: float,
    weight: int,
) -> str | None:
    """Fill `batches` until the series ends; returns what ended it, None if it was throttled or no arm is
    left.
    """
    clock = monitor.read()
    while runner.series.ready():
        left, done = deadline - runner.now(), batches.rounds()
        if _held_up(runner, batches, share_s):
            left += min(share_s, budget.extra(weight))
        rounds = budget.rounds_left(done, left, runner.seconds_per_round, runner.quickest_round_s, weight)
        if rounds <= 0:
            return budget.end_of(done)
        batch, before = batches.start(), clock
        runner.fill(batch, rounds)
        clock = monitor.read()
        batch.clock_mhz, batch.reading = clock.sm_mhz, clock
        batch.throttled_by = tuple(dict.fromkeys(before.throttle_reasons + clock.throttle_reasons))
        back_off_s = batches.judge(batch)
        if back_off_s is not None:
            if batches.too_many_throttled():
                runner.series.mark(Status.THROTTLED, batches.why_throttled())
                return None
            left = deadline - runner.now()
            sleep(back_off_s if budget.repeats is not None else min(back_off_s, max(left, 0.0)))
            clock = monitor.read()
        elif budget.repeats is None and check.is_met(batches, runner.series.ready()):
            return "precision"
    return None


def _held_up(runner: _Runner, batches: RoundBatches, share_s: float) -> bool:
    """Whether something other than throttling used up the time of a series that had enough for
    ENOUGH_ROUNDS.
    """
    enough = batches.rounds() >= ENOUGH_ROUNDS or ENOUGH_ROUNDS * runner.quickest_round_s > share_s
    return not enough and not any(batch.throttled_by for batch in batches.all)


def _store(series: Series, batches: RoundBatches, stopped: str | None, seed: int) -> None:
    """Put the batches' samples into the results of all timed arms."""
    series.batches = batches.all
    for n, result in enumerate(series.results):
        if result.warmup_us:
            series.results[n] = replace(
                result,
                samples_us=batches.samples(n),
                clock_mhz=batches.clocks(n),
                stopped=None if n in series.failed else stopped,
                seed=seed,
            )


@dataclass
class _Runner:
    """Runs a series' rounds and knows how long one takes."""

    series: Series
    timer: Timer
    order: random.Random
    on_round: Callable[[], object]
    now: Callable[[], float]
    seconds_per_round: float = 0.0  # the latest, including everything around the timed calls
    quickest_round_s: float = float("inf")  # over all rounds, as a disturbed one says little
    raised: list[int] = field(default_factory=list)  # the arm whose call raised in the latest attempt

    def __post_init__(self) -> None:
        self.steps = {
            n: Step(self._track_arm(n, step.run)) for n, step in enumerate(self.series.steps) if step
        }

    def _track_arm(self, n: int, run: Callable[[], object]) -> Callable[[], object]:
        """Wrap `run` so that the arm is known if it raises."""

        def run_and_note() -> object:
            try:
                return run()
            except Exception:
                self.raised.append(n)
                raise

        return run_and_note

    def warm_up(self, until: float) -> None:
        """Run rounds until they are stable, see `sample`; their samples are the results' `warmup_us`."""
        sums: list[float] = []
        given = [self.series.results[n].warmup_us for n in self.series.ready()]
        if given and all(given):
            sums.append(sum(map(sum, given)))
            self._note_round_time(sums[0] / 1e6)
            until -= sums[0] / 1e6
            if self.now() >= until:
                return
        while self.series.ready() and len(sums) < MAX_WARMUP_ROUNDS:
            start = self.now()
            for times in self._rounds(1):
                for n, microseconds in times.items():
                    self.series.results[n].warmup_us.append(microseconds)
                sums.append(sum(times.values()))
            self._note_round_time(self.now() - start)
            last = sums[-STABLE_ROUNDS:]
            if len(last) == STABLE_ROUNDS and max(last) <= (1 + STABLE_WITHIN) * min(last):
                return
            if self.now() >= until:
                return

    def _note_round_time(self, seconds: float) -> None:
        self.seconds_per_round = seconds
        self.quickest_round_s = min(self.quickest_round_s, seconds)

    def fill(self, batch: RoundBatch, most: int) -> None:
        """Fill the batch with rounds for BLOCK_S, at most `most`."""
        start, together = self.now(), getattr(self.timer, "rounds_together", 1)
        while self.series.ready() and batch.rounds < most:
            for times in self._rounds(min(together, most - batch.rounds)):
                for n, microseconds in times.items():
                    batch.samples.setdefault(n, []).append(microseconds)
                for n, mhz in zip(times, getattr(self.timer, "clocks_mhz", ()), strict=False):
                    batch.clocks_mhz.setdefault(n, []).append(mhz)
                batch.rounds += 1
                self.on_round()
            if not batch.rounds:
                return
            elapsed = self.now() - start
            self._note_round_time(elapsed / batch.rounds)
            if elapsed >= BLOCK_S:
                return

    def _rounds(self, count: int) -> list[dict[int, float]]:
        """Time each ready arm once per round, in us; arms that fail are taken out and everything is
        repeated.
        """
        while ready := self.series.ready():
            interrupts.check()
            orders = [self.order.sample(ready, len(ready)) for _ in range(count)]
            rounds = [[self.steps[n] for n in order] for order in orders]
            self.raised.clear()
            try:
                times = time_rounds(self.timer, rounds)
            except Exception as error:
                if self.raised:  # once: if memory is short, the next attempt may succeed
                    self.series.fail(self.raised[0], *status_of(error))
                elif not _drop_failing(
                    self.series, ready
                ):  # they fail only together, or the timer itself fails
                    status, reason = status_of(error)
                    self.series.mark(status, f"{reason} (each arm runs alone)")
                    self.series.failed.update(ready)
                continue
            return [dict(zip(*pair, strict=True)) for pair in zip(orders, times, strict=True)]
        return []


def _drop_failing(series: Series, ready: Sequence[int]) -> bool:
    """Run each arm alone and drop those that fail for good; returns whether any did."""
    before = len(series.failed)
    for n in ready:
        step = series.steps[n]
        assert step is not None
        try:
            step.run()
        except Exception as error:
            series.fail(n, *status_of(error))
    return len(series.failed) > before
