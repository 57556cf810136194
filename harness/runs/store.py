"""The run directory: a record, append-only raw samples, and the views made from them."""

from __future__ import annotations

import errno
import gc
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import files
from harness.config import ConfigError
from harness.runs.record import Result
from harness.runs.schema import RunRecord
from harness.runs.summary import S
from harness.runs.writing import (
    FULL,
    RECORD,
    Damaged,
    append_lines,
    format_json,
    link_refused,
    overwrite,
    raise_damaged,
    read_json,
    write_json,
)

PLOTS = (".png", ".svg", ".pdf", "-paper.png", "-paper.pdf")  # ends of a chart's files
DRAWN_BY = "prefill-layout-harness"  # in the metadata of each chart: others in plots/ are not a run's
_CAPTURE = re.compile(r"layer-\d+\.safetensors")
MOST_RESULTS = 4_000_000  # read of a run; a million take 5 s of a CPU and 1.8 GB


class RunExists(ConfigError):
    """The directory already holds a run."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or a signal ended a run; its directory holds what was measured up to then."""


@contextmanager
def _uncollected() -> Iterator[None]:
    """Read many objects without the garbage collector, which would look through all of them again and again:
    it makes a million results take three times as long.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@dataclass(frozen=True)
class RunDirectory:
    """One run's files. `samples.jsonl` is the source of truth; summary, tables and plots follow from it."""

    path: Path

    @classmethod
    def create(cls, path: str | Path, overwrite: bool = False) -> RunDirectory:
        """Prepare a directory for a new run, creating missing parents.

        With `overwrite` the files that its record says a run wrote are removed, and no others; raises as
        `removable` does.
        """
        run = cls(Path(path))
        own = run.removable(overwrite)
        run.path.mkdir(parents=True, exist_ok=True)
        for file in own:
            if file == run.samples_path and not file.is_symlink():
                os.truncate(file, 0)  # its writer holds the lock on it
            else:
                file.unlink()
        return run

    def removable(self, overwrite: bool) -> list[Path]:
        """The files that a new run in this directory replaces, the record last.

        Raises:
            RunExists: there are files of a run's names, and `overwrite` is not given or no record says that a
                run wrote them.
            Damaged: the record is damaged, or a folder of the run is a link.
            NotADirectoryError: the path is a file.
        """
        if self.path.exists() and not self.path.is_dir():
            raise NotADirectoryError(f"{self.path} is a file; a run needs a directory")
        self.refuse_links()
        own = self._own_files()
        if not own:
            return []
        if not os.path.lexists(self.record_path):
            raise RunExists(
                f"{self.path} holds {own[0].name}, but no {RECORD} that says a run wrote it; choose another "
                "--output-dir"
            )
        if not overwrite:
            raise RunExists(
                f"{self.path} already holds a run; choose another --output-dir or pass --overwrite"
            )
        saved = self.captures_path.rglob("*") if self.record().config.get("save_captures") else ()
        captures = [file for file in saved if _CAPTURE.fullmatch(file.name)]
        errors = [self.errors_path] if os.path.lexists(self.errors_path) else []
        return [*captures, *errors, *reversed(own)]

    def refuse_links(self) -> None:
        """Raise Damaged if a folder that a run writes is a link, through which it would write elsewhere."""
        for folder in (self.plots_path, self.captures_path, *self.captures_path.glob("rank-*")):
            if folder.is_symlink():
                raise link_refused(folder)

    @classmethod
    def open(cls, path: str | Path) -> RunDirectory:
        """The run in this directory; raises FileNotFoundError if there is none."""
        run = cls(Path(path))
        if not os.path.isfile(run.record_path):
            raise FileNotFoundError(f"{path} holds no run: {run.record_path.name} is missing")
        return run

    @property
    def record_path(self) -> Path:
        """run.json: configuration, versions, device, status."""
        return self.path / RECORD

    @property
    def samples_path(self) -> Path:
        """samples.jsonl: one Result per line."""
        return self.path / "samples.jsonl"

    @property
    def clocks_path(self) -> Path:
        """clocks.jsonl: the device's clocks, one series per line."""
        return self.path / "clocks.jsonl"

    @property
    def captures_path(self) -> Path:
        """captures/: the attention calls saved by --save-captures; with several ranks, a folder each."""
        return self.path / "captures"

    @property
    def trace_path(self) -> Path:
        """trace.json: the profiled prefills' events; https://ui.perfetto.dev opens it."""
        return self.path / "trace.json"

    @property
    def errors_path(self) -> Path:
        """errors.txt: the full text of errors, tracebacks and vLLM's log among it."""
        return self.path / "errors.txt"

    @property
    def summary_path(self) -> Path:
        """summary.json: the figures, for programs."""
        return self.path / "summary.json"

    @property
    def tables_path(self) -> Path:
        """tables.md: the tables, for people."""
        return self.path / "tables.md"

    @property
    def csv_path(self) -> Path:
        """tables.csv: every row of the tables, tidy."""
        return self.path / "tables.csv"

    @property
    def parquet_path(self) -> Path:
        """tables.parquet: the same rows with typed columns, where pyarrow is installed."""
        return self.path / "tables.parquet"

    @property
    def page_path(self) -> Path:
        """report.html: everything on one page."""
        return self.path / "report.html"

    @property
    def plots_path(self) -> Path:
        """plots/: a directory, created when there is something to put in it."""
        return self.path / "plots"

    def write_record(self, record: RunRecord) -> None:
        """Replace run.json: atomically, but in place if the disk is full and it still fits.

        Raises OSError from the system, FileNotFoundError if the run's directory was removed.
        """
        if not self.path.is_dir():
            raise FileNotFoundError(errno.ENOENT, "the run's directory was removed", str(self.path))
        try:
            write_json(self.record_path, record.to_json())
        except OSError as error:
            if error.errno not in FULL:
                raise
            try:
                overwrite(self.record_path, format_json(record.to_json()).encode())
            except OSError:
                raise error from None

    def record(self) -> RunRecord:
        """Read run.json, of this version or an earlier one; raises Damaged if it is not a record."""
        data = read_json(self.record_path)
        with raise_damaged(self.record_path):
            return RunRecord.parse(data)

    def summary(self, kind: type[S]) -> S:
        """Read summary.json, of this version or an earlier one; raises Damaged if it is not of that kind."""
        data = read_json(self.summary_path)
        with raise_damaged(self.summary_path):
            return kind.parse(data)

    def append(self, results: Iterable[Result]) -> None:
        """Append results to samples.jsonl; they are on disk on return. Raises ValueError on NaN."""
        append_lines(self.samples_path, (result.to_json() for result in results))

    def append_clocks(self, clocks: dict[str, Any]) -> None:
        """Append a line to clocks.jsonl; it is on disk on return. Raises ValueError on NaN."""
        append_lines(self.clocks_path, [clocks])

    def results(self) -> list[Result]:
        """All results in the order appended, without a last line that a kill cut short.

        Raises Damaged, with the line's number, if a whole line is not a Result.
        """
        results: list[Result] = []
        if not os.path.lexists(self.samples_path):
            return results
        with raise_damaged(self.samples_path), _uncollected():
            for number, line in enumerate(files.read_lines(self.samples_path, MOST_RESULTS), start=1):
                try:
                    results.append(Result.parse(line))
                except ValueError as error:
                    where = f"{self.samples_path}, line {number}"
                    why = f"not a result ({error}); remove the line to do without it"
                    raise Damaged(f"{where}: {why}") from error
        return results

    def _own_files(self) -> list[Path]:
        """The existing files that make this directory a run's."""
        raw = [self.record_path, self.samples_path, self.clocks_path, self.trace_path]
        raw += self.path.glob("layouts*.jsonl.gz")
        views = [self.summary_path, self.tables_path, self.csv_path, self.parquet_path, self.page_path]
        drawn = filter(_is_drawn_here, self.plots_path.glob("*.svg"))
        plots = [svg.with_name(svg.stem + end) for svg in drawn for end in PLOTS]
        files = [file for file in raw + views + plots if file.is_symlink() or file.is_file()]
        return [] if files == [self.samples_path] and not self.samples_path.lstat().st_size else files


def _is_drawn_here(svg: Path) -> bool:
    """Whether a chart in plots/ is one that `report.charts.mpl` wrote."""
    try:
        return DRAWN_BY.encode() in files.read_bytes(svg)
    except (OSError, ValueError):
        return False


def require_run(run_dir: Path) -> None:
    """Raise ConfigError unless a directory holds a run from which figures can be computed."""
    run = RunDirectory(run_dir)
    if not os.path.isfile(run.record_path):  # False for a name that is too long, too
        raise ConfigError(f"{run_dir}: holds no run.json; name a run's directory")
    if run.summary_path.is_file() and not run.samples_path.is_file():
        raise ConfigError(
            f"{run_dir}: holds no samples.jsonl, from which all figures are computed; copy the whole run"
        )
