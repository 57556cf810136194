"""Rows of summaries as lines of a table, and what is doubtful about them below it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from harness.analysis import stats
from harness.analysis.rows import select
from harness.config.kernel_names import TITLES, WITHOUT_TABLE
from harness.report.tables import NONE, Line, Notes, difference, interval, ms, signed, span_pct
from harness.runs.summary import ContrastFigures, KernelTimes, PairFigures
from harness.units import pluralise

TIME_COLUMNS = ("", "warm-up ms", "average ms", "median ms", "gather ms", "total ms")  # of `time_line`
LABELS = {
    "paged": "Paged",
    "contiguous": "Contiguous",
    "fragmented": "Non-contiguous",
    "dense": "Dense",
    "compact": "Compact",
}
SHORT = {"out_of_memory": "OOM"}
DIFFERENCES = (
    "Core Diff and the differences below it are means of paired differences, round by round, outliers "
    "bounded; they are not the differences of the medians above."
)
REPAGED_SEGMENTS = re.compile(
    r", \d+ of (\d+) (?:segments|runs)"  # "runs" in older files
)  # in the reason of a cell with larger blocks than the engine's


class Explained(Protocol):
    """A row that may say why it has no figure, or a remark."""

    @property
    def reason(self) -> str | None: ...


class Ended(Explained, Protocol):
    """A row of something that was tried."""

    @property
    def status(self) -> str: ...


class Changed(Protocol):
    """A row of a difference."""

    @property
    def delta_pct(self) -> float | None: ...
    @property
    def ci95_pct(self) -> stats.Interval | None: ...


class Counted(Protocol):
    """A row of samples or pairs."""

    @property
    def n(self) -> int: ...


class Sampled(Counted, Protocol):
    """A row of samples."""

    @property
    def warnings(self) -> list[str]: ...


class TimedCell(Ended, Sampled, Protocol):
    """A row of a cell whose times are in us."""

    @property
    def kernel(self) -> str: ...
    @property
    def arm(self) -> str: ...
    @property
    def spread_k(self) -> int: ...
    @property
    def median_us(self) -> float | None: ...
    @property
    def ci95_us(self) -> stats.Interval | None: ...
    def to_json(self) -> dict[str, Any]: ...


R = TypeVar("R", bound=Sampled)


def remark(row: Ended) -> str | None:
    """A row's footnote: its status, if not ok, and its reason."""
    reason = REPAGED_SEGMENTS.sub(
        r", at most \1 segments", row.reason or ""
    )  # the same words at every spread_k
    if isinstance(row, KernelTimes) and row.median_us is not None and total_us(row) is None:
        reason = "; ".join(filter(None, [reason, "its gather was not measured, so there is no total"]))
    if row.status == "ok":
        return reason or None
    return f"{row.status}: {reason or 'no reason was recorded'}"


def most_segments(row: Ended) -> int | None:
    """The most segments that the arm can have, if a larger spread_k changes nothing; None: unlimited."""
    match = REPAGED_SEGMENTS.search(row.reason or "")
    return int(match[1]) if match else None


def needs_gather(row: KernelTimes) -> bool:
    """Whether the arm's kernel runs on gathered K and V."""
    return row.kernel in WITHOUT_TABLE and row.arm == "fragmented"


def total_us(row: KernelTimes) -> float | None:
    """Kernel and gather together, in us; None if either was not measured."""
    if row.median_us is None or not needs_gather(row):
        return row.median_us
    return None if row.gather_us is None else row.median_us + row.gather_us


def titled(kernel: str, provider: str) -> str:
    """A kernel and its provider; flash-attn's functions by what they do."""
    if kernel in TITLES:
        return f"{TITLES[kernel]} ({kernel}), {provider}"
    return f"{kernel} ({provider})"


def heading(kernel: str, row: KernelTimes, notes: Notes) -> str:
    """The same for a table, where stand-ins are labelled."""
    provider = row.provider
    if "stand-in" not in provider:
        return titled(kernel, provider)
    note = f"{provider}: replaces flash-attn on this device; its times say nothing about flash-attn's."
    return titled(kernel, f"{provider} {notes.mark(note)}")


def time_line(label: str, row: KernelTimes, notes: Notes, digits: int) -> Line:
    """warm-up, average, median, gather and total of one arm; or the status if nothing was measured."""
    if row.median_us is None:
        return status_line(label, row, notes)
    figures = (row.warmup_us, row.mean_us, row.median_us, row.gather_us, total_us(row))
    return Line(mark_if_remarked(label, row, notes), tuple(ms(figure, digits) for figure in figures))


def baseline_line(label: str, median_us: float, digits: int) -> Line:
    """The line of an arm with only a median in the summary."""
    return Line(label, ("-", "-", ms(median_us, digits), "-", ms(median_us, digits)))


def difference_line(label: str, row: PairFigures | None, digits: int) -> list[Line]:
    """A contrast's line, or none."""
    if row is None:
        return []
    text = difference(row.delta_us, row.delta_pct, digits)
    return [Line(label, text=text, interval=interval(row.ci95_pct), verdict=row.verdict)]


def change(row: Changed | None) -> str:
    """A contrast in percent with its interval, e.g. "+0.40% [+0.27, +0.46]"; "-" if there is none."""
    if row is None or row.delta_pct is None:
        return NONE
    bounds = row.ci95_pct
    return f"{signed(row.delta_pct)}%" + (f" [{signed(bounds[0])}, {signed(bounds[1])}]" if bounds else "")


def verdict(row: PairFigures | None) -> str:
    """A contrast's verdict; "-" if there is none."""
    return row.verdict if row else NONE


@dataclass(frozen=True)
class Warned:
    """A warning about the figures of one row."""

    where: str  # the row's name
    text: str  # kind and finding: "drift: the last third took 2.1% longer"

    @property
    def kind(self) -> str:
        """The part that several rows may share."""
        return self.text.partition(":")[0]


def warnings(rows: Iterable[R], name: Callable[[R], str]) -> list[Warned]:
    """All warnings of the rows."""
    return [Warned(name(row), text) for row in rows for text in row.warnings]


def group_warnings(found: Iterable[Warned]) -> list[str]:
    """A line for each kind of warning: the first in full, and where else it occurs."""
    return [_format_group(kind, *same) for kind, same in _by_kind(found).items()]


def count_warnings(found: Iterable[Warned]) -> list[str]:
    """A line for each kind of warning: how many cells have it, and the first of them."""
    return [
        f"{kind}: {pluralise(len(same), 'cell')}, {'e.g. ' * (len(same) > 1)}{same[0].where}"
        + same[0].text.removeprefix(kind)
        for kind, same in _by_kind(found).items()
    ]


def _by_kind(found: Iterable[Warned]) -> dict[str, list[Warned]]:
    kinds: dict[str, list[Warned]] = {}
    for warned in found:
        kinds.setdefault(warned.kind, []).append(warned)
    return kinds


def _format_group(kind: str, first: Warned, *others: Warned) -> str:
    places = list(dict.fromkeys(other.where for other in others))
    more = f" ({kind} also in {'; '.join(places)})" if places else ""
    return f"{first.where}: {first.text}{more}"


def warning_lines(rows: Iterable[R], name: Callable[[R], str]) -> list[str]:
    """The warnings of a table's rows, to go below it; one that all rows share names none of them."""
    timed = [row for row in rows if row.n]
    lists = [row.warnings for row in timed] if len(timed) > 1 else [[]]
    shared = [text for text in lists[0] if all(text in each for each in lists)]
    own = [warned for warned in warnings(timed, name) if warned.text not in shared]
    return [
        f"Warning: {text}" for text in group_warnings([*(Warned("all cells", text) for text in shared), *own])
    ]


def noise_floor_line(contrasts: Iterable[ContrastFigures], arm: str) -> str:
    """The most by which an arm differs from itself, by the contrasts named A/A and placebo."""
    nulls = ("A/A", "placebo")
    bounds = [row.ci95_pct for null in nulls for row in select(contrasts, contrast=null)]
    floors = [floor for each in bounds if (floor := stats.noise_floor_pct(each)) is not None]
    found = f", noise floor: {span_pct(floors)}" if floors else ": no interval; that needs 6 samples"
    return f"A/A ({arm} against itself){found}."


def mark_if_remarked(label: str, row: Ended, notes: Notes) -> str:
    """A row's label or figure, with a mark if the row has a remark."""
    text = remark(row)
    return f"{label} {notes.mark(text)}" if text else label


def status_text(row: Ended, notes: Notes, short: bool = False) -> str:
    """The text instead of a row's figures: its status, with a mark for the reason.

    Args:
        short: for a cell among others.
    """
    return mark_if_remarked(SHORT.get(row.status, row.status) if short else row.status, row, notes)


def status_line(label: str, row: Ended, notes: Notes) -> Line:
    """The line of a row without figures."""
    return Line(label, text=status_text(row, notes))


def merge_lines(lines: list[Line]) -> list[Line]:
    """Merge lines of a summary that all say the same."""
    texts = {line.text for line in lines}
    if len(lines) < 2 or len(texts) > 1 or not lines[0].text:
        return lines
    return [Line("all", text=lines[0].text)]


def named_arm(arm: str, spread_k: int) -> str:
    """An in-engine arm's name in a table, e.g. "paged 256" for one of several, "no write"."""
    return f"paged {spread_k}" if arm == "paged" else arm.replace("_", " ")


def with_reason(shown: str, row: Explained, notes: Notes) -> str:
    """A cell, with a mark if its row has a reason: why there is no figure, or a remark."""
    return f"{shown} {notes.mark(row.reason)}" if row.reason else shown
