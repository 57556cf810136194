"""A vLLM engine that serves only the harness's requests: start it, add prompts, step, close it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness import interrupts
from harness.config.engine import EngineSpec
from harness.engine import executors, start_errors, starting, vllm_log
from harness.engine.options import EXPORTED, EngineError, check_vllm, engine_args
from harness.engine.ranks import Ranks
from harness.models import ModelSource
from harness.runs.schema import EngineSettings
from harness.units import pluralise

if TYPE_CHECKING:
    from patches.steering import Override

Prompts = Sequence[Sequence[int]]  # token ids of each


@dataclass(frozen=True)
class EngineStep:
    """One step of the engine and the prompts' state after it; lists are in the prompts' order."""

    seconds: float  # schedule, run the model, sample, process the output
    tokens: list[tuple[int, ...]]  # generated so far, greedily
    cached_tokens: list[int]  # for each prompt, how many came from the prefix cache, as vLLM counts


@dataclass(frozen=True)
class Prefill:
    """The result of one prefill step."""

    first_tokens: tuple[int, ...]  # of each prompt
    seconds: float  # of the engine step


@dataclass(frozen=True)
class EngineFacts:
    """What a started engine reports about itself."""

    settings: EngineSettings  # vLLM's effective ones
    block_size: int
    num_blocks: int  # available to requests
    block_bytes: int  # of K and V of a block, all layers together
    start_s: float

    def with_start_s(self) -> EngineSettings:
        """The settings, and how long the engine took to start."""
        return self.settings.model_copy(update={"start_s": round(self.start_s, 1)})


class Engine:
    """vLLM in this process: its scheduler and block pool, and with one rank its layers too.

    `ranks` reaches the layers in any case.
    """

    def __init__(self, spec: EngineSpec, source: ModelSource) -> None:
        """Start the engine with a materialised model.

        Raises:
            PatchError: this vLLM lacks something needed to observe and steer it.
            EngineError: vLLM does not start, for whatever reason.
        """
        check_vllm(source, spec.attention_backend)
        arguments = engine_args(spec, source)
        from vllm import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        from patches import block_groups, block_pool, engine, positions

        started = time.perf_counter()
        deaths = executors.DeathWatch()
        with contextlib.ExitStack() as undo:
            undo.enter_context(deaths.listening())
            with (
                starting.apply_patches(spec, source),
                vllm_log.listening() as logged,
                start_errors.explaining(spec, source, logged),
            ):
                if spec.distributed_executor_backend == "ray":
                    executors.start_ray([*EXPORTED, positions.EXTENDED_POSITIONS])
                    undo.callback(executors.stop_ray)
                self.llm = LLMEngine.from_engine_args(EngineArgs(**arguments))
                undo.callback(self.llm.engine_core.shutdown)
                # Not in a variable: a library that keeps an import error would keep this frame alive.
                self._core = starting.complete(self.llm, spec.seed, source)
            self.block_pool = engine.block_pool(self._core)
            self.ranks = Ranks(self._core.model_executor, spec.tensor_parallel_size, deaths)
            self.about = self.ranks.call("about")[0]
            self.groups = block_groups.groups(self._core)
            # Of groups whose blocks are not chosen, for the most that a step can hold.
            others = self.groups.num_other_blocks([spec.max_model_len] * spec.max_num_seqs)
            self._others = block_pool.next_block_ids(self.block_pool, others)
            self._undo = undo.pop_all()
        self.start_s = time.perf_counter() - started
        self._requests = 0

    @property
    def settings(self) -> EngineSettings:
        """vLLM's effective settings, for the run's record."""
        from patches import engine

        return EngineSettings(
            **engine.settings(self.llm),
            flash_attn_version=self.about.flash_attn_version,
            attention_backend=list(self.about.backends),
            num_blocks_in_pool=len(self.block_pool.blocks),
            kv_cache_bytes=self.blocks_in_pool * self.groups.block_bytes,
        )

    def facts(self) -> EngineFacts:
        """For the run's record, and to know what fits."""
        more = self.blocks_in_pool, self.groups.block_bytes, self.start_s
        return EngineFacts(self.settings, self.block_size, *more)

    @property
    def block_size(self) -> int:
        """Tokens of a block of K and V in vLLM."""
        from patches import engine

        return self.groups.block_size or int(engine.settings(self.llm)["block_size"])

    @property
    def blocks_in_pool(self) -> int:
        """Blocks available to requests."""
        from patches import kv_cache

        return kv_cache.blocks_in_pool(self.block_pool)

    def cache_bytes(self) -> int:
        """Bytes of K and V in the blocks that requests hold now."""
        from patches import kv_cache

        return kv_cache.blocks_in_use(self.block_pool) * self.groups.block_bytes

    def free_block_ids(self) -> list[int]:
        """Physical ids of the free blocks that can be chosen, ascending."""
        from patches import block_pool

        reserved = set(self._others)
        return [n for n in block_pool.free_block_ids(self.block_pool) if n not in reserved]

    def next_block_ids(self, lengths: Sequence[int]) -> list[list[int]]:
        """The blocks that vLLM would give the next requests, of this many tokens each."""
        from patches import block_pool

        ids = block_pool.next_block_ids(self.block_pool, self.groups.num_blocks(lengths))
        return self.groups.pick(lengths, ids)

    def reset_prefix_cache(self) -> float:
        """Drop all cached prefixes and return the seconds that took. Raises EngineError if vLLM refuses."""
        from patches import kv_cache

        start = time.perf_counter()
        done = kv_cache.reset_prefix_cache(self.llm)
        seconds = time.perf_counter() - start
        if not done:
            raise EngineError("vLLM did not reset its prefix cache: a request still holds blocks")
        return seconds

    def steps(self, prompts: Prompts, max_tokens: int) -> Generator[EngineStep, None, None]:
        """Add the prompts and yield each step until all have their tokens; closing frees their blocks.

        Close it early (contextlib.closing) to end the requests; an error does so as well.

        Args:
            max_tokens: to generate from each.
        """
        tokens: dict[str, tuple[int, ...]] = dict.fromkeys(self._add(prompts, max_tokens), ())
        cached = dict.fromkeys(tokens, 0)
        try:
            while self.llm.has_unfinished_requests():
                with self.ranks.watch():
                    start = time.perf_counter()
                    outputs = self.llm.step()
                    seconds = time.perf_counter() - start
                for output in outputs:
                    tokens[output.request_id] = tuple(output.outputs[0].token_ids)
                    cached[output.request_id] = output.num_cached_tokens or 0
                yield EngineStep(seconds, list(tokens.values()), list(cached.values()))
        finally:
            self.llm.abort_request(list(tokens))

    def _add(self, prompts: Prompts, max_tokens: int) -> list[str]:
        """Hand the prompts to vLLM and return the requests' names."""
        from vllm import SamplingParams

        params = SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True, detokenize=False)
        names = [str(self._requests + n) for n in range(len(prompts))]
        self._requests += len(prompts)
        for name, ids in zip(names, prompts, strict=True):
            self.llm.add_request(name, {"prompt_token_ids": list(ids)}, params)
        return names

    def prefill(
        self, prompts: Prompts, block_ids: Prompts | None = None, override: Override | None = None
    ) -> Prefill:
        """Prefill prompts in one step and sample one token each.

        Args:
            block_ids: the physical blocks to put each one's K and V into, in order; None: as vLLM chooses.
            override: how attention runs; None: vLLM untouched. Installing and removing it is not timed.

        Raises:
            EngineError: the prompts took more than one step, or could not be steered.
        """
        # Ranks in other processes get a message before every prefill, so that every arm finds them awake.
        with self.ranks.during("steer", override) as steps_by_rank:
            done = self._prefill(prompts, block_ids)
        if override is not None and any(steps != [1] for steps in steps_by_rank):
            raise EngineError("the step was not a pure prefill of whole prompts, so it was not steered")
        return done

    def _prefill(self, prompts: Prompts, block_ids: Prompts | None) -> Prefill:
        from patches import block_pool

        if block_ids is not None:
            # vLLM schedules requests in the order of their arrival, each from the head of the free blocks.
            order = self.groups.order([len(prompt) for prompt in prompts], block_ids, self._others)
            block_pool.choose_next(self.block_pool, order)
        with contextlib.closing(self.steps(prompts, 1)) as steps:
            step = next(steps)
        if not all(step.tokens):
            raise several_steps(prompts)
        return Prefill(tuple(tokens[0] for tokens in step.tokens), step.seconds)

    def close(self) -> None:
        """Stop the engine and its ranks and release their memory. Closing twice is harmless."""
        with interrupts.deferred():
            self._undo.close()
            self.block_pool = self._core = self.llm = self.ranks = None  # type: ignore[assignment]
            _free_memory()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def several_steps(prompts: Prompts) -> EngineError:
    """The error for prompts that took more than one step."""
    return EngineError(
        f"{pluralise(len(prompts), 'prompt')} of {sum(map(len, prompts))} tokens in all took more than one "
        "step; set --max-num-batched-tokens to at least that, or use fewer or shorter prompts"
    )


def _free_memory() -> None:
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def check_room(blocks: int, free: Sequence[int]) -> None:
    """Check that the pool can hold the prompts' KV cache, `blocks` blocks, twice.

    Raises:
        EngineError: it cannot; the one-segment baseline and the fragmented copy must both be resident.
    """
    if len(free) < 2 * blocks:
        raise EngineError(
            f"the KV cache has {len(free)} free blocks, {2 * blocks} are needed (the prompts' {blocks} in "
            "one segment and again fragmented); raise --gpu-memory-utilization, or on a CPU the "
            "environment's VLLM_CPU_KVCACHE_SPACE (GiB)"
        )


def check_backend(asked: str | None, got: Sequence[str]) -> None:
    """Check that attention runs in the requested backend.

    Args:
        asked: vLLM's name in any case, or None for its choice.
        got: the layers' backends, each once.

    Raises:
        EngineError: vLLM chose another one.
    """
    if asked is not None and (others := [name for name in got if name != asked.upper()]):
        raise EngineError(
            f"--attention-backend {asked}: vLLM took {', '.join(others)} instead; choose that one, or leave "
            "it out"
        )
