"""A heavy object in a child process: several can be up at once, and one that dies takes no other with it.

Requests and answers are pickled over a dedicated pipe, so that a library's output cannot get in between.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import psutil

from harness import interrupts
from harness.engine.exits import MemoryWatch
from harness.running import error_log
from harness.running.error_log import LOG
from harness.runs.record import Status, status_of
from harness.stack import with_room

CLOSING_S = 5.0
POLL_S = 0.2  # between two looks for a signal
# Called in the child; the object that it yields answers calls of its methods, `facts()` first.
Make = Callable[..., AbstractContextManager[Any]]


class EngineFailed(RuntimeError):
    """An engine failed at a task, or its process is gone; `status` is for its cells."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class ChildDied(EngineFailed):
    """The process is gone."""


class Child:
    """A proxy for what `make(*arguments)` yields in a child process; calls are synchronous, one at a time."""

    def __init__(self, make: Make, *arguments: Any) -> None:
        """Start the process and wait until it is up; `facts` is what it then reports about itself.

        Args:
            make: a module-level function; it and the arguments must be picklable.

        Raises:
            EngineFailed: it did not start.
        """
        # A fork of this process would share CUDA and vLLM's threads; children are forked from one without.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["harness.engine.preloaded"])
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, arguments, dict(os.environ)))
        self._memory = MemoryWatch()
        self._process.start()
        theirs.close()  # so that the pipe ends where the child does
        try:
            self.facts: Any = self._answer()
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int | None:
        """The child's process id."""
        return self._process.pid

    def ask(self, name: str, *arguments: Any) -> Any:
        """Call the method of that name and return its result.

        Raises:
            EngineFailed: it raised.
            ChildDied: the process is gone.
        """
        with contextlib.suppress(OSError):  # the child is gone; reading reports why
            self._pipe.send((name, arguments))
        return self._answer()

    def _answer(self) -> Any:
        try:
            while not self._pipe.poll(POLL_S):
                interrupts.check()
            answer = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            status, how = self._memory.judge_exit(self._process.exitcode)
            raise ChildDied(status, f"the process ended with {how}") from None
        if isinstance(answer, _Failure):
            LOG.error("In the process %s:\n%s", self._process.pid, answer.details)
            raise EngineFailed(answer.status, answer.reason)
        return answer

    def close(self) -> None:
        """End the process, whatever it is doing, and those that it started; their memory is free on return.
        Closing twice is harmless.
        """
        started = self._started()
        self._pipe.close()  # the child exits when the pipe closes, unless it is busy
        self._process.join(CLOSING_S)
        self.kill()
        for process in started:  # an engine's core, which outlives a child that was killed
            with contextlib.suppress(psutil.Error):
                process.kill()
                process.wait(CLOSING_S)

    def _started(self) -> list[psutil.Process]:
        """The processes below the child; none once it is gone."""
        try:
            return psutil.Process(self.pid).children(recursive=True) if self._process.is_alive() else []
        except psutil.Error:
            return []

    def kill(self) -> None:
        """Kill it at once: it has nothing to clean up."""
        self._pipe.close()
        self._process.kill()
        self._process.join()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@dataclass(frozen=True)
class _Failure:
    status: Status
    reason: str
    details: str  # the full text, for errors.txt

    @classmethod
    def of(cls, error: Exception, logged: list[str]) -> _Failure:
        details = [*logged, *traceback.format_exception(error)]
        logged.clear()
        return cls(*status_of(error), "\n".join(details))


@with_room
def _serve(pipe: Connection, make: Make, arguments: tuple[Any, ...], environment: dict[str, str]) -> None:
    """The child's side: make the object, report it, and answer until killed or until the parent is gone."""
    os.environ.clear()
    os.environ.update(environment)  # as the parent's is now, not as it was when the first child started
    for number in interrupts.NUMBERS:  # a terminal or a batch system sends them to all; the parent ends us
        signal.signal(number, signal.SIG_IGN)
    end_with_parent()
    os.dup2(2, 1)  # stdout belongs to the parent's tables
    import torch

    logged: list[str] = []
    try:
        # vLLM's tensors can only be written in inference mode.
        with error_log.passing(logged.append), torch.inference_mode(), make(*arguments) as served:
            pipe.send(served.facts())
            while True:
                name, given = pipe.recv()
                _wake()
                try:
                    answer = getattr(served, name)(*given)
                except Exception as error:
                    answer = _Failure.of(error, logged)
                pipe.send(answer)
    except EOFError:
        return  # the parent is gone
    except Exception as error:
        with contextlib.suppress(OSError):  # the parent is gone
            pipe.send(_Failure.of(error, logged))


def end_with_parent() -> None:
    """End this process once its parent is gone, even if it is busy."""

    def wait() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()  # the system's own way ends with the parent's thread


def _wake() -> None:
    """Make the GPU switch to this process before the timed call, not during it."""
    import torch

    if (
        torch.cuda.is_initialized()
    ):  # a process that has not used the GPU should not allocate any of its memory
        torch.cuda._sleep(1)
        torch.cuda.synchronize()
