"""A companion experiment's tables, with what every reader of them must know around them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from harness.report import tables as text
from harness.report.rows import Row
from harness.report.tables import Table, listed


@dataclass(frozen=True)
class Companion:
    """The tables of a run and its rows."""

    record: Row
    title: str  # one line: what was measured, without the device
    tables: Sequence[Table]
    rows: Sequence[Row]  # flat, one a measured cell: tables.csv
    details: Sequence[Table] = ()  # in tables.md only, ahead of the others: the screen had them already

    def screen_summary(self) -> str:
        """The run's notices and all tables, 80 columns wide."""
        notices = text.wrapped([f"Note: {notice}" for notice in self.record["notices"]])
        tables = [table.screen() for table in self.tables] or ["nothing was measured"]
        return "\n\n".join(part for part in (notices, *tables) if part)

    def markdown(self) -> str:
        """The whole of tables.md."""
        parts = [f"# {self.title}, on {self.record['device']['name']}"]
        parts += [f"> {notice}" for notice in self.record["notices"]]
        parts += [listed(text.facts(self.record))]
        parts += [table.markdown() for table in (*self.details, *self.tables)] or ["nothing was measured"]
        return "\n\n".join(parts) + "\n"

    def csv(self) -> str:
        """The rows in one tidy table; an interval is two columns."""
        return csv_of(self.rows)


def csv_of(rows: Sequence[Row]) -> str:
    """Rows in one tidy table; an interval is two columns."""
    # As objects: a column of counts and gaps would else become one of floats.
    csv: str = pd.DataFrame([_flat(row) for row in rows], dtype=object).to_csv(index=False)
    return csv


def _flat(row: Row) -> Row:
    """Intervals as two columns, lists as text, numbers with four decimals."""
    flat: Row = {}
    for name, value in row.items():
        if name.startswith("ci95_"):
            unit = name.removeprefix("ci95_")
            flat[f"ci95_low_{unit}"], flat[f"ci95_high_{unit}"] = value or (None, None)
        else:
            flat[name] = "; ".join(map(str, value)) if isinstance(value, list) else value
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in flat.items()}
