"""Shared by all experiments that sample series: time, clocks, and storing results."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from harness import device
from harness.analysis import stats
from harness.config import Common
from harness.measure import clocks, timers
from harness.measure.budget import MIN_ROUNDS, Budget
from harness.measure.sampler import Series, sample
from harness.running.recorder import Recorder

SECONDS_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f} of at most {total:.0f} s, {remaining} left{postfix}"
EXTRA = 0.2  # of a bounded budget's time
OVERRUN = 1.1  # times --max-seconds: above this a notice says how long sampling took


class Sampling:
    """Samples series within the configured time and stores the results."""

    def __init__(self, config: Common, recorder: Recorder) -> None:
        self.config, self.recorder = config, recorder
        self.device = device.kind()
        self.monitor = clocks.for_device(self.device)
        self.budgets: list[Budget] = []

    @property
    def seconds(self) -> float:
        """Time for all sampling."""
        assert self.config.max_seconds is not None
        return self.config.max_seconds

    def budget(
        self, series: int, share: float, min_rounds: int = MIN_ROUNDS, bounded: bool = False
    ) -> Budget:
        """A budget with that share of the time for `series` series, each of at least `min_rounds` rounds.

        Args:
            bounded: fewer where these would take more than EXTRA of that time in all.
        """
        seconds = share * self.seconds
        budget = Budget(seconds, series, self.config.repeats, min_rounds)
        budget.extra_s = EXTRA * seconds if bounded else None
        self.budgets.append(budget)
        return self.budgets[-1]

    def sample(
        self,
        series: Series,
        timer: timers.Timer,
        budget: Budget,
        seed: int,
        on_round: Callable[[], object] = lambda: None,
        weight: int = 1,
    ) -> None:
        """Sample a series; its results are on disk when this returns, also on Ctrl-C."""
        try:
            sample(
                series,
                timer,
                budget,
                seed,
                on_round,
                weight=weight,
                monitor=self.monitor,
                precision_pct=self.config.precision,
            )
        finally:
            self.recorder.keep(series)

    @contextmanager
    def rounds_bar(self, name: str, budget: Budget, weight: int = 1) -> Iterator[Callable[[], None]]:
        """A bar of the seconds that a series takes; call what this yields after every round."""
        share_s, start, rounds = budget.share(weight), time.perf_counter(), 0
        with self.recorder.bar(name, share_s, SECONDS_BAR) as bar:

            def on_round() -> None:
                nonlocal rounds
                rounds += 1
                elapsed_s = time.perf_counter() - start
                bar.total = max(budget.expected_s(share_s, rounds, elapsed_s), elapsed_s)
                bar.set_postfix_str(f"round {rounds}", refresh=False)
                bar.update(elapsed_s - bar.n)

            yield on_round

    def note_limits(self, launch_bound: int) -> None:
        """Add notices about whatever cut the sampling short, and about samples that the host may have
        delayed.
        """
        rounds = [budget.least_rounds for budget in self.budgets if budget.least_rounds is not None]
        fewest = min(rounds, default=None)
        with self.recorder.update_record() as record:
            record.fewest_samples = fewest
        if launch_bound:
            self.recorder.notice(
                f"{launch_bound} samples may include time in which the GPU waited for the host to launch"
            )
        if fewest is None or self.config.repeats is not None:
            return
        if not any(budget.shortened for budget in self.budgets):
            return
        text = (
            f"--max-seconds {self.seconds:g} ended some series before every interval was narrower than "
            f"{self.config.precision:g}% of its baseline; the fewest samples a cell has are {fewest}"
        )
        if fewest < stats.INTERVAL_SAMPLES:
            text += f", too few for a 95% interval, which needs {stats.INTERVAL_SAMPLES}; "
            text += "set a larger --max-seconds"
        spent_s = sum(budget.spent_s for budget in self.budgets)
        if spent_s > OVERRUN * self.seconds:
            text += f"; sampling took {spent_s:.0f} s, because every series has a minimum number of rounds"
        self.recorder.notice(text)
