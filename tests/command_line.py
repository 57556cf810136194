"""The command line: in a new process, with what it imports, or here, where vLLM may be imported already."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import __main__

ROOT = Path(__file__).parent.parent

# Runs command lines, and writes of each its exit status, what it printed, and which heavy modules are there.
WITNESS = """
import contextlib, io, json, sys
from harness import __main__
for function, argv in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = getattr(__main__, function)(argv)
    heavy = {"torch", "vllm", "transformers", "matplotlib", "pandas"} & set(sys.modules)
    print(json.dumps([status, out.getvalue(), err.getvalue(), sorted(heavy)]))
"""


@dataclass(frozen=True)
class Done:
    """What came of a command line."""

    returncode: int
    stdout: str
    stderr: str
    heavy: list[str]  # modules that it, or one before it in its process, imported


def run(*argv: str, function: str = "main_job") -> Done:
    """Run the main job's command line, or with "main" that of `python -m harness`, in a new process."""
    (done,) = run_all([(function, argv)])
    return done


def run_all(lines: Sequence[tuple[str, Sequence[str]]]) -> list[Done]:
    """Run several in one new process, each with the function that takes it."""
    command = [sys.executable, "-c", WITNESS]
    done = subprocess.run(command, cwd=ROOT, input=json.dumps(lines), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [Done(*json.loads(line)) for line in done.stdout.splitlines()]


def run_here(*argv: object, function: str = "main") -> subprocess.CompletedProcess[str]:
    """As `run`, in this process: an engine takes a quarter of the time to start."""
    words, out, err = [str(word) for word in argv], io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = getattr(__main__, function)(words)
    return subprocess.CompletedProcess(words, status, out.getvalue(), err.getvalue())


def wait_for(job: subprocess.Popen[Any], reached: Callable[[], bool], seconds: float) -> None:
    """Return once the job has come so far; fail if it ends before that."""
    give_up = time.monotonic() + seconds
    while not reached():
        assert job.poll() is None, job.communicate()[1]
        assert time.monotonic() < give_up
        time.sleep(0.05)
