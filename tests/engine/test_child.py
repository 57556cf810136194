"""Child processes that end in every way: what the parent is told, and that one rule says so everywhere."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.engine import exits
from harness.engine.child import Child, ChildDied, EngineFailed
from harness.engine.exits import MemoryWatch
from harness.running import error_log
from harness.runs.record import Status


class Answering:
    """What the children below answer with."""

    def facts(self):
        return os.getpid()

    def double(self, number):
        return 2 * number

    def end(self, how, counter=None):
        if counter is not None:  # as the kernel does when it kills for memory
            Path(counter).write_text("oom_kill 8\n")
        if how < 0:
            os.kill(os.getpid(), -how)
        os._exit(how)

    def refuse(self):
        raise MemoryError("no room for a table\nand more")


@contextmanager
def answering(fails=False):
    if fails:
        raise ValueError("no such model")
    yield Answering()


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """The kernel's counters, as far as a test may count."""
    counter = tmp_path / "vmstat"
    counter.write_text("nr_free_pages 5\noom_kill 7\n")
    monkeypatch.setattr(exits, "VMSTAT", counter)
    return counter


def test_a_child_answers_raises_and_goes_on():
    with Child(answering) as child:
        assert child.facts == child.pid != os.getpid()
        with pytest.raises(EngineFailed, match=r"^MemoryError: no room for a table$") as error:
            child.ask("refuse")
        assert error.value.status is Status.OUT_OF_MEMORY
        assert not isinstance(error.value, ChildDied)
        assert child.ask("double", 21) == 42
    child.close()


def test_a_child_that_cannot_be_made_says_why_and_logs_it_in_full():
    logged: list[str] = []
    with (
        error_log.passing(logged.append),
        pytest.raises(EngineFailed, match=r"^ValueError: no such model$") as error,
    ):
        Child(answering, True)
    assert error.value.status is Status.ERROR
    assert re.search(r"in answering\n.*\nValueError: no such model", "".join(logged), re.DOTALL)


@pytest.mark.parametrize(
    ("how", "killed_for_memory", "status", "told"),
    [
        (-signal.SIGKILL, False, Status.ERROR, "SIGKILL, and the kernel has not killed for memory"),
        (-signal.SIGKILL, True, Status.OUT_OF_MEMORY, "SIGKILL, and the kernel has killed for memory"),
        (-signal.SIGSEGV, True, Status.ERROR, "the process ended with SIGSEGV$"),
        (3, True, Status.ERROR, "the process ended with exit status 3$"),
        (0, False, Status.ERROR, "the process ended with exit status 0$"),
    ],
)
def test_how_a_child_died_is_told_and_told_again(kernel, how, killed_for_memory, status, told):
    with Child(answering) as child:
        with pytest.raises(ChildDied, match=told) as error:
            child.ask("end", how, str(kernel) if killed_for_memory else None)
        assert error.value.status is status
        with pytest.raises(ChildDied, match=told):
            child.ask("double", 1)


def test_sigkill_is_an_error_where_the_kernel_does_not_count(monkeypatch, tmp_path):
    monkeypatch.setattr(exits, "VMSTAT", tmp_path / "none")
    assert MemoryWatch().judge_exit(-signal.SIGKILL) == (
        Status.ERROR,
        "SIGKILL; the kernel does not say whether memory ran out",
    )


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("os.kill(os.getpid(), 9)", "SIGKILL"),
        ("os.kill(os.getpid(), 36)", "signal 36"),  # a real-time one, which has no name
        ("sys.exit(7)", "exit status 7"),
    ],
)
def test_exit_codes_are_in_words(program, words):
    done = subprocess.run([sys.executable, "-c", f"import os, sys; {program}"], check=False)
    assert exits.describe_exit(done.returncode) == words


def test_closing_a_busy_child_ends_it():
    child = Child(answering)
    os.kill(child.pid, signal.SIGSTOP)
    child.kill()
    with pytest.raises(ProcessLookupError):
        os.kill(child.pid, 0)
