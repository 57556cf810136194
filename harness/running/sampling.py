"""What all experiments that sample series share: the time they have, clocks, and keeping what they get."""

from __future__ import annotations

from collections.abc import Callable

from harness import device
from harness.analysis import stats
from harness.config import Common
from harness.measure import clocks, timers
from harness.measure.budget import MIN_ROUNDS, Budget
from harness.measure.sampler import Series, sample
from harness.running.recorder import Recorder

OVERRUN = 1.1  # times --max-seconds: from here on it is said what sampling took


class Sampling:
    """Samples series within the configured time and keeps what they give."""

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

    def budget(self, series: int, share: float, min_rounds: int = MIN_ROUNDS) -> Budget:
        """That share of the time, for so many series, each of which takes `min_rounds` at least."""
        self.budgets.append(Budget(share * self.seconds, series, self.config.repeats, min_rounds))
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
        """Sample any series; what it gave is on disk when this returns, also on Ctrl-C."""
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

    def note_limits(self, launch_bound: int) -> None:
        """Say what cut the sampling short, if anything did, and what the host may have held up."""
        rounds = [budget.least_rounds for budget in self.budgets if budget.least_rounds is not None]
        fewest = min(rounds, default=None)
        with self.recorder.noting() as record:
            record.fewest_samples = fewest
        if launch_bound:
            self.recorder.notice(
                f"{launch_bound} samples may hold time in which the GPU waited for the host to launch"
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
            text += f", too few for a 95% interval, which takes {stats.INTERVAL_SAMPLES}: raise --max-seconds"
        spent_s = sum(budget.spent_s for budget in self.budgets)
        if spent_s > OVERRUN * self.seconds:
            text += f"; sampling took {spent_s:.0f} s, as a series has a least number of rounds"
        self.recorder.notice(text)
