"""Effects over processes: those that may be claimed beside each other, and a bound on the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.analysis import pooling, stats
from harness.analysis.stats import Interval, Mean

FEWEST_POOLED = 3  # of two points the interval of their mean is wider than either's


@dataclass(frozen=True)
class Effect:
    """A difference in percent of its baseline, as the mean over a point's processes."""

    name: str
    mean: Mean
    floor: float = 0.0  # percent: the largest effect that its null arms, A/A and placebo, do not rule out

    @property
    def interval(self) -> Interval:
        """95%, by Student's t; it holds what differs between processes."""
        return self.mean.interval()

    @property
    def bound(self) -> float:
        """Below which it is, slower or faster: the interval's end that is farther from zero."""
        return max(map(abs, self.interval))

    @property
    def beyond_floor(self) -> bool:
        """Whether its whole interval is farther from zero than the noise floor."""
        low, high = self.interval
        return low > self.floor or high < -self.floor


@dataclass(frozen=True)
class Group:
    """Effects that are judged together."""

    effects: Sequence[Effect]

    @property
    def claimed(self) -> list[Effect]:
        """Those beyond their noise floor that differ from zero by Holm's procedure: in 95% of groups, all of
        them do.
        """
        level = stats.holm_level([effect.mean.test() for effect in self.effects])
        return [effect for effect in self.effects if effect.mean.test() <= level and effect.beyond_floor]

    @property
    def others(self) -> list[Effect]:
        """Those of which there is only a bound, each at 95%."""
        claimed = self.claimed
        return [effect for effect in self.effects if effect not in claimed]

    @property
    def bound(self) -> float:
        """Below which each of the others is, at 95% each."""
        return max(effect.bound for effect in self.others)

    @property
    def pooled(self) -> Effect | None:
        """Their mean over points; None of fewer than three."""
        if len(self.effects) < FEWEST_POOLED:
            return None
        mean = pooling.pool([effect.mean for effect in self.effects])
        return Effect(f"mean of {len(self.effects)} points", mean)
