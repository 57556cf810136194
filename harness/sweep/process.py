"""One point: the main job in its own process, and the outcome."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from harness.engine.exits import MemoryWatch
from harness.runs.schema import RunRecord
from harness.runs.store import RunDirectory
from harness.runs.writing import open_to_append
from harness.shipped import python_path
from harness.sweep.record import PointStatus

COMMAND = [sys.executable, "-m", "harness", "prefill"]
OPTIONS, LOG = "options.yaml", "log.txt"  # files in a point's directory besides the run's own
TIME_TO_STOP_S = 60.0  # to save what is measured; then the process is killed


@dataclass(frozen=True)
class Ended:
    """How a point's process ended."""

    status: PointStatus
    reason: str | None = None  # why it did not finish
    seconds: float | None = None  # lifetime of its process
    host: str | None = None  # the machine's name


def run(directory: Path, environment: Mapping[str, str], stopped: Callable[[], bool]) -> Ended:
    """Run or resume a point whose options file is in its directory; returns when it has ended.

    Args:
        directory: the point's; the process writes its run there and its output to log.txt.
        environment: of the process.
        stopped: polled several times a second; once true, or on KeyboardInterrupt, the process is interrupted
            as by Ctrl-C, and the point ends as interrupted.
    """
    command = [*COMMAND, "--config", str(directory / OPTIONS), "--output-dir", str(directory), "--quiet"]
    if (directory / "run.json").exists():
        command.append("--resume")
    before, start, memory = _record(directory), time.monotonic(), MemoryWatch()
    with open_to_append(directory / LOG) as log:
        # In its own session, so that Ctrl-C in a terminal reaches it once, from here.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**environment, "PYTHONPATH": python_path(environment)},
            start_new_session=True,
        )
        try:
            was_stopped = _watch(process, stopped)
        except KeyboardInterrupt:
            was_stopped = True
        _stop(process)
    seconds, host = round(time.monotonic() - start, 1), socket.gethostname()
    if is_finished(directory):  # no matter how the process ended after that
        return Ended("finished", None, seconds, host)
    if was_stopped:
        return Ended("interrupted", "ended by Ctrl-C", seconds, host)
    return Ended("failed", _reason(directory, before, process.returncode, memory), seconds, host)


def is_finished(directory: Path) -> bool:
    """Whether the directory holds a finished run with its summary."""
    record = _record(directory)
    finished = record is not None and record.status == "finished"
    return finished and RunDirectory(directory).summary_path.is_file()


def _watch(process: subprocess.Popen[bytes], stopped: Callable[[], bool]) -> bool:
    """Wait for the process; returns whether it was stopped before it ended."""
    while process.poll() is None:
        if stopped():
            return True
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.2)
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the process if it is still running, and any processes it left behind."""
    if process.poll() is None:
        process.terminate()  # background processes of a shell ignore Ctrl-C's SIGINT
        with suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
            process.wait(timeout=TIME_TO_STOP_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _reason(directory: Path, before: RunRecord | None, returncode: int, memory: MemoryWatch) -> str:
    """Why a process failed, in one line: the error recorded by its run, or the log's last line.

    `before` is the run's record at the start of the process, when `memory` was also created.
    """
    record = _record(directory)
    if record and record != before and record.status == "failed" and record.error:
        return " ".join(record.error.split())
    log = (directory / LOG).read_text(encoding="utf-8", errors="replace")
    last = next((line.strip() for line in reversed(log.splitlines()) if line.strip()), "")
    last = last.removeprefix("python -m harness: error: ")
    if returncode < 0:
        return "; ".join(filter(None, [f"ended with {memory.judge_exit(returncode)[1]}", last]))
    return last or f"exit status {returncode}, without any output"


def _record(directory: Path) -> RunRecord | None:
    try:
        return RunDirectory.open(directory).record()
    except (FileNotFoundError, ValueError):
        return None
