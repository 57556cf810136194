"""Chart lines of kernels' arms over spread_k, for the experiments that time kernels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from harness.config.kernel_names import Look
from harness.report.charts.spec import INK, Axis, Key, Line, Point, Tip
from harness.report.rows import most_segments, needs_gather, total_us
from harness.report.tables import ms
from harness.report.tips import MEDIAN_DIGITS, Tips, lost
from harness.runs.summary import KernelTimes, PairFigures

K = TypeVar("K", bound=KernelTimes)
DASHED_ARMS = ("fragmented", "paged")
ARM_NAMES = {"fragmented": "non-contiguous", "paged": "paged, k segments"}
ENGINE_LOOK: Look = (INK, "diamond")
OVER_SPREAD = Axis("spread_k: segments of the KV cache (log scale)", log=True, at_points=True)


def arm_key(kernel: str, arm: str, look: Look, *remarks: str) -> Key:
    """The look of a kernel's arm: colour and shape by kernel, dashes and hollow markers by arm."""
    dashed = arm in DASHED_ARMS
    name = f"{kernel}, {ARM_NAMES.get(arm, arm)}" + (f" ({'; '.join(remarks)})" if remarks else "")
    return Key(name, *look, "dashed" if dashed else "solid", hollow=dashed)


def within_limit(rows: Sequence[K]) -> list[K]:
    """An arm's rows up to the spread_k above which it has no more segments."""
    return [row for row in rows if row.spread_k <= (most_segments(row) or math.inf)] or list(rows[:1])


def arm_lines(
    rows: Sequence[K],
    looks: Mapping[str, Look],
    tips: Tips,
    paired: Callable[[K], PairFigures | None] = lambda row: None,
) -> list[Line]:
    """An arm's times over spread_k, and kernel plus gather if it needs one.

    Args:
        rows: of one kernel and arm, by ascending spread_k.
        looks: by kernel; the engine's for one that is not in it.
        paired: a row's contrast with one segment, if there is one.
    """
    if not rows:
        return []
    kernel, look = rows[0].kernel, looks.get(rows[0].kernel, ENGINE_LOOK)
    key = arm_key(kernel, rows[0].arm, look, *_remarks(rows))
    shown = within_limit(rows)
    points = [tips.point(row.spread_k, row, arm_name(row), *_rates(row), paired=paired(row)) for row in shown]
    lines = [Line(key, points)]
    if needs_gather(rows[0]):
        whole = Key(f"{kernel}, gather + kernel", look[0], "dot", "dotted")
        lines.append(Line(whole, [_with_gather(row) for row in rows]))
    return lines


def arm_name(row: KernelTimes) -> str:
    """A row's kernel, its provider, and its arm."""
    return f"{row.kernel} ({row.provider}), {row.arm}, spread_k = {row.spread_k}"


def lost_arms(rows: Sequence[KernelTimes]) -> str:
    """Which arms lack figures at which spread_k and why; an arm that failed everywhere for one reason,
    once.
    """
    by_arm: dict[str, list[KernelTimes]] = {}
    for row in rows:
        name = f"{row.kernel}, {ARM_NAMES.get(row.arm, row.arm)}"
        by_arm.setdefault(name, []).append(row)
    named: list[tuple[str, KernelTimes]] = []
    for name, of_arm in by_arm.items():
        if not any(row.n for row in of_arm) and len({row.status for row in of_arm}) == 1:
            named.append((name, of_arm[0]))
        else:
            named += [(f"{name}, spread_k = {row.spread_k}", row) for row in within_limit(of_arm)]
    return lost(named)


def _with_gather(row: KernelTimes) -> Point:
    name, total = f"{row.kernel}, gather + kernel, spread_k = {row.spread_k}", total_us(row)
    if total is None:  # each has its own mark, or the arm a warning
        return Point(row.spread_k, None)
    whole = f"{ms(total, MEDIAN_DIGITS)} ms: medians of both, added"
    return Point(row.spread_k, total / 1000, None, Tip([name, whole]))


def _rates(row: KernelTimes) -> list[str]:
    return [f"{row.tflops:.3g} TFLOP/s, {row.gbps:.3g} GB/s"] if row.tflops else []


def _remarks(rows: Sequence[KernelTimes]) -> list[str]:
    """Remarks on an arm: a stand-in, a gather left out, where its line ends."""
    row = rows[0]
    remarks = [row.provider] if "stand-in" in row.provider else []
    remarks += ["after a gather, not counted"] if needs_gather(row) else []
    limits = {limit for row in rows if (limit := most_segments(row)) and limit < row.spread_k}
    return remarks + [f"{row.block_size}-token blocks: at most {limit} segments" for limit in sorted(limits)]
