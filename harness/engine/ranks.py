"""All ranks of an engine behind one interface: one rank in this process, or several in vLLM's workers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.engine.executors import DeathWatch
    from harness.engine.rank import Rank


class RankDied(RuntimeError):
    """A worker process is gone, and the engine with it."""


class Ranks:
    """Calls methods of engine.rank.Rank on all ranks at once and returns their results in rank order."""

    def __init__(self, executor: Any, count: int, deaths: DeathWatch) -> None:
        """
        Args:
            executor: vLLM's, started with engine.worker.WorkerExtension.
            count: of ranks.
            deaths: learns from the executor which rank died.
        """
        self._executor, self.count, self._deaths = executor, count, deaths
        self._only: Rank | None = None if count > 1 else executor.collective_rpc("rank_itself")[0]

    @property
    def only(self) -> Rank:
        """The only rank, in this process."""
        assert self._only is not None, "the ranks are in other processes"
        return self._only

    def call(self, method: str, *args: Any) -> list[Any]:
        """Every rank's result.

        Raises:
            RankDied: a rank's process is gone.
            RuntimeError: the method raised in a rank. With one rank, or for errors that say what to do (see
                engine.worker), the error itself.
        """
        if self._only is not None:
            return [getattr(self._only, method)(*args)]
        with self.watch():
            answers: list[Any] = self._executor.collective_rpc("on_rank", args=(method, args))
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    @contextmanager
    def during(self, what: str, *args: Any) -> Iterator[list[Any]]:
        """Hold one of Rank's contexts open in every rank; afterwards the list has every rank's result."""
        self.call("begin", what, *args)
        answers: list[Any] = []
        try:
            yield answers
        except BaseException as error:
            # After Ctrl-C workers are gone, or still busy with the previous call.
            if self._only is not None or isinstance(error, Exception):
                self.call("end")
            raise
        answers += self.call("end")

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Raise RankDied if a rank's process dies inside the block."""
        try:
            yield
        except Exception:
            self.check_alive()
            raise

    def check_alive(self) -> None:
        """Raise RankDied if a rank's process is gone."""
        if getattr(self._executor, "is_failed", False):
            raise RankDied(f"{self._deaths.describe()}; what was measured before is kept")
