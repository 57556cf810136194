"""What is read of a run: its answer, its tables, what is doubtful; for the screen, tables.md and tables.csv.

Every experiment's view makes one of these, and `page` draws it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from harness.report.charts.spec import BlockMap
from harness.report.rows import Warned, fold
from harness.report.tables import Table, facts, listed, wrapped
from harness.runs.schema import RunRecord, Stored

Fields = Mapping[str, Any]  # of a row, by name
NOTHING = "nothing was measured"
MOST_NAMED = 3  # cells of one kind of warning that the screen names


@dataclass(frozen=True)
class Album:
    """Block tables of one layout, for the page alone."""

    title: str
    pictures: Sequence[BlockMap]
    rest: str  # how many requests have no picture, in words; "" if all have one


@dataclass(frozen=True)
class Part:
    """A part of a document, which is a section of its page."""

    name: str  # of the section's anchor
    heading: str
    tables: Sequence[Table] = ()
    details: Sequence[Table] = ()  # folded away on the page, ahead of `tables` in tables.md
    ending: Sequence[Table] | None = None  # on the screen in place of `tables`
    sheets: Sequence[str] | None = ()  # names of the charts, ahead of the tables on the page; None: all
    albums: Sequence[Album] = ()
    note: str = ""  # ahead of the charts
    nothing: str = ""  # in place of charts, where there are none


def figures_and_tables(tables: Sequence[Table], details: Sequence[Table] = ()) -> list[Part]:
    """The parts of an experiment that has one subject.

    Args:
        details: tables that were on the screen while the run went on.
    """
    figures = Part("figures", "Figures", sheets=None, nothing="Nothing was measured.")
    return [figures, Part("tables", "Tables and their verdicts", tables, details)]


@dataclass(frozen=True)
class Document:
    """A run, finished or not, for its readers."""

    record: RunRecord
    title: str  # one line: what was measured, without the device
    answer: str  # one sentence, also of a run that has measured nothing
    parts: Sequence[Part]  # what matters most first
    rows: Sequence[Fields]  # flat, one a measured cell: tables.csv
    warnings: Sequence[Warned] = ()
    columns: Sequence[str] = ()  # of the rows, where there may be none

    @property
    def heading(self) -> str:
        """The title, and on what."""
        return f"{self.title}, on {self.record.device.name}"

    def screen_summary(self) -> str:
        """The end of a run, 80 columns wide: what matters most is what is read last, at the prompt."""
        shown = [part.tables if part.ending is None else part.ending for part in reversed(self.parts)]
        tables = [table.screen() for tables in shown for table in tables] or [NOTHING]
        notes = [f"Note: {notice}" for notice in self.record.notices]
        notes += [f"Warning: {text}" for text in fold(self.warnings, MOST_NAMED)]
        return "\n\n".join(filter(None, [*tables, wrapped(notes), wrapped([self.answer])]))

    def markdown(self) -> str:
        """The whole of tables.md."""
        blocks = [f"# {self.heading}", *(f"> {notice}" for notice in self.record.notices)]
        blocks += [f"**{self.answer}**", listed(facts(self.record))]
        tables = [table for part in self.parts for table in (*part.details, *part.tables)]
        blocks += [table.markdown() for table in tables] or [NOTHING]
        if self.warnings:
            blocks += ["## Warnings", listed(fold(self.warnings))]
        return "\n\n".join(blocks) + "\n"

    def csv(self) -> str:
        """The whole of tables.csv; an interval is two columns."""
        return csv_of(self.rows, self.columns)


def csv_rows(rows: Iterable[Stored]) -> list[Fields]:
    """Rows of a summary for tables.csv."""
    return [row.to_json() for row in rows]


def csv_of(rows: Sequence[Fields], columns: Sequence[str] = ()) -> str:
    """Rows in one tidy table; an interval is two columns.

    Args:
        columns: of the table, where there may be no row to tell them.
    """
    names = [*_flat(dict.fromkeys(columns))] or None
    # As objects: a column of counts and gaps would else become one of floats.
    csv: str = pd.DataFrame([_flat(row) for row in rows], columns=names, dtype=object).to_csv(index=False)
    return csv


def _flat(row: Fields) -> dict[str, Any]:
    """Intervals as two columns, lists as text, numbers with four decimals."""
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if name.startswith("ci95_"):
            unit = name.removeprefix("ci95_")
            flat[f"ci95_low_{unit}"], flat[f"ci95_high_{unit}"] = value or (None, None)
        else:
            flat[name] = "; ".join(map(str, value)) if isinstance(value, list) else value
    return {name: _rounded(value) for name, value in flat.items()}


def _rounded(value: object) -> object:
    return float(np.round(value, 4)) if isinstance(value, float) else value
