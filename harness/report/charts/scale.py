"""Positions along an axis, and its tick values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

ROUND_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)  # between ticks, times a power of ten
LABEL_ROOM = 0.075  # share of an axis that a label takes on a phone


@dataclass(frozen=True)
class Scale:
    """From `low` to `high`; logarithmic if `log`, with both positive."""

    low: float
    high: float
    log: bool = False

    @classmethod
    def around(cls, values: Iterable[float], margin: float = 0.08, log: bool = False) -> Scale:
        """A scale that covers the values with a margin; with `log` they must be positive."""
        held = list(values)
        low, high = min(held), max(held)
        if log:
            factor = max((high / low) ** margin, 1.1)
            return cls(low / factor, high * factor, log)
        room = margin * (high - low) or margin * abs(high) or 1.0
        return cls(low - room, high + room)

    def at(self, value: float) -> float:
        """The value's place, 0 at `low` and 1 at `high`."""
        if self.high == self.low:
            return 0.5
        low, high, value = (math.log2(x) if self.log else x for x in (self.low, self.high, value))
        return (value - low) / (high - low)

    def ticks(self, most: int = 5) -> list[float]:
        """Round numbers within the scale; at most `most` intervals between them unless it is logarithmic."""
        if self.log and len(tens := self._multiples(1, 2, 5)) > 1:
            if len(tens) < 3:
                return self._multiples(1, 1.5, 2, 3, 4, 5, 7)
            if len(tens) <= most:
                return tens
            tens = self._multiples(1, 3) if len(self._multiples(1, 3)) <= most else self._multiples(1)
            return tens[:: -(-len(tens) // (most + 1))]
        magnitude = 10.0 ** math.floor(math.log10((self.high - self.low or 1.0) / most))
        steps = [step * magnitude for step in ROUND_STEPS]
        step = next((step for step in steps if (self.high - self.low) / step <= most), steps[-1])
        numbers = range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1)
        ticks = (min(max(number * step, self.low), self.high) for number in numbers)
        return [float(f"{tick:.12g}") if tick not in (self.low, self.high) else tick for tick in ticks]

    def _multiples(self, *multiples: float) -> list[float]:
        """These multiples of the powers of ten within the scale."""
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        values = [float(f"{each}e{power}") for power in powers for each in multiples]
        return [value for value in values if self.low <= value <= self.high]

    def with_room(self, values: Iterable[float]) -> list[float]:
        """The ascending values whose labels do not overlap."""
        chosen: list[float] = []
        for value in values:
            if not chosen or self.at(value) - self.at(chosen[-1]) >= LABEL_ROOM:
                chosen.append(value)
        return chosen

    def label(self, tick: float, ticks: Sequence[float]) -> str:
        """The label of a tick."""
        return f"{tick:,.10g}" if self.log else tick_label(tick, ticks)


def tick_label(value: float, ticks: Sequence[float]) -> str:
    """A tick with enough decimals to tell it from its neighbours."""
    step = min((b - a for a, b in pairwise(ticks)), default=abs(value) or 1.0)
    digits = max(0, math.ceil(-math.log10(step) - 1e-9))
    if round(step, digits) != round(step, digits + 2):
        digits += 1
    return f"{value:,.{digits}f}" if round(value, digits) else "0"
