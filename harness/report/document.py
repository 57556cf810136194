"""A run's report: its answer, tables and warnings, for the screen, tables.md and tables.csv.

Every experiment's view makes one, and `page` renders it.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from harness.config.fields import Tables
from harness.report.charts.spec import BlockMap
from harness.report.rows import Warned, count_warnings, group_warnings
from harness.report.tables import Table, facts, list_lines, wrap
from harness.runs.schema import RunRecord
from harness.runs.stored import Stored
from harness.terminal import escape, in_one_line

Fields = Mapping[str, Any]  # of a row, by name
NOTHING = "nothing was measured"
FORMULA = ("=", "+", "-", "@")  # what a spreadsheet's formula begins with
TAG = re.compile("<(?=[A-Za-z/!?])")  # what Markdown would pass on as HTML


@dataclass(frozen=True)
class Album:
    """Block tables of one layout, only for the page."""

    title: str
    pictures: Sequence[BlockMap]
    rest: str  # a note on how many requests have no picture; "" if all have one


@dataclass(frozen=True)
class Part:
    """A part of a document, a section of its page."""

    name: str  # of the section's anchor
    heading: str
    tables: Sequence[Table] = ()
    details: Sequence[Table] = ()  # before `tables`: collapsed on the page, on the screen only if asked
    ending: Sequence[Table] | None = None  # on the screen instead of both
    sheets: Sequence[str] | None = ()  # names of the charts, before the tables on the page; None: all
    albums: Sequence[Album] = ()
    note: str = ""  # before the charts
    nothing: str = ""  # text shown if there are no charts

    def on_screen(self, tables: Tables) -> list[Table]:
        """Its tables on the screen."""
        if self.ending is not None:
            return [*self.ending]
        return [*(self.details if tables == "all" else ()), *self.tables]


def figures_and_tables(tables: Sequence[Table], details: Sequence[Table] = ()) -> list[Part]:
    """The parts of an experiment with one subject.

    Args:
        details: a table for each spread_k, or the like.
    """
    figures = Part("figures", "Figures", sheets=None, nothing="Nothing was measured.")
    return [figures, Part("tables", "Tables and their verdicts", tables, details)]


@dataclass(frozen=True)
class Document:
    """A run, finished or not, as its readers see it."""

    record: RunRecord
    title: str  # one line: what was measured, without the device
    answer: str  # one sentence, even if the run measured nothing
    parts: Sequence[Part]  # the most important first
    rows: Sequence[Fields]  # flat, one for each measured cell: tables.csv
    warnings: Sequence[Warned] = ()
    columns: Sequence[str] = ()  # of the rows, in case there are none
    advice: Sequence[str] = ()  # what to do about it, a line each
    command: str = ""  # to copy, whole and in one line

    @property
    def heading(self) -> str:
        """The title, with the device."""
        return f"{self.title}, on {self.record.device.name}"

    def tables_for(self, tables: Tables) -> list[Table]:
        """The tables on the screen, the most important last."""
        return [table for part in reversed(self.parts) for table in part.on_screen(tables)]

    def screen_summary(self, tables: Tables = "summary") -> str:
        """The end of a run, 80 columns wide, with the most important last, above the prompt."""
        shown = [table.screen() for table in self.tables_for(tables)]
        notes = [f"Note: {notice}" for notice in self.record.notices]
        notes += [f"Warning: {text}" for text in count_warnings(self.warnings)]
        ending = wrap([self.answer, *(f"- {line}" for line in self.advice)])
        return "\n\n".join(filter(None, [*(shown or [NOTHING]), wrap(notes), ending, self.command]))

    def markdown(self) -> str:
        """The whole of tables.md."""
        blocks = [f"# {self.heading}", *(f"> {notice}" for notice in self.record.notices)]
        blocks += [f"**{self.answer}**", *([f"```\n{self.command}\n```"] if self.command else [])]
        blocks += [list_lines(facts(self.record))]
        tables = [table for part in self.parts for table in (*part.details, *part.tables)]
        blocks += [table.markdown() for table in tables] or [NOTHING]
        if self.warnings:
            blocks += ["## Warnings", list_lines(group_warnings(self.warnings))]
        return TAG.sub("&lt;", escape("\n\n".join(blocks))) + "\n"

    def csv(self) -> str:
        """The whole of tables.csv; an interval is two columns."""
        return csv_of(self.rows, self.columns)

    def frame(self) -> pd.DataFrame:
        """The rows of tables.csv, before texts are made safe for a spreadsheet."""
        return frame_of(self.rows, self.columns)


def csv_rows(rows: Iterable[Stored]) -> list[Fields]:
    """Rows of a summary for tables.csv."""
    return [row.to_json() for row in rows]


def csv_contrasts(rows: Iterable[Stored]) -> list[Fields]:
    """Differences of a summary for tables.csv, whose intervals are not those of medians."""
    names = {"ci95_us": "ci95_delta_us", "ci95_pct": "ci95_delta_pct"}
    return [
        {"stage": "contrast"} | {names.get(name, name): value for name, value in row.items()}
        for row in csv_rows(rows)
    ]


def csv_of(rows: Sequence[Fields], columns: Sequence[str] = ()) -> str:
    """Rows as the text of one tidy table, as `frame_of` has it; a frame of many rows is slow."""
    names = _names(rows, columns)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(names)
    for row in rows:
        flat = _flat(row)
        table.writerow([_no_formula(flat.get(name)) for name in names])
    return text.getvalue()


def frame_of(rows: Sequence[Fields], columns: Sequence[str] = ()) -> pd.DataFrame:
    """Rows as one tidy table of objects; an interval is two columns.

    Args:
        columns: of the table, in case there are no rows.
    """
    # As objects; otherwise a column of counts with gaps would become floats.
    return pd.DataFrame([_flat(row) for row in rows], columns=_names(rows, columns), dtype=object)


def _names(rows: Sequence[Fields], columns: Sequence[str]) -> list[str]:
    """Of the table's columns."""
    return [*_flat(dict.fromkeys(columns))] or list(
        dict.fromkeys(name for row in rows for name in _flat(row))
    )


def to_csv(frame: pd.DataFrame) -> str:
    """A frame as CSV in which no text is a formula to a spreadsheet, nor a control character."""
    frame = frame.copy()
    for name, column in frame.items():
        if not pd.api.types.is_numeric_dtype(column):
            frame[name] = pd.Series([*map(_no_formula, column)], column.index, dtype=object)
    text: str = frame.to_csv(index=False)
    return text


def _no_formula(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = in_one_line(value)
    return f"'{text}" if text.lstrip().startswith(FORMULA) else text


def _flat(row: Fields) -> dict[str, Any]:
    """Intervals as two columns, lists as text, numbers with four decimals."""
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if name.startswith("ci95_"):
            unit = name.removeprefix("ci95_")
            flat[f"ci95_low_{unit}"], flat[f"ci95_high_{unit}"] = value or (None, None)
        else:
            flat[name] = "; ".join(map(str, value)) if isinstance(value, list) else value
    return {name: _round(value) for name, value in flat.items()}


def _round(value: object) -> object:
    """As `np.round` does it, in a tenth of its time."""
    return round(value * 1e4, 0) / 1e4 if isinstance(value, float) else value
