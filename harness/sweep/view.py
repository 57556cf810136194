"""A sweep's report: its tables on a screen, in markdown, as CSV, and a page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.analysis import stats
from harness.analysis.breakdown.rows import Breakdown
from harness.analysis.rows import ContrastRow
from harness.config.fields import Tables
from harness.report import explain
from harness.report.charts.spec import Sheet
from harness.report.document import csv_of, figures_and_tables
from harness.report.page import draw
from harness.report.page.facts import Facts
from harness.report.tables import Table, command, list_lines, wrap
from harness.runs.store import RunDirectory
from harness.runs.writing import write_atomic, write_json
from harness.sweep import between
from harness.sweep import charts as points
from harness.sweep import tables as sweep_tables
from harness.sweep.record import SweepRecord, read
from harness.sweep.summary import PointSummary, SweepSummary, summarise
from harness.sweep.tables import component
from harness.units import in_ms, pluralise

COMPONENTS = ("total", "fragmentation", "paging", "cache_write")
CSV = ("noise_floor_pct", "component", "spread_k", "ms", "ci95_ms", "pct", "ci95_pct", "verdict")


def write(directory: Path) -> SweepTables:
    """Write a sweep's summary.json, tables.md, tables.csv and report.html from its points' results so far.

    Raises FileNotFoundError if the directory holds no sweep.
    """
    record = read(directory)
    summary = summarise(record, directory)
    document = SweepTables(record, summary)
    files = RunDirectory(directory)
    write_json(files.summary_path, summary.to_json())
    write_atomic(files.tables_path, document.markdown())
    write_atomic(files.csv_path, document.csv())
    write_atomic(files.page_path, document.page())
    return document


def explain_verdicts(directory: Path) -> str:
    """Why each verdict, point by point, for a screen."""
    summary = summarise(read(directory), directory)
    evidence: dict[str, list[explain.Evidence]] = {}
    for point in summary.points:
        evidence |= explain.lists(point, point.name, between.processes_of(summary.between, point))
    return explain.screen(evidence)


@dataclass(frozen=True)
class SweepTables:
    """The tables of a sweep, for a screen and for files."""

    record: SweepRecord
    summary: SweepSummary

    @property
    def answer(self) -> str:
        """How many points came to what end."""
        return f"{self._counts()}."

    def tables_for(self, tables: Tables) -> list[Table]:
        """The tables on the screen."""
        return self._tables(full=tables == "all")

    def screen_summary(self, tables: Tables = "summary") -> str:
        """The text printed at the end of a sweep; 80 columns if at most three options vary besides the
        model, and `tables` is "summary".
        """
        shared, others = self._notices()
        notices = [f"Note: {notice}" for notice in shared]
        notices += [f"Notes on single points ({len(others)}): see tables.md"] if others else []
        shown = [table.screen() for table in self.tables_for(tables)]
        return "\n\n".join([*([wrap(notices)] if notices else []), *shown])

    def markdown(self) -> str:
        """The whole of tables.md."""
        facts = [self._counts(), *self._facts("device"), *self._versions()]
        facts.append(command(self.record.command))
        parts = [f"# Sweep of {Path(self.record.file).name}", list_lines(facts)]
        shared, others = self._notices()
        parts += [f"> {notice}" for notice in shared]
        parts += [table.markdown() for table in self._tables(full=True)]
        parts += ["## Notes on single points", list_lines(others)] if others else []
        return "\n\n".join(parts) + "\n"

    def page(self) -> str:
        """report.html of the sweep, in addition to those of its points."""
        shared, others = self._notices()
        measured = [point for point in self.summary.points if point.versions]
        device = "; ".join(dict.fromkeys(point.device for point in measured if point.device))
        versions = measured[0].versions or {} if measured else {}
        title = f"Sweep of {Path(self.record.file).name}"
        environment = [
            Facts("Device", [("name", device or "no device yet")]),
            Facts("Versions", [(name, version or "none") for name, version in versions.items()]),
            Facts("Run", [(name, value) for name, value in self._times() if value]),
        ]
        return draw(
            figures_and_tables(self._tables(full=True)),
            [Sheet("sweep", title, points.charts(self.summary.points))],
            title=f"{title}, on {device or 'no device yet'}",
            question="How much does the paged KV cache cost a prefill, point by point?",
            answer=self.answer,
            status=self.record.status,
            notices=[*shared, *others],
            environment=[facts for facts in environment if facts.values],
            typed=self.record.command,
            commit=versions.get("commit"),
        )

    def _times(self) -> list[tuple[str, str | None]]:
        record = self.record
        return [("status", record.status), ("started", record.started), ("finished", record.finished)]

    def csv(self) -> str:
        """tables.csv: a line for each point and figure; for a point without any, one that says why."""
        return csv_of([line for point in self.summary.points for line in self._csv_rows(point)])

    def _csv_rows(self, point: PointSummary) -> Iterable[dict[str, Any]]:
        about: dict[str, Any] = {"point": point.name}
        about |= {name: point.options.get(name) for name in self.summary.varies}
        about |= {"status": point.status, "reason": point.reason}
        breakdown = point.attribution
        rows = [*(_of_breakdown(breakdown) if breakdown else _of_prefill(point)), *_of_kernel(point)]
        for row in rows or [{}]:
            yield (
                about | {"engine_ms": breakdown and breakdown.engine_ms} | {key: row.get(key) for key in CSV}
            )

    def _tables(self, full: bool = False) -> list[Table]:
        title = f"Sweep of {Path(self.record.file).name}: {self._counts()}"
        return sweep_tables.tables(self.summary, title, self._facts("device"), full)

    def _counts(self) -> str:
        """The number of points by status."""
        counts = Counter(point.status for point in self.summary.points)
        count = counts.total()
        by_status = ", ".join(f"{number} {status}" for status, number in counts.items())
        return f"{pluralise(count, 'point')}, {by_status}"

    def _notices(self) -> tuple[list[str], list[str]]:
        """The runs' notices, each once: those common to all runs, and the others with their points."""
        runs = [point for point in self.summary.points if point.versions]
        about: dict[str, list[str]] = {}
        for point in runs:
            for text in point.notices:
                about.setdefault(text, []).append(point.name)
        shared = [text for text, names in about.items() if len(names) == len(runs)]
        others = [f"{', '.join(names)}: {text}" for text, names in about.items() if text not in shared]
        return shared, others

    def _facts(self, name: str) -> list[str]:
        values = dict.fromkeys(getattr(point, name) for point in self.summary.points if getattr(point, name))
        return [f"{name}: {'; '.join(values)}"] if values else []

    def _versions(self) -> list[str]:
        lines = [
            ", ".join(f"{name} {version}" for name, version in point.versions.items())
            for point in self.summary.points
            if point.versions
        ]
        return [f"versions: {versions}" for versions in dict.fromkeys(lines)]


def _of_breakdown(breakdown: Breakdown) -> Iterable[dict[str, Any]]:
    for name in COMPONENTS:
        row = component(breakdown, name)
        k = {"total": breakdown.spread_k, "fragmentation": breakdown.spread_k, "paging": 1}.get(name)
        about = {"component": name, "spread_k": k, "noise_floor_pct": breakdown.noise_floor_pct}
        yield (row.to_json() if row else {}) | about


def _of_prefill(point: PointSummary) -> Iterable[dict[str, Any]]:
    """Rows for a point without a breakdown: the prefill in one segment, and its fragmentation."""
    if not (prefill := point.prefill):
        return
    yield {"component": "prefill", "spread_k": 1, "ms": prefill.median_ms, **prefill.to_json()}
    if row := prefill.fragmentation:
        yield _in_ms(row) | {"component": "fragmentation"}


def _of_kernel(point: PointSummary) -> Iterable[dict[str, Any]]:
    for name, row in point.kernel.contrasts.items() if point.kernel else ():
        yield _in_ms(row) | {"component": f"kernel_{name}"}


def _in_ms(row: ContrastRow) -> dict[str, Any]:
    """A contrast's row from a run's summary, with a breakdown's keys."""
    bounds = stats.map_interval(row.ci95_us, in_ms)
    return row.to_json() | {"ms": row.delta_us / 1000, "ci95_ms": bounds, "pct": row.delta_pct}
