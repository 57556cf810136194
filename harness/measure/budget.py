"""The time for sampling, and how many rounds of a series fit into the rest of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.analysis import stats

MIN_ROUNDS = 3
#  A series gets enough rounds for an interval if at the pace of the quickest round they take no longer than
#  this.
QUICK_S = 0.3
MAX_ROUNDS = 1000  # more samples do not help a contrast that is not precise by then


@dataclass
class Budget:
    """Seconds left for sampling, shared by the remaining series, which get what one leaves over."""

    seconds: float
    series_left: int  # a series of weight 2 counts as two
    repeats: int | None = None  # rounds requested by the user; None: precision and time decide
    min_rounds: int = MIN_ROUNDS  # even if they exceed the time
    extra_s: float | None = None  # by how much, in all; then a series gets at least one. None: by any time
    most_rounds: int = MAX_ROUNDS
    least_rounds: int | None = None  # the fewest that any series got
    shortened: bool = False  # whether time ended a series before it was precise
    spent_s: float = 0.0

    def share(self, weight: int = 1) -> float:
        """Seconds for the next series."""
        return self.seconds * weight / max(self.series_left, weight)

    def extra(self, weight: int = 1) -> float:
        """Seconds by which the next series may exceed its share."""
        return float("inf") if self.extra_s is None else self.extra_s * weight / max(self.series_left, weight)

    def rounds_left(
        self, done: int, seconds: float, round_s: float, quickest_round_s: float, weight: int = 1
    ) -> int:
        """How many more rounds a series may take after `done`, with `seconds` left; 0 or less: none.

        Args:
            round_s: what the latest round took.
            quickest_round_s: what the quickest took: the time of a round without disturbance.
        """
        if self.repeats is not None:
            return self.repeats - done
        quick = stats.INTERVAL_SAMPLES * quickest_round_s <= QUICK_S
        least = max(self.min_rounds, stats.INTERVAL_SAMPLES if quick else 0)
        round_s = max(round_s, 1e-9)
        if self.extra_s is not None:
            least = min(least, max(done + int((seconds + self.extra(weight)) / round_s), 1))
        return min(self.most_rounds - done, max(int(seconds / round_s), least - done))

    def expected_s(self, share_s: float, done: int, elapsed_s: float) -> float:
        """How long a series takes at most, as far as known after `done` rounds in `elapsed_s`."""
        if not done:
            return share_s
        if self.repeats is not None:
            return self.repeats * elapsed_s / done
        return max(share_s, self.min_rounds * elapsed_s / done)

    def end_of(self, done: int) -> str:
        """Which limit ended a series that may take no more rounds."""
        if self.repeats is not None:
            return "repeats"
        return "rounds" if done >= self.most_rounds else "time"

    def spend(self, seconds: float, weight: int, rounds: int, stopped: str | None) -> None:
        """Deduct a finished series: its time, its rounds, and what ended it."""
        if self.extra_s is not None:
            self.extra_s -= min(max(seconds - self.seconds, 0.0), self.extra_s)
        self.seconds = max(self.seconds - seconds, 0.0)
        self.spent_s += seconds
        self.series_left -= weight
        if rounds:
            self.least_rounds = min(self.least_rounds or rounds, rounds)
        self.shortened |= stopped in ("time", "rounds")

    def settle(self, copies: Sequence[Budget]) -> None:
        """Adopt the slowest of several copies of this budget that were charged for the same series."""
        slowest = min(copies, key=lambda copy: copy.seconds)
        self.seconds, self.spent_s, self.extra_s = slowest.seconds, slowest.spent_s, slowest.extra_s
        self.series_left = slowest.series_left
        rounds = [copy.least_rounds for copy in copies if copy.least_rounds is not None]
        self.least_rounds = min(rounds, default=None)
        self.shortened = any(copy.shortened for copy in copies)
