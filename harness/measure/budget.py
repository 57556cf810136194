"""The time for sampling, and how many rounds of a series fit into what is left of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.analysis import stats

MIN_ROUNDS = 3
# Rounds enough for an interval are taken in any case if, each as quick as the quickest, they take no longer.
QUICK_S = 0.3
MAX_ROUNDS = 1000  # a contrast that is not precise by then has other troubles than too few samples


@dataclass
class Budget:
    """Seconds left for sampling, shared by the series still to come: what one leaves, they get."""

    seconds: float
    series_left: int  # a series of weight 2 counts as two
    repeats: int | None = None  # rounds asked for by the user; None: as precision and time decide
    min_rounds: int = MIN_ROUNDS  # even where they take longer than there is time for
    most_rounds: int = MAX_ROUNDS
    least_rounds: int | None = None  # the fewest that any series got
    shortened: bool = False  # whether time ended a series before it was precise
    spent_s: float = 0.0

    def share(self, weight: int = 1) -> float:
        """Seconds for the next series."""
        return self.seconds * weight / max(self.series_left, weight)

    def rounds_left(self, done: int, seconds: float, round_s: float, quickest_round_s: float) -> int:
        """How many more rounds a series may take that has `done` and `seconds` left; 0 or less: none.

        Args:
            round_s: what the latest round took.
            quickest_round_s: what the quickest took, as every round would if nothing held it up.
        """
        if self.repeats is not None:
            return self.repeats - done
        quick = stats.INTERVAL_SAMPLES * quickest_round_s <= QUICK_S
        least = max(self.min_rounds, stats.INTERVAL_SAMPLES if quick else 0)
        fitting = int(seconds / max(round_s, 1e-9))
        return min(self.most_rounds - done, max(fitting, least - done))

    def end_of(self, done: int) -> str:
        """Which limit a series has met that may take no more rounds."""
        if self.repeats is not None:
            return "repeats"
        return "rounds" if done >= self.most_rounds else "time"

    def spend(self, seconds: float, weight: int, rounds: int, stopped: str | None) -> None:
        """Take a finished series off the account: what it took, its rounds, and what ended it."""
        self.seconds = max(self.seconds - seconds, 0.0)
        self.spent_s += seconds
        self.series_left -= weight
        if rounds:
            self.least_rounds = min(self.least_rounds or rounds, rounds)
        self.shortened |= stopped in ("time", "rounds")

    def settle(self, copies: Sequence[Budget]) -> None:
        """Become what copies of this budget came to, each of which paid for the same series: the slowest."""
        slowest = min(copies, key=lambda copy: copy.seconds)
        self.seconds, self.spent_s = slowest.seconds, slowest.spent_s
        self.series_left = slowest.series_left
        rounds = [copy.least_rounds for copy in copies if copy.least_rounds is not None]
        self.least_rounds = min(rounds, default=None)
        self.shortened = any(copy.shortened for copy in copies)
