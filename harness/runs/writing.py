"""Files of a run, written whole or not at all, through no link; what cannot be read as written is damaged."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from harness import files
from harness.runs.stored import TooNew
from harness.units import MIB

RECORD = "run.json"  # what makes a directory a run's
MOST_SUMMARY_BYTES = 1024 * MIB  # of a run with a million results
FULL = (errno.ENOSPC, errno.EDQUOT)

# Called before each step of a write ("create", "write", "sync", "replace", "append") with the file: tests let
# it fail there, or end the process.
on_step: Callable[[str, Path], object] = lambda step, path: None  # noqa: E731


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
    """Open a file to read and append to, creating it if missing; raises OSError on a symbolic link, Damaged
    on a pipe, and on a hard link, through which someone else's file would be written.
    """
    try:
        file = files.open_regular(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, "ab+")
    except ValueError as error:
        raise Damaged(f"{path}: {error}; restore it or measure again") from None
    if os.fstat(file.fileno()).st_nlink > 1:
        file.close()
        raise Damaged(f"{path}: a hard link, and the harness writes through none; copy the run first")
    return file


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
        if re.fullmatch(rf"\.{re.escape(name)}\.[0-9a-f]{{16}}\.tmp", left):
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
        raise link_refused(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | (os.O_NOFOLLOW if in_a_run else 0))


def link_refused(folder: Path) -> Damaged:
    """The error of a folder of a run that is a link."""
    return Damaged(f"{folder} is a link, and the harness writes through none; remove it")


def explain_os_error(error: OSError) -> str | None:
    """The file and what is wrong with it, or the full disk; None: the error does not say enough."""
    if error.filename is None:
        return error.strerror if error.errno in FULL else None
    return f"{error.filename}: {error.strerror}"


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write JSON atomically; raises ValueError on NaN and infinities, which JSON lacks."""
    write_atomic(path, format_json(data))


def format_json(data: dict[str, Any]) -> str:
    """JSON as in the files; raises ValueError on NaN and infinities."""
    return json.dumps(data, indent=1, allow_nan=False) + "\n"


def append_lines(path: Path, data: Iterable[dict[str, Any]]) -> None:
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


def overwrite(path: Path, content: bytes) -> None:
    """Write a file's content in place, once there is room for all of it; raises OSError, also on a link."""
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    try:
        if os.fstat(descriptor).st_nlink > 1:
            raise OSError(errno.EMLINK, os.strerror(errno.EMLINK), str(path))
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
