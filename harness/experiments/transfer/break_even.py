"""From how many segments on a gather and one copy takes less time than other ways."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from harness.analysis.rows import find, select
from harness.experiments.transfer.rows import (
    BreakEven,
    Gather,
    TransferCell,
    TransferContrast,
    groups_of,
)
from harness.experiments.transfer.ways import GATHER, PLANNED, YARDSTICK

FASTEST = "fastest"


@dataclass(frozen=True)
class Found:
    """Where the sign of a difference changes for good."""

    gather: Gather
    spread_k: float | None = None
    last_slower: int | None = None
    first_faster: int | None = None
    certain: bool = False


def locate(differences: Sequence[TransferContrast]) -> Found:
    """Where gather minus another way becomes negative, and stays so up to the largest spread_k.

    Between two measured points the difference is taken as linear in log(spread_k).

    Args:
        differences: by ascending spread_k, one each.
    """
    if not differences:
        return Found("unclear")
    slower = [n for n, row in enumerate(differences) if row.delta_us >= 0]
    if not slower:
        first = differences[0]
        return Found("always", None, None, first.spread_k, _below_zero(first))
    last = differences[slower[-1]]
    if last is differences[-1]:
        return Found("never", None, last.spread_k, None, _above_zero(last))
    first = differences[slower[-1] + 1]
    share = last.delta_us / (last.delta_us - first.delta_us)
    between = math.log(last.spread_k) + share * math.log(first.spread_k / last.spread_k)
    certain = _above_zero(last) and _below_zero(first)
    return Found("from", math.exp(between), last.spread_k, first.spread_k, certain)


def _below_zero(row: TransferContrast) -> bool:
    return row.ci95_us is not None and row.ci95_us[1] < 0


def _above_zero(row: TransferContrast) -> bool:
    return row.ci95_us is not None and row.ci95_us[0] > 0


def rows(
    cells: Iterable[TransferCell], contrasts: Sequence[TransferContrast], num_blocks: int
) -> list[BreakEven]:
    """For each direction and layout: against every way that was measured, and against the fastest of them."""
    found = []
    for group, members in groups_of(select(cells, layout=PLANNED)):
        of_group = select(contrasts, contrast="gather", layout=PLANNED, **group)
        for way in dict.fromkeys(row.baseline for row in of_group):
            found.append(_row(group, way, select(of_group, baseline=way), num_blocks))
        found.append(_row(group, FASTEST, against_fastest(members, of_group), num_blocks))
    return found


def against_fastest(
    cells: Sequence[TransferCell], contrasts: Sequence[TransferContrast]
) -> list[TransferContrast]:
    """The gather against the fastest other way, at each spread_k.

    Args:
        cells: of one direction and layout, planned or a natural one.
        contrasts: of the same, the gather against every other way.
    """
    found = []
    for spread_k in sorted({row.spread_k for row in cells}):
        others = [row for row in select(cells, spread_k=spread_k) if row.kernel not in (GATHER, YARDSTICK)]
        timed = [(row.median_us, row.kernel) for row in others if row.median_us is not None]
        if timed and (row := find(contrasts, spread_k=spread_k, baseline=min(timed)[1])):
            found.append(row)
    return found


def _row(
    group: dict[str, str], against: str, differences: Sequence[TransferContrast], num_blocks: int
) -> BreakEven:
    found = locate(sorted(differences, key=lambda row: row.spread_k))
    per_block = None if found.spread_k is None else found.spread_k / num_blocks
    fields: dict[str, Any] = {**group, **vars(found)}
    return BreakEven(against=against, segments_per_block=per_block, **fields)
