"""What all experiments that sample series share: the time they have, clocks, and keeping what they get."""

from __future__ import annotations

from collections.abc import Callable

from harness import device, stats
from harness.config import Common
from harness.measure import clocks, timers
from harness.measure.budget import MIN_ROUNDS, Budget
from harness.measure.sampler import Series, sample
from harness.runs.recorder import Recorder


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

    def note_limits(self, budget: Budget, launch_bound: int) -> None:
        """Say what cut the sampling short, if anything did, and what the host may have held up."""
        self.recorder.note(fewest_samples=budget.least_rounds)
        if launch_bound:
            self.recorder.notice(
                f"{launch_bound} samples may hold time in which the GPU waited for the host to launch"
            )
        if self.config.repeats is not None or not budget.shortened:
            return
        fewest = budget.least_rounds or 0
        text = (
            f"--max-seconds {self.seconds:g} ended some series before every interval was narrower than "
            f"{self.config.precision:g}% of its baseline; the fewest samples a cell has are {fewest}"
        )
        if fewest < stats.INTERVAL_SAMPLES:
            text += f", too few for a 95% interval, which takes {stats.INTERVAL_SAMPLES}: raise --max-seconds"
        elif fewest == budget.min_rounds:
            text += f", the least that are taken; all sampling took {budget.spent_s:.0f} s"
        self.recorder.notice(text)
