"""What a finished run prints: tables and answer, its summary as JSON, the answer alone, or LaTeX."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from harness.config.fields import Tables
from harness.report.tables import Table
from harness.runs.store import RunDirectory


class Report(Protocol):
    """A run's or a sweep's document."""

    @property
    def answer(self) -> str: ...
    def tables_for(self, tables: Tables) -> list[Table]: ...
    def screen_summary(self, tables: Tables = "summary") -> str: ...


@dataclass(frozen=True)
class Screen:
    """What is wanted on stdout."""

    tables: Tables = "summary"
    print_json: bool = False
    quiet: bool = False
    latex: bool = False

    def format(self, report: Report, files: RunDirectory) -> str:
        """The text to print, once the report's files are written."""
        if self.print_json:
            return files.summary_path.read_text(encoding="utf-8").rstrip()
        if self.latex:
            return "\n\n".join(table.latex() for table in report.tables_for(self.tables))
        if self.quiet:
            return report.answer
        return f"{report.screen_summary(self.tables)}\n\nreport: {files.page_path}"
