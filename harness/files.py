"""Files from elsewhere, read with bounds: regular ones, of bounded size, UTF-8, JSON of bounded depth.

Errors do not name the file: whoever asked for it knows what the reader calls it.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from harness.units import MIB

MOST_BYTES = 64 * MIB  # of a file that is read as a whole; the largest stored so far has 1 MiB
LONGEST_LINE = 16 * MIB  # bytes; the longest stored so far has 90 KiB
DEEPEST = 100  # lists and objects inside each other


def open_regular(path: Path, flags: int = os.O_RDONLY, mode: str = "rb") -> IO[bytes]:
    """Open a file without ever waiting for it.

    Raises:
        ValueError: it is a folder, a pipe or a device, which might never end.
        OSError: from the system.
    """
    if "\0" in str(path):
        raise ValueError("a path holds no NUL")
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError("not a regular file")
    return os.fdopen(descriptor, mode)


def read_bytes(path: Path, most_bytes: int = MOST_BYTES) -> bytes:
    """A file's content; raises as `open_regular`, and ValueError if it has more than `most_bytes`."""
    with open_regular(path) as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise ValueError(f"larger than {most_bytes / MIB:g} MiB")
    return content


def read_text(path: Path, most_bytes: int = MOST_BYTES) -> str:
    """A file's text; raises as `read_bytes`, and ValueError, with the line, if it is not UTF-8."""
    content = read_bytes(path, most_bytes)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"line {line}: not UTF-8 text") from None


def read_lines(path: Path, most_lines: int) -> Iterator[bytes]:
    """A file's whole lines, one at a time; anything after the last newline was cut short and is left out.

    Raises as `open_regular`, and ValueError at a line beyond `LONGEST_LINE` or `most_lines`.
    """
    with open_regular(path) as file:
        for number in range(1, most_lines + 2):
            line = file.readline(LONGEST_LINE + 1)
            if len(line) > LONGEST_LINE:
                raise ValueError(f"line {number}: longer than {LONGEST_LINE // MIB} MiB")
            if not line.endswith(b"\n"):
                return
            if number > most_lines:
                raise ValueError(f"more than {most_lines} lines")
            yield line


def parse_json(
    text: str | bytes, hook: Callable[[dict[str, Any]], Any] | None = None, *, finite: bool = True
) -> Any:
    """What JSON text holds.

    Args:
        hook: what to make of each object.
        finite: refuse NaN and infinities, which JSON lacks and Python writes.

    Raises:
        ValueError: it is not JSON, is nested deeper than `DEEPEST` or, if `finite`, holds such a number.
    """
    try:
        data = json.loads(text, object_hook=hook)
    except UnicodeDecodeError:
        raise ValueError("not UTF-8 text") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    require_bounded(data, finite=finite)
    return data


def require_bounded(data: Any, *, finite: bool = True) -> None:
    """Raise ValueError, with the key, if data is nested deeper than `DEEPEST`, or has infinite numbers."""
    waiting = [("", data, 0)]
    while waiting:
        key, value, depth = waiting.pop()
        if depth > DEEPEST:
            raise ValueError(f"{shorten(key)}: nested too deeply")
        if finite and isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{shorten(key)}: must be finite")
        items = (
            value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        )
        waiting += [(f"{key}.{name}" if key else str(name), inner, depth + 1) for name, inner in items]


def shorten(text: str, most: int = 120) -> str:
    """Text from a file in one line of at most `most` characters, without any that a terminal obeys."""
    shown = "".join(c if c.isprintable() else "?" for c in text[: most + 1])
    return shown if len(text) <= most else f"{shown[:most]}..."


def leads_out(path: Path, folder: Path) -> bool:
    """Whether a path leads out of a folder, through a link or by its name."""
    return not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
