"""A prefill-only vLLM engine: start it, prefill prompts on chosen blocks, close it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from harness.config import RunConfig
from harness.engine import executors, starting
from harness.engine.options import (
    EXPORTED,
    EngineError,
    check_vllm,
    cpu_cache_of,
    engine_args,
    environment,
    whole_shares,
)
from harness.engine.ranks import Ranks
from harness.models import ModelSource
from harness.runs.schema import EngineSettings
from harness.units import counted

if TYPE_CHECKING:
    from patches.steering import Course


@dataclass(frozen=True)
class Prefill:
    """What one prefill step gave."""

    first_tokens: tuple[int, ...]  # of each prompt
    seconds: float  # of the engine step: schedule, run the model, sample, process the output


class PrefillEngine:
    """vLLM with prefix caching off and all prompts whole in one step.

    Its scheduler runs in this process, so that its block pool can be reached; so do its layers if there is
    one rank. `ranks` reaches them wherever they are.
    """

    def __init__(
        self,
        config: RunConfig,
        source: ModelSource,
        kv_cache_bytes: int | None = None,
        vllm_args: Mapping[str, Any] | None = None,
    ) -> None:
        """Start the engine with a materialised model.

        Args:
            kv_cache_bytes: of KV cache; None: what --gpu-memory-utilization leaves for it.
            vllm_args: vLLM's own arguments, in place of a prefill-only engine's.

        Raises:
            PatchError: this vLLM lacks something that is needed to see and steer it.
        """
        arguments = engine_args(config, source) | dict(vllm_args or {})
        check_vllm(config, source)
        given: dict[str, str] = {}
        if kv_cache_bytes is not None:
            arguments["kv_cache_memory_bytes"], given = kv_cache_bytes, cpu_cache_of(kv_cache_bytes)
        from vllm import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        from harness.engine import worker
        from patches import engine

        started = time.perf_counter()
        last_words = executors.LastWords().listen()
        with contextlib.ExitStack() as undo:
            with environment(given), starting.patched(config, source):
                if config.distributed_executor_backend == "ray":
                    executors.start_ray([*EXPORTED, worker.EXTENDED_POSITIONS])
                    undo.callback(executors.stop_ray)
                try:
                    self._engine = LLMEngine.from_engine_args(EngineArgs(**whole_shares(arguments)))
                except (ValueError, NotImplementedError) as error:
                    said = f"vLLM does not take {source.name} as asked: {_reason(error)}"
                    raise EngineError(said) from error
            undo.callback(self._engine.engine_core.shutdown)
            # Not in a variable: a library that keeps an error of its import keeps this frame with it.
            self._core = starting.completed(self._engine, config, source)
            self._pool = engine.block_pool(self._core)
            self.ranks = Ranks(self._core.model_executor, config.tensor_parallel_size, last_words)
            self.about = self.ranks.call("about")[0]
            self._undo = undo.pop_all()
        self.start_s = time.perf_counter() - started
        self._requests = 0

    @property
    def settings(self) -> EngineSettings:
        """What vLLM made of the configuration, for the run's record."""
        vllm = self._engine.vllm_config
        return EngineSettings(
            dtype=str(vllm.model_config.dtype).removeprefix("torch."),
            block_size=self.block_size,
            max_model_len=vllm.model_config.max_model_len,
            max_num_batched_tokens=vllm.scheduler_config.max_num_batched_tokens,
            compilation_mode=str(vllm.compilation_config.mode),
            cudagraph_mode=str(vllm.compilation_config.cudagraph_mode),
            enforce_eager=vllm.model_config.enforce_eager,
            prefix_caching=vllm.cache_config.enable_prefix_caching,
            flash_attn_version=self.about.flash_attn_version,
            attention_backend=list(self.about.backends),
            num_blocks_in_pool=len(self._pool.blocks),
        )

    @property
    def block_size(self) -> int:
        """Tokens a block, as vLLM has it."""
        return int(self._engine.vllm_config.cache_config.block_size)

    @property
    def llm(self) -> Any:
        """vLLM's LLMEngine, for requests that are more than one prefill: see engine.completions."""
        return self._engine

    @property
    def block_pool(self) -> Any:
        """vLLM's BlockPool."""
        return self._pool

    def free_block_ids(self) -> list[int]:
        """Physical ids of the free blocks, ascending."""
        from patches import block_pool

        return block_pool.free_block_ids(self._pool)

    def next_block_ids(self, counts: Sequence[int]) -> list[list[int]]:
        """The blocks that the next requests, of so many blocks each, would get if nothing were chosen."""
        from patches import block_pool

        ids = iter(block_pool.next_block_ids(self._pool, sum(counts)))
        return [list(islice(ids, count)) for count in counts]

    def prefill(
        self,
        prompts: Sequence[Sequence[int]],
        block_ids: Sequence[Sequence[int]] | None = None,
        course: Course | None = None,
    ) -> Prefill:
        """Prefill prompts in one step and sample one token each.

        Args:
            prompts: token ids of each.
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

    def _prefill(
        self, prompts: Sequence[Sequence[int]], block_ids: Sequence[Sequence[int]] | None
    ) -> Prefill:
        from vllm import SamplingParams

        from patches import block_pool

        if block_ids is not None:
            # vLLM schedules requests in the order of their arrival, each from the head of the free blocks.
            block_pool.choose_next(self._pool, list(chain(*block_ids)))
        params = SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True, detokenize=False)
        names = [str(self._requests + n) for n in range(len(prompts))]
        self._requests += len(prompts)
        for name, token_ids in zip(names, prompts, strict=True):
            self._engine.add_request(name, {"prompt_token_ids": list(token_ids)}, params)
        with self.ranks.watched():
            start = time.perf_counter()
            try:
                outputs = self._engine.step()
            except BaseException:
                self._engine.abort_request(names)  # their blocks are free for the next ones
                raise
            seconds = time.perf_counter() - start
        first = {output.request_id: output.outputs[0].token_ids[0] for output in outputs if output.finished}
        if len(first) < len(prompts):
            while self._engine.has_unfinished_requests():
                self._engine.step()
            tokens = sum(map(len, prompts))
            raise EngineError(
                f"{counted(len(prompts), 'prompt')} of {tokens} tokens in all took more than one step; "
                "raise --max-num-batched-tokens to so many, or take fewer or shorter prompts"
            )
        return Prefill(tuple(first[name] for name in names), seconds)

    def close(self) -> None:
        """Stop the engine and its ranks and give their memory back. Closing twice does nothing."""
        self._undo.close()
        self._pool = self._core = self._engine = self.ranks = None  # type: ignore[assignment]
        _free_memory()

    def __enter__(self) -> PrefillEngine:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _reason(error: Exception) -> str:
    """The line that says what is wrong; pydantic puts it below a heading."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    found = next((line for line in lines if line.startswith("Value error, ")), lines[0])
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
