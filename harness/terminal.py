"""What the harness prints: control characters are escaped, and a full or closed terminal ends no run."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

# Control characters but newline and tab, what reorders text or has no width, line separators, surrogates.
HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def escape(text: str) -> str:
    r"""Text without anything that a terminal or a page would obey instead of showing.

    >>> escape("\x1b[2J")
    '\\x1b[2J'
    """
    return HIDDEN.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def in_one_line(text: str) -> str:
    r"""The same, with its line breaks escaped, too.

    >>> in_one_line("a\nb")
    'a\\nb'
    """
    return escape(text).replace("\n", "\\n")


def show(text: str, end: str = "\n", file: TextIO | None = None) -> None:
    """Print text that may come from a file."""
    print(escape(text), end=end, file=file, flush=True)


class _Terminal:
    """A text stream that escapes what its encoding lacks, and drops everything once it cannot be written."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.error: OSError | None = None  # why it could not be written

    def write(self, text: str) -> int:
        with self._kept():
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                encoding = self._stream.encoding
                self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        with self._kept():
            self._stream.flush()

    @contextmanager
    def _kept(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.error = error
            with suppress(OSError):  # what is buffered goes there, too
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def kept() -> Iterator[_Terminal]:
    """Go on without a screen inside the block if stdout or stderr is closed or full; yields stdout."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:  # the next file that is opened would get what is printed
            os.open(os.devnull, os.O_RDWR)
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        out, err = (_Terminal(stream or nowhere) for stream in before)
        sys.stdout, sys.stderr = cast(TextIO, out), cast(TextIO, err)
        try:
            yield out
        finally:
            out.flush()
            err.flush()
            sys.stdout, sys.stderr = before
