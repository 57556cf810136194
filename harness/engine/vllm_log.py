"""What vLLM logs while an engine starts: its errors stay off the screen and are kept, ranks' errors too."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

RANKS_FILE = "PREFILL_HARNESS_START_ERRORS"  # variable: the file that ranks of their own write errors to
# Logged by ranks with the exception, whose full text goes nowhere else.
RANKS_SAY = ("WorkerProc failed to start.", "WorkerProc hit an exception.")
_FORMAT = logging.Formatter()


@contextmanager
def listening() -> Iterator[Callable[[], str]]:
    """Yield a function that returns the text of the errors logged so far inside the block.

    If the block ends without an exception, nothing was wrong, and they are printed as vLLM would have.
    """
    records: list[logging.LogRecord] = []
    pass_on = logging.Logger.callHandlers

    def keep_errors(logger: logging.Logger, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR and record.name.partition(".")[0] == "vllm":
            records.append(record)
        else:
            pass_on(logger, record)

    with TemporaryDirectory(prefix="prefill-harness-") as folder:
        ranks = Path(folder) / "errors.txt"

        def text() -> str:
            of_ranks = [ranks.read_text(errors="replace")] if ranks.is_file() else []
            return "\n".join([*map(_FORMAT.format, records), *of_ranks])

        os.environ[RANKS_FILE] = str(ranks)
        # Not a handler of its own: vLLM configures its loggers anew as an engine starts.
        logging.Logger.callHandlers = keep_errors  # type: ignore[assignment, method-assign]
        try:
            yield text
        except BaseException:
            records.clear()
            raise
        finally:
            logging.Logger.callHandlers = pass_on  # type: ignore[method-assign]
            del os.environ[RANKS_FILE]
            for record in records:
                pass_on(logging.getLogger(record.name), record)


def hand_over_errors() -> None:
    """In a rank's process: until the engine is up, write errors to the parent's file, not to the screen."""
    if path := os.environ.get(RANKS_FILE):
        logging.getLogger("vllm.v1.executor.multiproc_executor").addFilter(_Handover(Path(path)))


class _Handover(logging.Filter):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def filter(self, record: logging.LogRecord) -> bool:
        started = not self._path.parent.is_dir()
        if started or record.getMessage() not in RANKS_SAY:
            return True
        with self._path.open("a") as file:
            file.write(_FORMAT.format(record) + "\n")
        return False
