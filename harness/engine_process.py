"""A prefill-only engine in a process of its own: several are up side by side, and one that dies is only one.

Questions and answers are pickled on a pipe of their own, so nothing that vLLM prints gets between them. The
figures are the child's: what the pipe costs is in none of them.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, cast

from harness.config import RunConfig
from harness.engine import Prefill, PrefillEngine
from harness.models import ModelSource
from harness.record import Status, status_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from harness.inengine import InEngineArm


class EngineFailed(RuntimeError):
    """The engine could not do what it was asked, or its process is gone; `status` is its cells'."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class ArmFacts:
    """What is known of an arm outside the engine's process; see inengine.InEngineArm."""

    name: str
    spread_k: int
    same_kernel_as: str
    remark: str | None


@dataclass(frozen=True)
class EngineFacts:
    """What a started engine says of itself."""

    settings: dict[str, Any]
    arms: dict[str, ArmFacts]  # by name
    not_steered: str | None  # why there are only the arms "engine" and "paged"
    start_s: float


class EngineProcess:
    """A PrefillEngine in a child process; it does one thing at a time, and the caller waits for it.

    Not for tensor parallelism: its arms need the engine's layers in the process they run in.
    """

    def __init__(self, config: RunConfig, source: ModelSource, kv_cache_bytes: int | None = None) -> None:
        """Start the engine with a materialised model, and wait until it is up.

        Args:
            kv_cache_bytes: see PrefillEngine.

        Raises:
            EngineFailed: it did not start.
        """
        context = multiprocessing.get_context("spawn")  # a fork would share CUDA and vLLM's threads
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, config, source, kv_cache_bytes))
        self._process.start()
        theirs.close()  # so that the pipe ends where the child does
        try:
            self.facts: EngineFacts = self._answer()
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int | None:
        """The child's process id."""
        return self._process.pid

    def prefill(self, token_ids: Sequence[int], arm: str) -> Prefill:
        """Prefill the prompt once as the arm has it.

        Raises:
            EngineFailed: it could not, or the process is gone.
        """
        return cast(Prefill, self._ask("prefill", token_ids, arm))

    def outcome(self, token_ids: Sequence[int], arm: str) -> tuple[npt.NDArray[np.float32], int]:
        """The logits, [1, vocabulary] in float32, and the first token of a prefill; raises as `prefill`."""
        return cast("tuple[npt.NDArray[np.float32], int]", self._ask("outcome", token_ids, arm))

    def _ask(self, name: str, *arguments: Any) -> Any:
        with contextlib.suppress(OSError):  # the child is gone, which reading says with its reason
            self._pipe.send((name, arguments))
        return self._answer()

    def _answer(self) -> Any:
        try:
            answer = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            raise EngineFailed(Status.ERROR, _how_it_ended(self._process.exitcode)) from None
        if isinstance(answer, _Failure):
            raise EngineFailed(answer.status, answer.reason)
        return answer

    def close(self) -> None:
        """End the process, whatever it is doing; its memory is free on return. Closing twice does nothing."""
        self._process.kill()  # it keeps nothing that would have to be put in order
        self._process.join()
        self._pipe.close()

    def __enter__(self) -> EngineProcess:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@dataclass(frozen=True)
class _Failure:
    status: Status
    reason: str


def _how_it_ended(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name
        killed = "; the system may have run out of memory" if -exit_code == signal.SIGKILL else ""
        return f"the engine's process ended with {name}{killed}"
    return f"the engine's process ended with exit status {exit_code}"


def _serve(pipe: Connection, config: RunConfig, source: ModelSource, kv_cache_bytes: int | None) -> None:
    """The child: start the engine, say so, and answer until it is killed or the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends its children
    os.dup2(2, 1)  # stdout belongs to the parent's tables
    import torch

    try:
        # vLLM's tensors may only be written to in inference mode.
        with torch.inference_mode(), PrefillEngine(config, source, kv_cache_bytes) as engine:
            served = _Served(engine, config)
            pipe.send(served.facts())
            while True:
                name, arguments = pipe.recv()
                try:
                    answer = getattr(served, name)(*arguments)
                except Exception as error:
                    answer = _Failure(*status_of(error))
                pipe.send(answer)
    except EOFError:
        return  # the parent is gone
    except Exception as error:
        with contextlib.suppress(OSError):  # so is it here
            pipe.send(_Failure(*status_of(error)))


class _Served:
    """What the child answers with."""

    def __init__(self, engine: PrefillEngine, config: RunConfig) -> None:
        from harness import inengine, layout

        self.engine = engine
        count = layout.num_blocks(config.length, engine.settings["block_size"])
        one_run = layout.plan(count, 1, engine.free_block_ids(), seed=config.seed)
        natural_k = layout.spread_k(engine.next_block_ids(count))
        if engine.about.not_steered is None:
            found = inengine.arms(engine, {1: one_run}, natural_k, None)
        else:
            untouched = inengine.InEngineArm("engine", natural_k, None, None)
            found = [untouched, inengine.InEngineArm("paged", 1, None, one_run)]
        self.arms = {arm.name: arm for arm in found if not arm.control}

    def facts(self) -> EngineFacts:
        return EngineFacts(
            self.engine.settings,
            {name: _facts(arm) for name, arm in self.arms.items()},
            self.engine.about.not_steered,
            self.engine.start_s,
        )

    def prefill(self, token_ids: Sequence[int], name: str) -> Prefill:
        _wake()
        arm = self.arms[name]
        return self.engine.prefill(token_ids, arm.block_ids, arm.course)

    def outcome(self, token_ids: Sequence[int], name: str) -> tuple[npt.NDArray[np.float32], int]:
        with self.engine.ranks.during("observing_logits") as seen:
            done = self.prefill(token_ids, name)
        return seen[0][-1].float().numpy(), done.first_token


def _facts(arm: InEngineArm) -> ArmFacts:
    return ArmFacts(arm.name, arm.spread_k, arm.same_kernel_as, arm.remark)


def _wake() -> None:
    """Have the GPU switch to this process ahead of the step, not in it."""
    import torch

    if torch.cuda.is_available():
        torch.cuda._sleep(1)
        torch.cuda.synchronize()
