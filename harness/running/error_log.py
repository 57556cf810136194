"""errors.txt: the full text of a run's errors, of which the screen and the record have one line each."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from harness.runs.store import RunDirectory
from harness.runs.writing import Damaged, open_to_append

LOG = logging.getLogger("harness")
LOG.propagate = False
LOG.addHandler(logging.NullHandler())  # without it Python prints what nobody keeps


class _Pass(logging.Handler):
    """Hands every record's text to a function."""

    def __init__(self, write: Callable[[str], None]) -> None:
        super().__init__()
        self._write = write

    def emit(self, record: logging.LogRecord) -> None:
        self._write(self.format(record))


@contextmanager
def passing(write: Callable[[str], None]) -> Iterator[None]:
    """Call `write` with the full text of every error that is logged inside the block."""
    handler = _Pass(write)
    LOG.addHandler(handler)
    try:
        yield
    finally:
        LOG.removeHandler(handler)


@contextmanager
def log_raised() -> Iterator[None]:
    """Log the exception that ends the block."""
    try:
        yield
    except Exception as error:
        LOG.error("The run ended:", exc_info=error)
        raise


@contextmanager
def writing(run: RunDirectory) -> Iterator[None]:
    """Append the errors inside the block to the run's errors.txt, which exists once there is one."""

    def write(text: str) -> None:
        with (
            suppress(OSError, Damaged),
            open_to_append(run.errors_path) as file,
        ):  # what failed is more important
            file.write(f"{text}\n\n".encode(errors="backslashreplace"))

    with passing(write):
        yield
