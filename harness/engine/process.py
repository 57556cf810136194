"""A prefill-only engine in a process of its own.

The figures are the child's: what the pipe between the two costs is in none of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from harness import batch
from harness.config import RunConfig
from harness.engine.child import Child
from harness.engine.prefill_engine import Prefill, PrefillEngine
from harness.models import ModelSource
from harness.runs.schema import EngineSettings

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from harness.engine.inengine import InEngineArm


Prompts = Sequence[Sequence[int]]  # token ids of each


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

    settings: EngineSettings
    block_size: int
    arms: dict[str, ArmFacts]  # by name
    not_steered: str | None  # why there are only the arms "engine" and "paged"
    start_s: float


class EngineProcess(Child):
    """A PrefillEngine in a child process; it does one thing at a time, and the caller waits for it.

    Not for tensor parallelism: its arms need the engine's layers in the process they run in.
    """

    facts: EngineFacts

    def __init__(self, config: RunConfig, source: ModelSource, kv_cache_bytes: int | None = None) -> None:
        """Start the engine with a materialised model, and wait until it is up.

        Args:
            kv_cache_bytes: see PrefillEngine.

        Raises:
            EngineFailed: it did not start.
        """
        super().__init__(_served, config, source, kv_cache_bytes)

    def prefill(self, prompts: Prompts, arm: str) -> Prefill:
        """Prefill the prompts once as the arm has it.

        Raises:
            EngineFailed: it could not, or the process is gone.
        """
        return cast(Prefill, self.ask("prefill", prompts, arm))

    def outcome(self, prompts: Prompts, arm: str) -> tuple[npt.NDArray[np.float32], tuple[int, ...]]:
        """Logits, [requests, vocabulary] in float32, and first tokens of a prefill; raises as `prefill`."""
        return cast("tuple[npt.NDArray[np.float32], tuple[int, ...]]", self.ask("outcome", prompts, arm))

    def __enter__(self) -> EngineProcess:
        return self


@contextmanager
def _served(config: RunConfig, source: ModelSource, kv_cache_bytes: int | None) -> Iterator[_Served]:
    with PrefillEngine(config, source, kv_cache_bytes) as engine:
        yield _Served(engine, config)


class _Served:
    """What the child answers with."""

    def __init__(self, engine: PrefillEngine, config: RunConfig) -> None:
        from harness import layout
        from harness.engine import inengine

        self.engine = engine
        blocks = batch.blocks(config.requests, engine.block_size)
        in_one = [1] * len(blocks)
        one_run = layout.plan_batch(blocks, in_one, engine.free_block_ids(), seed=config.seed)
        natural_k = max(map(layout.spread_k, engine.next_block_ids(blocks)))
        if engine.about.not_steered is None:
            found = inengine.arms(engine, {1: one_run}, natural_k, None)
        else:
            untouched = inengine.InEngineArm("engine", natural_k, None, None)
            found = [untouched, inengine.InEngineArm("paged", 1, None, one_run)]
        self.arms = {arm.name: arm for arm in found if not arm.control}

    def facts(self) -> EngineFacts:
        return EngineFacts(
            self.engine.settings,
            self.engine.block_size,
            {name: _facts(arm) for name, arm in self.arms.items()},
            self.engine.about.not_steered,
            self.engine.start_s,
        )

    def prefill(self, prompts: Prompts, name: str) -> Prefill:
        arm = self.arms[name]
        return self.engine.prefill(prompts, arm.block_ids, arm.course)

    def outcome(self, prompts: Prompts, name: str) -> tuple[npt.NDArray[np.float32], tuple[int, ...]]:
        with self.engine.ranks.during("observing_logits") as seen:
            done = self.prefill(prompts, name)
        return seen[0][-1].float().numpy(), done.first_tokens


def _facts(arm: InEngineArm) -> ArmFacts:
    return ArmFacts(arm.name, arm.spread_k, arm.same_kernel_as, arm.remark)
