"""A series' progress: batches of rounds, which of them were throttled, and how precise the contrasts are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from harness.analysis import stats
from harness.measure.clocks import ClockReading

BACK_OFF_S = 0.05
LONGEST_BACK_OFF_S = 1.0
MAX_THROTTLED = 4

# Stopping as soon as an interval happens to be narrow makes too many intervals miss the truth: checked
# after every round, 6 to 9% of 95% intervals do; from 20 rounds on in steps of 20, 5 to 6% (simulated).
CHECK_STEP = 20
CHECK_GROWTH = 1.25


@dataclass
class RoundBatch:
    """Rounds taken without a break."""

    samples: dict[int, list[float]] = field(default_factory=dict)  # in us, by index of the series' result
    rounds: int = 0
    clock_mhz: int | None = None  # SM clock right after it
    clocks_mhz: dict[int, list[int]] = field(
        default_factory=dict
    )  # after each sample, if its timer reads them
    reading: ClockReading | None = None  # everything read then
    throttled_by: tuple[str, ...] = ()  # before or after it


class RoundBatches:
    """The batches of one series, in the order in which they were taken."""

    def __init__(self) -> None:
        self.all: list[RoundBatch] = []
        self._throttled_in_a_row = 0

    def start(self) -> RoundBatch:
        """Start a batch; it stays in the list even if it is cut short."""
        self.all.append(RoundBatch())
        return self.all[-1]

    def judge(self, batch: RoundBatch) -> float | None:
        """Count a finished batch; returns the seconds to wait before the next if it was throttled, else
        None.
        """
        if not batch.throttled_by:
            self._throttled_in_a_row = 0
            return None
        self._throttled_in_a_row += 1
        return float(min(BACK_OFF_S * 2 ** (self._throttled_in_a_row - 1), LONGEST_BACK_OFF_S))

    def too_many_throttled(self) -> bool:
        """At least MAX_THROTTLED and over half of all: waiting does not help."""
        throttled = sum(bool(batch.throttled_by) for batch in self.all)
        return throttled >= MAX_THROTTLED and throttled > len(self.all) / 2

    def why_throttled(self) -> str:
        """The count of throttled batches and each reason once."""
        throttled = [batch for batch in self.all if batch.throttled_by]
        names = dict.fromkeys(name for batch in throttled for name in batch.throttled_by)
        return (
            f"the GPU was throttled in {len(throttled)} of {len(self.all)} batches of rounds: "
            f"{', '.join(names)}"
        )

    def valid(self) -> list[RoundBatch]:
        """The batches that count: all if too many were throttled, else those that were not."""
        if self.too_many_throttled():
            return self.all
        return [batch for batch in self.all if not batch.throttled_by]

    def rounds(self) -> int:
        """Rounds in the batches that count."""
        return sum(batch.rounds for batch in self.valid())

    def samples(self, n: int) -> list[float]:
        """The n-th result's samples, in us, of the batches that count."""
        return [time for batch in self.valid() for time in batch.samples.get(n, ())]

    def clocks(self, n: int) -> list[int]:
        """SM clocks in MHz, of the batches that count: after each of the n-th result's samples where they are
        known, else after each batch.
        """
        if of_samples := [mhz for batch in self.valid() for mhz in batch.clocks_mhz.get(n, ())]:
            return of_samples
        return [batch.clock_mhz for batch in self.valid() if batch.clock_mhz is not None]


class PrecisionCheck:
    """Checks whether contrasts are precise enough; seldom, because checks take time and bias intervals."""

    def __init__(self, pairs: Sequence[tuple[int, int]], precision_pct: float) -> None:
        self.pairs, self.precision_pct = list(pairs), precision_pct
        self._next = CHECK_STEP

    def is_met(self, batches: RoundBatches, ready: Iterable[int]) -> bool:
        """Whether every contrast between ready arms, or without contrasts every ready arm, has a narrow
        interval.
        """
        rounds = batches.rounds()
        if rounds < self._next:
            return False
        self._next = max(rounds + CHECK_STEP, int(CHECK_GROWTH * rounds))
        samples = {n: batches.samples(n) for n in ready}
        pairs = [pair for pair in self.pairs if samples.keys() >= set(pair)]
        if not pairs:
            medians = map(stats.median_interval, samples.values())
            return all(self._narrow(difference.ci95, difference.median) for difference in medians)
        for pair in pairs:
            difference = stats.paired_difference(*stats.pull_in([samples[n] for n in pair]))
            if not self._narrow(difference.ci95_us, difference.baseline_us):
                self.pairs.remove(pair)
                self.pairs.insert(0, pair)  # the next check begins with the pair that failed this one
                return False
        return True

    def _narrow(self, interval: stats.Interval | None, level: float) -> bool:
        if interval is None:
            return False
        low, high = interval
        return high - low <= self.precision_pct / 100 * level
