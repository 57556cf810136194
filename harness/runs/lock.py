"""One writer a run: the lock on its samples, which the system releases however the process ends."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from harness.runs.store import RunDirectory, RunExists
from harness.runs.writing import open_to_append


class Locked(RunExists):
    """Another process is writing the run."""


class RunLock:
    """The right to write a run."""

    def __init__(self, run: RunDirectory) -> None:
        """Take it, making samples.jsonl if it is missing.

        Raises:
            Locked: another process has it.
            OSError: samples.jsonl is a link or cannot be written.
        """
        self._samples = run.samples_path
        self._file = open_to_append(self._samples)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise Locked(
                f"{run.path}: another process is writing this run ({self._samples.name} is locked); "
                "wait until it ends, or choose another --output-dir"
            ) from None
        except OSError:
            pass  # a file system without locks

    @classmethod
    def of_new_run(cls, run: RunDirectory, overwrite: bool) -> RunLock:
        """Take it in a directory that is made if it is missing; raises as the constructor does."""
        run.path.mkdir(parents=True, exist_ok=True)
        if overwrite and run.samples_path.is_symlink():
            run.samples_path.unlink()
        return cls(run)

    def require_samples(self) -> None:
        """Raise FileNotFoundError if the samples were removed or replaced since."""
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(self._file.fileno()), os.lstat(self._samples)):
                return
        raise FileNotFoundError(2, "was removed or replaced while the run was measured", str(self._samples))

    def release(self) -> None:
        """Let others write the run."""
        self._file.close()


def refuse_if_held(path: Path) -> None:
    """Raise Locked if another process is writing the run in this directory."""
    run = RunDirectory(path)
    if run.samples_path.is_file() and not run.samples_path.is_symlink():
        with suppress(PermissionError):
            RunLock(run).release()
