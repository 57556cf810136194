"""The two jobs whose memory is compared, stage by stage. Each runs in a process of its own.

Neither is imported, with what it needs, before its process runs it: one's libraries are not in the other's
figures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from harness.experiments.memory.options import MemoryConfig
from harness.experiments.prefill.options import for_engine
from harness.models import ModelSource

EngineName = Literal["transformers", "vLLM"]
ENGINES: tuple[EngineName, ...] = ("transformers", "vLLM")
# Called when a stage is reached: bytes of KV cache in use, bytes set aside for it, first tokens.
Reached = Callable[[int, int, Sequence[int]], None]


@dataclass(frozen=True)
class Stage:
    """A moment at which memory is read."""

    name: str
    lengths: tuple[int, ...] = ()  # tokens of the inputs whose KV cache is in memory then


def plan(engine: EngineName, lengths: Sequence[int]) -> list[Stage]:
    """The stages of an engine's job, in order."""
    every = tuple(lengths)
    inputs = [Stage("all inputs", every)]
    if engine == "transformers":
        alone = [Stage(f"input {n}", (length,)) for n, length in enumerate(lengths, start=1)]
        inputs = [*alone, Stage("all, padded", every)]
    return [Stage("start"), Stage("model loaded"), Stage("warmed up"), *inputs, Stage("done")]


class Job(Protocol):
    """What a process runs: each function does what leads to its stage and calls `reached` in it."""

    block_size: int  # of the loaded engine, which may differ from the configured one; 0: none

    def load(self, reached: Reached) -> None:
        """Load the model."""
        ...

    def warm_up(self, reached: Reached) -> None:
        """Run a prompt of one token and one of the longest's length."""
        ...

    def run(self, stage: Stage, reached: Reached) -> None:
        """Prefill the stage's inputs; `reached` is called while their KV cache is there."""
        ...

    def done(self, reached: Reached) -> None:
        """The inputs are done with, the model is still loaded."""
        ...


def job_of(engine: EngineName, config: MemoryConfig, source: ModelSource, token_ids: list[int]) -> Job:
    """The job of an engine; nothing is loaded yet.

    Args:
        source: materialised.
        token_ids: at least as many as the longest input has; every input is their beginning.
    """
    kind = TransformersJob if engine == "transformers" else VllmJob
    return kind(config, source, token_ids)


class TransformersJob:
    """Hugging Face transformers, one request at a time, then all of them padded to the longest."""

    block_size = 0

    def __init__(self, config: MemoryConfig, source: ModelSource, token_ids: list[int]) -> None:
        self.config, self.source, self.token_ids = config, source, token_ids

    def load(self, reached: Reached) -> None:
        from harness import device
        from harness.engine import transformers_model

        self.device = device.kind()
        self.model, self.last_only = transformers_model.load(
            self.source, self.config.dtype, self.device, self.config.seed
        )
        reached(0, 0, [])

    def warm_up(self, reached: Reached) -> None:
        for length in (1, max(self.config.lengths)):
            self._prefill([length])
        reached(0, 0, [])

    def run(self, stage: Stage, reached: Reached) -> None:
        cache, first_tokens = self._prefill(stage.lengths)
        used = sum(each.nbytes for layer in cache.layers for each in (layer.keys, layer.values))
        reached(used, used, first_tokens)

    def done(self, reached: Reached) -> None:
        reached(0, 0, [])

    def _prefill(self, lengths: Sequence[int]) -> tuple[Any, list[int]]:
        """The KV cache of prompts of these lengths, padded on the left as for generation; first tokens."""
        import torch
        from transformers import DynamicCache

        longest = max(lengths)
        ids = torch.zeros(len(lengths), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, length in enumerate(lengths):
            ids[row, longest - length :] = torch.tensor(self.token_ids[:length])
            mask[row, longest - length :] = 1
        positions = (mask.cumsum(-1) - 1).clamp_min(0)
        inputs: dict[str, Any] = {"input_ids": ids.to(self.device)}
        if len(lengths) > 1:
            inputs |= {"attention_mask": mask.to(self.device), "position_ids": positions.to(self.device)}
        # Not the model's own choice, which drops what a sliding window has passed: vLLM keeps that here, too.
        done = self.model(**inputs, past_key_values=DynamicCache(), use_cache=True, **self.last_only)
        return done.past_key_values, done.logits[:, -1].argmax(-1).tolist()


class VllmJob:
    """vLLM in this process, all requests in one batch."""

    block_size = 0

    def __init__(self, config: MemoryConfig, source: ModelSource, token_ids: list[int]) -> None:
        self.config, self.source, self.token_ids = config, source, token_ids

    def load(self, reached: Reached) -> None:
        from harness.engine.options import cpu_cache_gib, environment, unless_set
        from harness.engine.prefill_engine import PrefillEngine

        lengths = self.config.lengths
        room = unless_set({"VLLM_CPU_KVCACHE_SPACE": str(cpu_cache_gib(sum(lengths), self.source))})
        arguments = {
            "max_num_seqs": len(lengths),
            "max_num_batched_tokens": self.config.max_num_batched_tokens or max(sum(lengths) + 1, 2048),
        }
        with environment(room):
            self.engine = PrefillEngine(
                for_engine(self.config, max(lengths) + 1), self.source, vllm_args=arguments
            )
        self.block_size = self.engine.block_size
        self._reached(reached)

    def warm_up(self, reached: Reached) -> None:
        from harness.engine.completions import warm_up

        warm_up(self.engine, [1, max(self.config.lengths)], at_once=1)
        self._reached(reached)

    def run(self, stage: Stage, reached: Reached) -> None:
        from harness.engine.completions import complete

        prompts = [self.token_ids[:length] for length in stage.lengths]
        first_tokens = [done[0] for done in complete(self.engine, prompts).tokens]
        steps: list[int] = []

        def on_step() -> None:
            steps.append(1)
            if len(steps) == 1:  # all prompts are prefilled, and each waits for one more token
                self._reached(reached, first_tokens)

        complete(self.engine, prompts, 2, on_step)

    def done(self, reached: Reached) -> None:
        self._reached(reached)

    def _reached(self, reached: Reached, first_tokens: Sequence[int] = ()) -> None:
        from patches import kv_cache

        pool, each = self.engine.block_pool, kv_cache.block_bytes(self.engine.llm)
        reached(kv_cache.blocks_in_use(pool) * each, kv_cache.blocks_in_pool(pool) * each, first_tokens)
