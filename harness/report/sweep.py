"""A sweep's tables: a row a point, from its run's summary or with the reason why there is none."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from harness.report.companion import csv_of
from harness.report.page import facts, points
from harness.report.page.rendering import render
from harness.report.text import (
    NONE,
    Line,
    Notes,
    Section,
    Table,
    command,
    interval_of,
    listed,
    percent,
    wrapped,
)
from harness.runs.store import RunDirectory, write_atomic, write_json
from harness.sweep import read

Row = dict[str, Any]
Cells = Callable[[Row], tuple[str, ...]]  # of a run's account

COMPONENTS = ("total", "fragmentation", "paging", "cache_write")
PARTS = COMPONENTS[1:]
SHORT = {
    "flash_attn_version": "FA",
    "batch": "prompts",
    "block_size": "block",
    "tensor_parallel_size": "TP",
    "attention_backend": "backend",
}
NO_ACCOUNT = "no attribution in its summary: see its own tables"


def write(directory: Path) -> SweepTables:
    """Write summary.json, tables.md, tables.csv and report.html of a sweep from what its points left so far.

    Raises FileNotFoundError if the directory holds no sweep.
    """
    record = read(directory)
    summary = summarise(record, directory)
    document = SweepTables(record, summary)
    files = RunDirectory(directory)
    write_json(files.summary_path, summary)
    write_atomic(files.tables_path, document.markdown())
    write_atomic(files.csv_path, document.csv())
    write_atomic(files.page_path, document.page())
    return document


def summarise(record: Row, directory: Path) -> Row:
    """The content of the sweep's summary.json: its points, each with its run's account or None."""
    return {
        "schema_version": 1,
        "status": record["status"],
        "varies": record["varies"],
        "points": [point | _of_run(directory / point["name"]) for point in record["points"]],
    }


def _of_run(directory: Path) -> Row:
    """What is told of a point's run; an unfinished one's figures do not count."""
    facts: Row = {"device": None, "versions": None, "notices": [], "attribution": None}
    run = RunDirectory(directory)
    if not run.record_path.is_file():
        return facts
    record = run.record()
    facts |= {
        "device": record["device"]["name"],
        "versions": record["versions"],
        "notices": record["notices"],
    }
    if record["status"] == "finished" and run.summary_path.is_file():
        summary = json.loads(run.summary_path.read_text(encoding="utf-8"))
        facts["attribution"] = summary.get("attribution")
    return facts


@dataclass(frozen=True)
class SweepTables:
    """The tables of a sweep, for a screen and for files."""

    record: Row
    summary: Row

    def screen_summary(self) -> str:
        """What a sweep prints at its end; 80 columns if up to three options vary beside the model."""
        shared, others = self._notices()
        notices = [f"Note: {notice}" for notice in shared]
        notices += [f"Notes on single points ({len(others)}): see tables.md"] if others else []
        tables = [table.screen() for table in (self._whole(), self._parts())]
        return "\n\n".join([*([wrapped(notices)] if notices else []), *tables])

    def markdown(self) -> str:
        """The whole of tables.md."""
        facts = [self._counts(), *self._facts("device"), *self._versions()]
        facts.append(command(self.record))
        parts = [f"# Sweep of {Path(self.record['file']).name}", listed(facts)]
        shared, others = self._notices()
        parts += [f"> {notice}" for notice in shared]
        parts += [table.markdown() for table in (self._whole(full=True), self._parts(full=True))]
        parts += ["## Notes on single points", listed(others)] if others else []
        return "\n\n".join(parts) + "\n"

    def page(self) -> str:
        """The whole of report.html: a page of its own, beside those of its points' runs."""
        shared, others = self._notices()
        measured = [point for point in self.summary["points"] if point["versions"]]
        device = "; ".join(dict.fromkeys(point["device"] for point in measured)) or "no device yet"
        of_runs = {"device": {"name": device}, "versions": measured[0]["versions"] if measured else {}}
        figure = points.figure(self.summary["points"])
        return render(
            "companion.html.j2",
            title=f"Sweep of {Path(self.record['file']).name}, on {device}",
            question="What does the layout of the KV cache cost a prefill, point by point?",
            answer=f"{self._counts()}.",
            status=self.record["status"],
            figures=[figure] if figure else [],
            tables=[self._whole(full=True), self._parts(full=True)],
            details=[],
            **facts.closing(self.record | of_runs | {"config": {}, "notices": [*shared, *others]}, []),
        )

    def csv(self) -> str:
        """tables.csv: a line a point and component; of a point without an account a line that says why."""
        return csv_of([line for point in self.summary["points"] for line in self._csv_rows(point)])

    def _csv_rows(self, point: Row) -> Iterable[Row]:
        account = point["attribution"]
        about = {"point": point["name"], **_values(self.summary, point)}
        about |= {"status": point["status"], "reason": point["reason"]}
        keys = ("ms", "ci95_ms", "pct", "ci95_pct", "verdict")
        for component in COMPONENTS if account else (None,):
            row = _component(account, component) if component else None
            yield about | {
                "engine_ms": account and account["engine_ms"],
                "noise_floor_pct": account and account["noise_floor_pct"],
                "component": component,
                **{key: row and row[key] for key in keys},
            }

    def _whole(self, full: bool = False) -> Table:
        """What the layout costs at each point, and how fine a difference could be seen there."""
        columns = ("engine ms" + (" [95%]" if full else ""), "layout [95%]", "verdict", "noise")

        def cells(account: Row) -> tuple[str, ...]:
            total = _component(account, "total")
            floor = account["noise_floor_pct"]
            return (
                _engine(account, full),
                _share(total),
                (total and total["verdict"]) or NONE,
                NONE if floor is None else f"{floor:.2f}%",
            )

        below = [
            "engine: the prefill as vLLM runs it; layout: fragmentation, paging and cache write together, in "
            "percent of it; noise: the noise floor (A/A)."
        ]
        return self._table(
            f"Sweep of {Path(self.record['file']).name}: {self._counts()}", columns, cells, below
        )

    def _parts(self, full: bool = False) -> Table:
        """What it is made of."""
        columns = tuple(part.replace("_", " ") + (" [95%]" if full else "") for part in PARTS)

        def cells(account: Row) -> tuple[str, ...]:
            return tuple(_part(_component(account, part), full) for part in PARTS)

        below = [
            "percent of the engine's prefill. fragmentation: the largest spread_k against one run; paging: "
            "one run against dense; cache write: dense against no write."
        ]
        return self._table("What the layout's share is made of", columns, cells, below, reasons=False)

    def _table(
        self, title: str, columns: Sequence[str], cells: Cells, below: list[str], reasons: bool = True
    ) -> Table:
        """A line a point under its model, with `cells(account)` after the values of what else varies."""
        notes = Notes() if reasons else None
        groups, shared, names = _grouped(self.summary)
        sections = []
        for group in groups:
            lines = [self._line(point, names, len(columns), cells, notes) for point in group]
            sections.append(Section(_heading(group[0], shared), lines))
        below = [*(notes.lines() if notes else ()), *below]
        heads = [_short(name) for name in names]
        return Table(title, (*heads, *columns), sections, self._facts("device") if notes else [], below)

    def _line(self, point: Row, names: Sequence[str], width: int, cells: Cells, notes: Notes | None) -> Line:
        first, *others = (_shown(_value(point, name)) for name in names)
        if point["attribution"]:
            return Line(first, (*others, *cells(point["attribution"])))
        finished = point["status"] == "finished"
        reason = NO_ACCOUNT if finished else point["reason"]
        mark = notes.mark(reason) if notes and reason else ""
        told = " ".join(filter(None, ["" if finished else point["status"], mark])) or NONE
        return Line(first, (*others, told, *[NONE] * (width - 1)))

    def _counts(self) -> str:
        """How many points there are, by status."""
        counts = Counter(point["status"] for point in self.summary["points"])
        count = counts.total()
        told = ", ".join(f"{number} {status}" for status, number in counts.items())
        return f"{count} point{'s' * (count > 1)}, {told}"

    def _notices(self) -> tuple[list[str], list[str]]:
        """The runs' notices, each once: those that all runs have, and the others with their points."""
        runs = [point for point in self.summary["points"] if point["versions"]]
        about: dict[str, list[str]] = {}
        for point in runs:
            for text in point["notices"]:
                about.setdefault(text, []).append(point["name"])
        shared = [text for text, names in about.items() if len(names) == len(runs)]
        others = [f"{', '.join(names)}: {text}" for text, names in about.items() if text not in shared]
        return shared, others

    def _facts(self, name: str) -> list[str]:
        found = dict.fromkeys(point[name] for point in self.summary["points"] if point[name])
        return [f"{name}: {'; '.join(found)}"] if found else []

    def _versions(self) -> list[str]:
        told = [
            ", ".join(f"{name} {version}" for name, version in point["versions"].items())
            for point in self.summary["points"]
            if point["versions"]
        ]
        return [f"versions: {versions}" for versions in dict.fromkeys(told)]


def _grouped(summary: Row) -> tuple[list[list[Row]], list[str], list[str]]:
    """The points by model, what of that which varies is the same in each group, and what is not.

    There is but one group if nothing varies inside of several. A length and a batch, of which a point has one,
    are one thing that varies.
    """
    points, varies = summary["points"], summary["varies"]
    if "batch" in varies:
        varies = list(dict.fromkeys("batch" if name == "length" else name for name in varies))
    groups = [list(group) for _, group in groupby(points, key=lambda point: point["options"].get("model"))]
    inside = [
        name
        for name in varies
        if any(len({repr(_value(point, name)) for point in group}) > 1 for group in groups)
    ]
    if not inside:
        return [points], [], varies or ["model"]
    return groups, [name for name in varies if name not in inside], inside


def _heading(point: Row, shared: Sequence[str]) -> str:
    """What the points of a group have in common, e.g. "gpt2, max seconds 30"."""
    values = [(name, _shown(_value(point, name))) for name in shared]
    return ", ".join(value if name == "model" else f"{_short(name)} {value}" for name, value in values)


def _short(name: str) -> str:
    return SHORT.get(name, name.replace("_", " "))


def _value(point: Row, name: str) -> Any:
    """What the point has for an option that varies; a length where it has no batch."""
    options = point["options"]
    return options.get("batch") or options.get("length") if name == "batch" else options.get(name)


def _values(summary: Row, point: Row) -> Row:
    return {name: point["options"].get(name) for name in summary["varies"]}


def _shown(value: Any) -> str:
    """An option's value in a table; a directory by its name."""
    if value is None:
        return "default"
    if isinstance(value, list):
        return ",".join(map(str, value))
    return Path(value).name if isinstance(value, str) else str(value)


def _component(account: Row | None, name: str | None) -> Row | None:
    return next((row for row in (account or {}).get("measured", []) if row["component"] == name), None)


def _engine(account: Row, full: bool) -> str:
    value = account["engine_ms"]
    if value is None:
        return NONE
    digits = 3 if value < 100 else 2
    return interval_of(value, account["engine_ci95_ms"] if full else None, digits, sign=False)


def _share(row: Row | None) -> str:
    return NONE if row is None or row["pct"] is None else percent(row["pct"], row["ci95_pct"])


def _part(row: Row | None, full: bool) -> str:
    if row is None or row["pct"] is None:
        return NONE
    share = percent(row["pct"], row["ci95_pct"] if full else None)
    return f"{share} {row['verdict']}" if row["verdict"] else share
