"""A vLLM engine whose only requests are the harness's own: start it, add prompts, step, close it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING

from harness.config.engine import EngineSpec
from harness.engine import executors, starting
from harness.engine.options import EXPORTED, EngineError, check_vllm, engine_args
from harness.engine.ranks import Ranks
from harness.models import ModelSource
from harness.runs.schema import EngineSettings
from harness.units import counted, first_line

if TYPE_CHECKING:
    from patches.steering import Course

Prompts = Sequence[Sequence[int]]  # token ids of each


@dataclass(frozen=True)
class EngineStep:
    """One step of the engine, and where the prompts are after it; lists have the prompts' order."""

    seconds: float  # schedule, run the model, sample, process the output
    tokens: list[tuple[int, ...]]  # generated so far, greedily
    cached_tokens: list[int]  # of each prompt, how many came out of the prefix cache: vLLM's own count


@dataclass(frozen=True)
class Prefill:
    """What one prefill step gave."""

    first_tokens: tuple[int, ...]  # of each prompt
    seconds: float  # of the engine step


@dataclass(frozen=True)
class EngineFacts:
    """What a started engine says of itself."""

    settings: EngineSettings  # what vLLM made of its arguments
    block_size: int
    num_blocks: int  # that requests can have
    block_bytes: int  # of K and V of a block, all layers together
    start_s: float

    def with_start_s(self) -> EngineSettings:
        """The settings, and how long the engine took to start."""
        return self.settings.model_copy(update={"start_s": round(self.start_s, 1)})


class Engine:
    """vLLM in this process: its scheduler and block pool, and its layers too if there is one rank.

    `ranks` reaches the layers wherever they are.
    """

    def __init__(self, spec: EngineSpec, source: ModelSource) -> None:
        """Start the engine with a materialised model.

        Raises:
            PatchError: this vLLM lacks something that is needed to see and steer it.
            EngineError: vLLM refuses what it is started with.
        """
        check_vllm(source)
        arguments = engine_args(spec, source)
        from vllm import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        from patches import engine, kv_cache, positions

        started = time.perf_counter()
        deaths = executors.DeathWatch()
        with contextlib.ExitStack() as undo:
            undo.enter_context(deaths.listening())
            with starting.patched(spec, source):
                if spec.distributed_executor_backend == "ray":
                    executors.start_ray([*EXPORTED, positions.EXTENDED_POSITIONS])
                    undo.callback(executors.stop_ray)
                try:
                    self.llm = LLMEngine.from_engine_args(EngineArgs(**arguments))
                except (ValueError, NotImplementedError) as error:
                    said = f"vLLM does not take {source.name} as asked: {_reason(error)}"
                    raise EngineError(said) from error
            undo.callback(self.llm.engine_core.shutdown)
            # Not in a variable: a library that keeps an error of its import keeps this frame with it.
            self._core = starting.complete(self.llm, spec.seed, source)
            self.block_pool = engine.block_pool(self._core)
            self.ranks = Ranks(self._core.model_executor, spec.tensor_parallel_size, deaths)
            self.about = self.ranks.call("about")[0]
            self._block_bytes = kv_cache.block_bytes(self.llm)
            self._undo = undo.pop_all()
        self.start_s = time.perf_counter() - started
        self._requests = 0

    @property
    def settings(self) -> EngineSettings:
        """What vLLM made of its arguments, for the run's record."""
        from patches import engine

        return EngineSettings(
            **engine.settings(self.llm),
            flash_attn_version=self.about.flash_attn_version,
            attention_backend=list(self.about.backends),
            num_blocks_in_pool=len(self.block_pool.blocks),
            kv_cache_bytes=self.blocks_in_pool * self._block_bytes,
        )

    def facts(self) -> EngineFacts:
        """For the run's record, and to know what fits."""
        more = self.blocks_in_pool, self._block_bytes, self.start_s
        return EngineFacts(self.settings, self.block_size, *more)

    @property
    def block_size(self) -> int:
        """Tokens of a block, as vLLM has it."""
        from patches import engine

        return int(engine.settings(self.llm)["block_size"])

    @property
    def blocks_in_pool(self) -> int:
        """Blocks that requests can have."""
        from patches import kv_cache

        return kv_cache.blocks_in_pool(self.block_pool)

    def cache_bytes(self) -> int:
        """Of K and V in the blocks that requests hold now."""
        from patches import kv_cache

        return kv_cache.blocks_in_use(self.block_pool) * self._block_bytes

    def free_block_ids(self) -> list[int]:
        """Physical ids of the free blocks, ascending."""
        from patches import block_pool

        return block_pool.free_block_ids(self.block_pool)

    def next_block_ids(self, counts: Sequence[int]) -> list[list[int]]:
        """The blocks that the next requests, of so many blocks each, would get if nothing were chosen."""
        from patches import block_pool

        ids = iter(block_pool.next_block_ids(self.block_pool, sum(counts)))
        return [list(islice(ids, count)) for count in counts]

    def reset_prefix_cache(self) -> float:
        """Forget all cached prefixes; the seconds it took. Raises EngineError if vLLM refuses."""
        from patches import kv_cache

        start = time.perf_counter()
        done = kv_cache.reset_prefix_cache(self.llm)
        seconds = time.perf_counter() - start
        if not done:
            raise EngineError("vLLM did not reset its prefix cache: some request still holds blocks")
        return seconds

    def steps(self, prompts: Prompts, max_tokens: int) -> Generator[EngineStep, None, None]:
        """Add the prompts and step until each has its tokens; what they held is free once this is closed.

        Close it (contextlib.closing) to end the requests earlier, which an error does as well.

        Args:
            max_tokens: to generate from each.
        """
        tokens: dict[str, tuple[int, ...]] = dict.fromkeys(self._add(prompts, max_tokens), ())
        cached = dict.fromkeys(tokens, 0)
        try:
            while self.llm.has_unfinished_requests():
                with self.ranks.watched():
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
        """Hand the prompts to vLLM; the requests' names."""
        from vllm import SamplingParams

        params = SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True, detokenize=False)
        names = [str(self._requests + n) for n in range(len(prompts))]
        self._requests += len(prompts)
        for name, ids in zip(names, prompts, strict=True):
            self.llm.add_request(name, {"prompt_token_ids": list(ids)}, params)
        return names

    def prefill(
        self, prompts: Prompts, block_ids: Prompts | None = None, course: Course | None = None
    ) -> Prefill:
        """Prefill prompts in one step and sample one token each.

        Args:
            block_ids: the physical blocks to put each one's K and V into, in order; None: as vLLM chooses.
            course: how attention runs; None: vLLM untouched. Putting it on and off is not timed.

        Raises:
            EngineError: the prompts took more than one step, or could not be steered.
        """
        # Ranks in other processes are told something ahead of every prefill, so that all find them awake.
        with self.ranks.during("steered", course) as steered:
            done = self._prefill(prompts, block_ids)
        if course is not None and any(steps != [1] for steps in steered):
            raise EngineError("the prefill was no pure prefill of whole prompts, so it was not steered")
        return done

    def _prefill(self, prompts: Prompts, block_ids: Prompts | None) -> Prefill:
        from patches import block_pool

        if block_ids is not None:
            # vLLM schedules requests in the order of their arrival, each from the head of the free blocks.
            block_pool.choose_next(self.block_pool, list(chain(*block_ids)))
        with contextlib.closing(self.steps(prompts, 1)) as steps:
            step = next(steps)
        if not all(step.tokens):
            raise several_steps(prompts)
        return Prefill(tuple(tokens[0] for tokens in step.tokens), step.seconds)

    def close(self) -> None:
        """Stop the engine and its ranks and give their memory back. Closing twice does nothing."""
        self._undo.close()
        self.block_pool = self._core = self.llm = self.ranks = None  # type: ignore[assignment]
        _free_memory()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def several_steps(prompts: Prompts) -> EngineError:
    """What to raise where one step did not take all prompts."""
    return EngineError(
        f"{counted(len(prompts), 'prompt')} of {sum(map(len, prompts))} tokens in all took more than one "
        "step; raise --max-num-batched-tokens to so many, or take fewer or shorter prompts"
    )


def _reason(error: Exception) -> str:
    """The line that says what is wrong; pydantic puts it below a heading."""
    lines = [line.strip() for line in str(error).splitlines()]
    found = next((line for line in lines if line.startswith("Value error, ")), first_line(error))
    return found.removeprefix("Value error, ").partition(" [type=")[0]


def _free_memory() -> None:
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def check_room(blocks: int, free: Sequence[int]) -> None:
    """Check that the pool can hold the prompts' KV cache, of so many blocks, twice.

    Raises:
        EngineError: it cannot; the one-run baseline and the fragmented copy must live side by side.
    """
    if len(free) < 2 * blocks:
        raise EngineError(
            f"the KV cache has {len(free)} free blocks, {2 * blocks} are needed (the prompts' {blocks} in "
            "one run and again fragmented); raise --gpu-memory-utilization, or on a CPU the environment's "
            "VLLM_CPU_KVCACHE_SPACE (GiB)"
        )


def check_backend(asked: str | None, got: Sequence[str]) -> None:
    """Check that attention runs in the backend that was asked for.

    Args:
        asked: vLLM's name in any case, or None for its choice.
        got: the layers' backends, each once.

    Raises:
        EngineError: vLLM took another one.
    """
    if asked is not None and (others := [name for name in got if name != asked.upper()]):
        raise EngineError(
            f"--attention-backend {asked}: vLLM took {', '.join(others)} in its place; ask for that one, or "
            "leave it out"
        )
