"""Commands in forks of one process, which has imported what is slow, each with a fault at a chosen moment."""

from __future__ import annotations

import errno
import gc
import importlib
import itertools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SECRET = "hf_secret"  # in the environment of all commands


@dataclass(frozen=True)
class Fault:
    """What happens just before a step of a write (see harness.runs.writing.on_step)."""

    step: str  # "create", "write", "sync", "replace" or "append"
    file: str  # its name
    number: int  # of those steps with that file, from 1 on
    what: tuple[str, ...]  # names of functions below
    lasting: bool = False  # at all later steps, too


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    status: int  # of its exit; negative: the signal that ended it
    stdout: str
    stderr: str


class Forks:
    """The process that forks."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._numbers = folder, itertools.count()
        command = [sys.executable, "-m", "tests.running.forks"]
        pipe = subprocess.PIPE
        secrets = dict.fromkeys(("HF_TOKEN", "OPENAI_API_KEY", "VLLM_API_KEY"), SECRET)
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True, env=os.environ | secrets
        )

    def run(self, *argv: object, fault: Fault | None = None, stdout: str | None = None) -> Done:
        """Run `python -m harness` with these arguments, its stdout in that file."""
        number = next(self._numbers)
        out, err = (self._folder / f"{number}.{name}" for name in ("out", "err"))
        job = {
            "argv": [str(word) for word in argv],
            "fault": fault and asdict(fault),
            "out": stdout or str(out),
            "err": str(err),
        }
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        status = int(self._process.stdout.readline())
        return Done(status, out.read_text() if stdout is None else "", err.read_text())

    def close(self) -> None:
        """End it."""
        self._process.communicate()


@contextmanager
def forking(folder: Path) -> Iterator[Forks]:
    """Forks whose output is in a folder."""
    forks = Forks(folder)
    try:
        yield forks
    finally:
        forks.close()


def full(path: Path) -> None:
    """The disk is full."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def read_only(path: Path) -> None:
    """The file may not be written any more."""
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def removed(path: Path) -> None:
    """Someone removes the run."""
    shutil.rmtree(path.parent)


def unlinked(path: Path) -> None:
    """Someone removes the file."""
    path.unlink()


def killed(path: Path) -> None:
    """SIGKILL."""
    os.kill(os.getpid(), signal.SIGKILL)


def terminated(path: Path) -> None:
    """SIGTERM, as of a batch system."""
    signal.raise_signal(signal.SIGTERM)


def hung_up(path: Path) -> None:
    """SIGHUP, as of a closed terminal."""
    signal.raise_signal(signal.SIGHUP)


def interrupted(path: Path) -> None:
    """Ctrl-C."""
    signal.raise_signal(signal.SIGINT)


def interrupted_in_a_finaliser(path: Path) -> None:
    """Ctrl-C while the garbage is collected, where an exception is lost."""

    class Garbage:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    Garbage()
    gc.collect()


def _serve() -> None:
    importlib.import_module("harness.experiments.kernels.measure")  # with torch
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _run(json.loads(line))
        _, ended = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(ended), flush=True)


def _run(job: dict[str, Any]) -> None:
    """Run one command in this fork, and end it."""
    from harness import __main__
    from harness.runs import writing

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
        signal.signal(number, usual)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    for descriptor, name in ((1, job["out"]), (2, job["err"])):
        file = os.open(name, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, descriptor)
    sys.argv = ["prefill-layout-harness", *job["argv"]]
    if job["fault"]:
        writing.on_step = _at(Fault(**job["fault"]))
    status = 1
    try:
        status = __main__.main(job["argv"])
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(status)


def _at(fault: Fault) -> Callable[[str, Path], None]:
    numbers = itertools.count(1)

    def on_step(step: str, path: Path) -> None:
        if (step, path.name) == (fault.step, fault.file) or (fault.lasting and reached):
            number = next(numbers)
            if number == fault.number or (fault.lasting and number > fault.number):
                reached.append(True)
                for name in fault.what:
                    globals()[name](path)

    reached: list[bool] = []
    return on_step


if __name__ == "__main__":
    _serve()
