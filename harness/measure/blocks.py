"""What a series has so far: blocks of rounds, the throttled ones among them, and how precise that is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from harness.analysis import stats
from harness.measure.clocks import ClockReading

BACK_OFF_S = 0.05
LONGEST_BACK_OFF_S = 1.0
MAX_THROTTLED = 4

# To stop as soon as an interval happens to be narrow makes too many intervals miss the truth: looked at
# after every round, 6 to 9% of 95% intervals do; from 20 rounds on in steps of 20, 5 to 6% (simulated).
CHECK_STEP = 20
CHECK_GROWTH = 1.25


@dataclass
class Block:
    """Rounds taken in one go."""

    samples: dict[int, list[float]] = field(default_factory=dict)  # in us, by index of the series' result
    rounds: int = 0
    clock_mhz: int | None = None  # SM clock right after it
    reading: ClockReading | None = None  # all that was read then
    throttled_by: tuple[str, ...] = ()  # before or after it


class Blocks:
    """The blocks of one series, in the order in which they were taken."""

    def __init__(self) -> None:
        self.all: list[Block] = []
        self._throttled_in_a_row = 0

    def start(self) -> Block:
        """A new block, kept from now on, also if it is cut short."""
        self.all.append(Block())
        return self.all[-1]

    def judge(self, block: Block) -> float | None:
        """Count a finished block; the seconds to wait for before the next if it was throttled, else None."""
        if not block.throttled_by:
            self._throttled_in_a_row = 0
            return None
        self._throttled_in_a_row += 1
        return float(min(BACK_OFF_S * 2 ** (self._throttled_in_a_row - 1), LONGEST_BACK_OFF_S))

    def too_many_throttled(self) -> bool:
        """At least MAX_THROTTLED and over half of all: waiting does not help here."""
        throttled = sum(bool(block.throttled_by) for block in self.all)
        return throttled >= MAX_THROTTLED and throttled > len(self.all) / 2

    def why_throttled(self) -> str:
        """The count of throttled blocks and each reason once."""
        throttled = [block for block in self.all if block.throttled_by]
        names = dict.fromkeys(name for block in throttled for name in block.throttled_by)
        return f"the GPU was throttled in {len(throttled)} of {len(self.all)} blocks: {', '.join(names)}"

    def kept(self) -> list[Block]:
        """The blocks that count: all if too many were throttled, else those that were not."""
        if self.too_many_throttled():
            return self.all
        return [block for block in self.all if not block.throttled_by]

    def rounds(self) -> int:
        """Rounds in the blocks that count."""
        return sum(block.rounds for block in self.kept())

    def samples(self, n: int) -> list[float]:
        """The n-th result's samples, in us, of the blocks that count."""
        return [time for block in self.kept() for time in block.samples.get(n, ())]

    def clocks(self) -> list[int]:
        """SM clocks in MHz, of the blocks that count."""
        return [block.clock_mhz for block in self.kept() if block.clock_mhz is not None]


class PrecisionCheck:
    """Whether contrasts are precise enough, looked at seldom: the look is what costs and what biases."""

    def __init__(self, pairs: Sequence[tuple[int, int]], precision_pct: float) -> None:
        self.pairs, self.precision_pct = list(pairs), precision_pct
        self._next = CHECK_STEP

    def passed(self, blocks: Blocks, ready: Iterable[int]) -> bool:
        """Every contrast between ready arms has a narrow interval; without contrasts, every ready arm has."""
        rounds = blocks.rounds()
        if rounds < self._next:
            return False
        self._next = max(rounds + CHECK_STEP, int(CHECK_GROWTH * rounds))
        samples = {n: blocks.samples(n) for n in ready}
        pairs = [pair for pair in self.pairs if samples.keys() >= set(pair)]
        if not pairs:
            medians = map(stats.median_interval, samples.values())
            return all(self._narrow(found.ci95, found.median) for found in medians)
        for pair in pairs:
            found = stats.paired_difference(*(samples[n] for n in pair))
            if not self._narrow(found.ci95_us, found.baseline_us):
                self.pairs.remove(pair)
                self.pairs.insert(0, pair)  # the next look begins with what failed this one
                return False
        return True

    def _narrow(self, interval: stats.Interval | None, level: float) -> bool:
        if interval is None:
            return False
        low, high = interval
        return high - low <= self.precision_pct / 100 * level
