"""Traces that are tables: BurstGPT's and Azure's, a request a row, with when it came and how long it was."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from datetime import UTC, datetime

from harness import files
from harness.workloads.records import RecordError, check_length
from harness.workloads.work import WorkRequest


@dataclass(frozen=True)
class Table:
    """A kind of table, known by its header."""

    format: str
    arrival: str  # the column's name
    length: str
    columns: tuple[str, ...] = ()

    def parse(self, row: str, line: int) -> list[WorkRequest]:
        """A row's request; raises RecordError."""
        cells = _cells(row)
        if len(cells) != len(self.columns):
            raise RecordError(f"has {len(cells)} cells; the header has {len(self.columns)}")
        named = dict(zip(self.columns, cells, strict=True))
        length = named[self.length].strip()
        digits = length.removesuffix(".0")
        tokens = check_length(int(digits) if digits.isdecimal() and len(digits) < 20 else length, self.length)
        return [WorkRequest(line, input_len=tokens, arrival_s=_seconds(named[self.arrival].strip()))]


_KNOWN = (
    Table("BurstGPT trace", "Timestamp", "Request tokens"),
    Table("Azure trace", "TIMESTAMP", "ContextTokens"),
)


def find_table(header: str) -> Table | None:
    """The kind of table that begins with this line, or None."""
    columns = tuple(cell.strip() for cell in _cells(header))
    for known in _KNOWN:
        if {known.arrival, known.length} <= set(columns):
            return Table(known.format, known.arrival, known.length, columns)
    return None


def _cells(row: str) -> list[str]:
    try:
        return next(csv.reader([row]), [])
    except csv.Error:  # too long for a cell, or a quote that never ends
        return []


def _seconds(text: str) -> float:
    """Seconds since some moment, of a number of them or of a date and time; raises RecordError."""
    try:
        seconds = float(text)
    except ValueError:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise RecordError(
                f"{files.shorten(text, 40)!r}: must be seconds, or a date and time as 2023-11-16 18:15:46.68"
            ) from None
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if not math.isfinite(seconds):
        raise RecordError(f"{text}: must be finite")
    return seconds
