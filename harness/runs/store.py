"""The run directory: a record, append-only raw samples, and the views made from them."""

from __future__ import annotations

import errno
import fcntl
import gc
import json
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from harness import files
from harness.config import ConfigError
from harness.runs.record import Result
from harness.runs.schema import RunRecord
from harness.runs.stored import TooNew
from harness.runs.summary import S
from harness.units import MIB

PLOTS = (".png", ".svg", ".pdf")  # of each chart
RECORD = "run.json"  # what makes a directory a run's
MOST_RESULTS = 4_000_000  # read of a run; a million take 5 s of a CPU and 1.8 GB
MOST_SUMMARY_BYTES = 1024 * MIB  # of a run with a million results
FULL = (errno.ENOSPC, errno.EDQUOT)

# Called before each step of a write ("create", "write", "sync", "replace", "append") with the file: tests let
# it fail there, or end the process.
on_step: Callable[[str, Path], object] = lambda step, path: None  # noqa: E731


class RunExists(ConfigError):
    """The directory already holds a run."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or a signal ended a run; its directory holds what was measured up to then."""


class Damaged(ValueError):
    """A file of a run or a sweep is damaged."""


def read_json(path: Path) -> dict[str, Any]:
    """Read what `write_json` wrote; raises Damaged unless it is an object with a status."""
    with raise_damaged(path):
        data = files.parse_json(files.read_bytes(path, MOST_SUMMARY_BYTES))
        if not isinstance(data, dict) or "status" not in data:
            raise ValueError("it has no status")
        return data


@contextmanager
def raise_damaged(path: Path) -> Iterator[None]:
    """Raise Damaged, naming the file of a run, if it leads out of the run or cannot be read in the block."""
    try:
        if files.leads_out(path, path.parent):
            raise ValueError("a link that leads out of the directory")
        yield
    except Damaged:  # names its file itself
        raise
    except TooNew as error:
        raise Damaged(f"{path}: {error}") from None
    except OSError as error:
        raise Damaged(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise Damaged(f"{path}: damaged ({error}); restore it or measure again") from error


def open_to_append(path: Path) -> IO[bytes]:
    """Open a file to read and append to, creating it if missing; raises OSError on a link, Damaged on a
    pipe.
    """
    try:
        return files.open_regular(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, "ab+")
    except ValueError as error:
        raise Damaged(f"{path}: {error}; restore it or measure again") from None


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


def write_atomic(path: Path, content: str | bytes) -> None:
    """Replace a file's content atomically: a reader, or a crash, sees the old content or the new.

    Nothing is written through a symbolic link, because a run may come from anyone: a link in place of the
    file is replaced, and a link in place of a folder of the run is refused. A missing folder is created.

    Raises:
        Damaged: the file's folder is a link inside a run.
        OSError: from the system; the old content stays, and no temporary file is left.
    """
    data = content.encode() if isinstance(content, str) else content
    folder = _open_folder(path.parent)
    try:
        _remove_left_over(path.name, folder)
        on_step("create", path)
        temporary = f".{path.name}.{secrets.token_hex(8)}.tmp"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        descriptor = os.open(temporary, flags, 0o666, dir_fd=folder)
        try:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            on_step("write", path)
            _write_all(descriptor, data)
            on_step("sync", path)
            os.fsync(descriptor)
            on_step("replace", path)
            os.replace(temporary, path.name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with suppress(FileNotFoundError):  # its folder was removed
                os.unlink(temporary, dir_fd=folder)
            raise
        finally:
            os.close(descriptor)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        os.close(folder)


def _write_all(descriptor: int, data: bytes) -> None:
    """Write all of the data; a disk that fills up takes a part of it first."""
    while data:
        data = data[os.write(descriptor, data) :]


def _remove_left_over(name: str, folder: int) -> None:
    """Remove what a process that was killed while it wrote this file has left; its lock is gone."""
    for left in os.listdir(folder):
        if left.startswith(f".{name}.") and left.endswith(".tmp"):
            with suppress(OSError):  # someone is writing it, or it is a link
                descriptor = os.open(left, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(left, dir_fd=folder)
                finally:
                    os.close(descriptor)


def _open_folder(folder: Path) -> int:
    """Open a folder to write in. The user may name a run through a link, but a run contains no links."""
    in_a_run = (folder.parent / RECORD).exists()
    if in_a_run and folder.is_symlink():
        raise Damaged(f"{folder} is a link, and the harness writes through none; remove it")
    folder.mkdir(parents=True, exist_ok=True)
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | (os.O_NOFOLLOW if in_a_run else 0))


def explain_os_error(error: OSError) -> str | None:
    """The file and what is wrong with it, or the full disk; None: the error does not say enough."""
    if error.filename is None:
        return error.strerror if error.errno in FULL else None
    return f"{error.filename}: {error.strerror}"


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write JSON atomically; raises ValueError on NaN and infinities, which JSON lacks."""
    write_atomic(path, _format_json(data))


def _format_json(data: dict[str, Any]) -> str:
    """JSON as in the files; raises ValueError on NaN and infinities."""
    return json.dumps(data, indent=1, allow_nan=False) + "\n"


@dataclass(frozen=True)
class RunDirectory:
    """One run's files. `samples.jsonl` is the source of truth; summary, tables and plots follow from it."""

    path: Path

    @classmethod
    def create(cls, path: str | Path, overwrite: bool = False) -> RunDirectory:
        """Prepare a directory for a new run, creating missing parents.

        With `overwrite` the files of the run it holds are removed, including captures, and no others.
        Raises RunExists if it holds a run, NotADirectoryError if the path is a file.
        """
        run = cls(Path(path))
        if run.path.exists() and not run.path.is_dir():
            raise NotADirectoryError(f"{path} is a file; a run needs a directory")
        run.path.mkdir(parents=True, exist_ok=True)
        own = run._own_files()
        if own and not overwrite:
            raise RunExists(f"{path} already holds a run; choose another --output-dir or pass --overwrite")
        if own:
            captures = [] if run.captures_path.is_symlink() else run.captures_path.rglob("*.safetensors")
            for file in [*own, *captures]:
                if file == run.samples_path and not file.is_symlink():
                    os.truncate(file, 0)  # its writer holds the lock on it
                else:
                    file.unlink()
            run.errors_path.unlink(missing_ok=True)
        return run

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
                _overwrite(self.record_path, _format_json(record.to_json()).encode())
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
        _append_lines(self.samples_path, (result.to_json() for result in results))

    def append_clocks(self, clocks: dict[str, Any]) -> None:
        """Append a line to clocks.jsonl; it is on disk on return. Raises ValueError on NaN."""
        _append_lines(self.clocks_path, [clocks])

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
        views = [self.summary_path, self.tables_path, self.csv_path, self.page_path]
        drawn = ([svg.with_suffix(end) for end in PLOTS] for svg in self.plots_path.glob("*.svg"))
        plots = [file for files in drawn if os.path.lexists(files[0]) for file in files]  # each has a PNG
        if self.plots_path.is_symlink():
            plots = []
        files = [file for file in raw + views + plots if file.is_symlink() or file.is_file()]
        return [] if files == [self.samples_path] and not self.samples_path.lstat().st_size else files


def _append_lines(path: Path, data: Iterable[dict[str, Any]]) -> None:
    """Append a JSON line for each object, after removing a partial line left by a killed process."""
    lines = "".join(json.dumps(item, allow_nan=False) + "\n" for item in data)
    with open_to_append(path) as file:
        _cut_unfinished_line(file)
        size = file.seek(0, os.SEEK_END)
        try:
            on_step("append", path)
            _write_all(file.fileno(), lines.encode())
            os.fsync(file.fileno())
        except OSError as error:
            file.truncate(size)  # all lines or none
            error.filename = str(path)
            raise


def _overwrite(path: Path, content: bytes) -> None:
    """Write a file's content in place, once there is room for all of it; raises OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    try:
        os.posix_fallocate(descriptor, 0, len(content))
        _write_all(descriptor, content)
        os.ftruncate(descriptor, len(content))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _cut_unfinished_line(file: IO[bytes]) -> None:
    """Remove anything after the last newline, left by a killed process."""
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        return
    file.seek(size - 1)
    if file.read(1) != b"\n":
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
