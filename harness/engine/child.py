"""Something heavy in a process of its own: several are up side by side, and one that dies is only one.

Questions and answers are pickled on a pipe of their own, so nothing that a library prints gets between them.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from harness.engine.exits import MemoryWatch
from harness.runs.record import Status, status_of
from harness.stack import with_room

CLOSING_S = 5.0
# Called in the child; what it yields answers with its methods, and with `facts()` once it is up.
Make = Callable[..., AbstractContextManager[Any]]


class EngineFailed(RuntimeError):
    """An engine could not do what it was asked, or its process is gone; `status` is its cells'."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class ChildDied(EngineFailed):
    """The process is gone."""


class Child:
    """What `make(*arguments)` yields, in a child process; one call at a time, and the caller waits for it."""

    def __init__(self, make: Make, *arguments: Any) -> None:
        """Start the process and wait until it is up; `facts` is what it says of itself then.

        Args:
            make: a function of a module; it and the arguments must pickle.

        Raises:
            EngineFailed: it did not start.
        """
        context = multiprocessing.get_context("spawn")  # a fork would share CUDA and vLLM's threads
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, arguments))
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
        """What the method of that name returns.

        Raises:
            EngineFailed: it raised.
            ChildDied: the process is gone.
        """
        with contextlib.suppress(OSError):  # the child is gone, which reading says with its reason
            self._pipe.send((name, arguments))
        return self._answer()

    def _answer(self) -> Any:
        try:
            answer = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            status, how = self._memory.ended(self._process.exitcode)
            raise ChildDied(status, f"the process ended with {how}") from None
        if isinstance(answer, _Failure):
            raise EngineFailed(answer.status, answer.reason)
        return answer

    def close(self) -> None:
        """End the process, whatever it is doing; its memory is free on return. Closing twice does nothing."""
        self._pipe.close()  # at whose end it ends by itself, unless it is busy
        self._process.join(CLOSING_S)
        self.kill()

    def kill(self) -> None:
        """End it at once: it has nothing to put in order."""
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


@with_room
def _serve(pipe: Connection, make: Make, arguments: tuple[Any, ...]) -> None:
    """The child: make it, say so, and answer until it is killed or the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends its children
    os.dup2(2, 1)  # stdout belongs to the parent's tables
    import torch

    try:
        # vLLM's tensors may only be written to in inference mode.
        with torch.inference_mode(), make(*arguments) as served:
            pipe.send(served.facts())
            while True:
                name, given = pipe.recv()
                _wake()
                try:
                    answer = getattr(served, name)(*given)
                except Exception as error:
                    answer = _Failure(*status_of(error))
                pipe.send(answer)
    except EOFError:
        return  # the parent is gone
    except Exception as error:
        with contextlib.suppress(OSError):  # so is it here
            pipe.send(_Failure(*status_of(error)))


def _wake() -> None:
    """Have the GPU switch to this process ahead of what is timed, not in it."""
    import torch

    if torch.cuda.is_initialized():  # what has used no GPU yet is not to hold any of its memory
        torch.cuda._sleep(1)
        torch.cuda.synchronize()
