"""A vLLM engine that takes several prompts at once and generates from them, every step timed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from harness import device, layout
from harness.batch import prefill_steps
from harness.calls import joined_call
from harness.calls.capture import AttentionCall, CaptureError, from_engine, save
from harness.config import RunConfig
from harness.engine import starting
from harness.engine.options import (
    check_vllm,
    cpu_cache_of,
    engine_args,
    environment,
    unless_set,
    whole_shares,
)
from harness.measure import memory
from harness.models import ModelSource
from harness.runs.schema import EngineSettings

if TYPE_CHECKING:
    from harness.engine.rank import Rank

FirstLogits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Limits:
    """What an engine must have room for."""

    max_num_seqs: int  # prompts at once
    max_model_len: int  # tokens of one prompt with all that is generated from it
    max_num_batched_tokens: int  # of one step
    kv_cache_bytes: int | None = None  # None: what --gpu-memory-utilization leaves
    num_blocks: int | None = None  # in place of what would follow from the memory; None: all of it


@dataclass(frozen=True)
class Step:
    """One step of an engine, or of a model that generates."""

    seconds: float
    decoding: bool  # every prompt had its first token before and got another one
    cache_bytes: int  # of K and V that are in use after it, whole blocks where they are paged
    memory_bytes: int  # of the process after it, see measure.memory


@dataclass(frozen=True)
class Generated:
    """What prompts that ran side by side came to."""

    tokens: tuple[tuple[int, ...], ...]  # greedily, of each prompt
    steps: tuple[Step, ...]
    start_bytes: int  # of the process ahead of the first step, see measure.memory
    peak_bytes: int  # the most from then on

    @property
    def seconds(self) -> float:
        """Of all steps."""
        return sum(step.seconds for step in self.steps)

    @property
    def decode_seconds(self) -> float:
        """Of the steps in which every prompt was decoding."""
        return sum(step.seconds for step in self.steps if step.decoding)


@dataclass(frozen=True)
class GenerationFacts:
    """What a started engine says of itself."""

    settings: EngineSettings
    block_size: int
    num_blocks: int  # that requests can have
    block_bytes: int  # of K and V of a block, all layers together


class GenerationEngine:
    """vLLM in this process, prefix caching off; see Child for one in a process of its own."""

    def __init__(self, config: RunConfig, source: ModelSource, limits: Limits) -> None:
        """Start it with a materialised model; what of `config` is also in `limits` does not count."""
        check_vllm(config, source)
        from vllm import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        from patches import engine, kv_cache

        arguments = engine_args(config, source) | {
            "max_num_seqs": limits.max_num_seqs,
            "max_model_len": limits.max_model_len,
            "max_num_batched_tokens": limits.max_num_batched_tokens,
            "kv_cache_memory_bytes": limits.kv_cache_bytes,
            "num_gpu_blocks_override": limits.num_blocks,
        }
        started = time.perf_counter()
        given = {} if limits.kv_cache_bytes is None else unless_set(cpu_cache_of(limits.kv_cache_bytes))
        with environment(given), starting.patched(config, source):
            self._engine = LLMEngine.from_engine_args(EngineArgs(**whole_shares(arguments)))
        core = starting.completed(self._engine, config, source)
        self._pool = engine.block_pool(core)
        self._executor = core.model_executor
        self._free = self._pool.get_num_free_blocks()  # nobody has any yet: all but vLLM's null block
        self._block_bytes = kv_cache.block_bytes(self._engine)
        self._device = device.kind()
        self._start_s = time.perf_counter() - started
        self._requests = 0

    def facts(self) -> GenerationFacts:
        """For the run's record, and to know what fits."""
        vllm = self._engine.vllm_config
        layers = self._layers().values()
        size = int(vllm.cache_config.block_size)
        settings = EngineSettings(
            dtype=str(vllm.model_config.dtype).removeprefix("torch."),
            attention_backend=sorted({layer.attn_backend.get_name() for layer in layers}),
            max_num_batched_tokens=vllm.scheduler_config.max_num_batched_tokens,
            max_num_seqs=vllm.scheduler_config.max_num_seqs,
            enforce_eager=vllm.model_config.enforce_eager,
            cudagraph_mode=str(vllm.compilation_config.cudagraph_mode),
            kv_cache_bytes=self._free * self._block_bytes,
            block_size=size,
            start_s=round(self._start_s, 1),
        )
        return GenerationFacts(settings, size, self._free, self._block_bytes)

    def generate(self, prompts: Sequence[Sequence[int]], output_len: int) -> Generated:
        """Prefill the prompts, then take `output_len` - 1 steps in each of which every prompt gets a token.

        Prompts of more than max_num_batched_tokens together take several steps, as vLLM cuts them. Those
        that are through first decode meanwhile, in steps that do not count as decoding.

        Args:
            prompts: token ids of each; all must fit the KV cache at once.
        """
        names = self._add(prompts, output_len)
        tokens: dict[str, int] = dict.fromkeys(names, 0)
        texts: dict[str, tuple[int, ...]] = {}
        steps: list[Step] = []
        memory.start_peak(self._device)
        start_bytes = memory.now_bytes(self._device)
        try:
            while min(tokens.values()) == 0 or sum(step.decoding for step in steps) < output_len - 1:
                all_begun = min(tokens.values()) > 0
                start = time.perf_counter()
                outputs = self._engine.step()
                seconds = time.perf_counter() - start
                got = {output.request_id: tuple(output.outputs[0].token_ids) for output in outputs}
                decoding = all_begun and all(len(got.get(name, ())) > tokens[name] for name in names)
                tokens |= {name: len(ids) for name, ids in got.items()}
                texts |= got
                used = (self._free - self._pool.get_num_free_blocks()) * self._block_bytes
                steps.append(Step(seconds, decoding, used, memory.now_bytes(self._device)))
        finally:
            self._end(names)
        found = tuple(texts[name][:output_len] for name in names)
        return Generated(found, tuple(steps), start_bytes, memory.peak_bytes(self._device))

    def decode_us(self, prompts: Sequence[Sequence[int]], output_len: int) -> float:
        """Microseconds of the `output_len` - 1 decoding steps of `generate`."""
        return 1e6 * self.generate(prompts, output_len).decode_seconds

    def prefill_us(self, prompts: Sequence[Sequence[int]]) -> float:
        """Microseconds until every prompt has its first token."""
        return 1e6 * self.generate(prompts, 1).seconds

    def first_logits(self, prompt: Sequence[int]) -> FirstLogits:
        """Logits that the first token after a prompt is chosen from, float32, [vocabulary]."""
        rank: Rank = self._executor.collective_rpc("rank_itself")[0]
        with rank.observing_logits() as seen:
            self.generate([prompt], 1)
        found: FirstLogits = seen[-1][0].float().numpy()
        return found

    def capture(self, prompts: Sequence[Sequence[int]], path: Path) -> None:
        """Prefill the prompts and write the first attention layer's call, of all steps together, to a file.

        Only for eager engines: a replayed CUDA graph, as of prompts of one token, passes by what looks on.

        Raises:
            CaptureError: the layer is of a kind that cannot be captured, or not all of the prompts were seen.
        """
        from patches.attention import AttentionTap

        name, layer = next(iter(self._layers().items()))
        steps: list[AttentionCall] = []

        def observe(layer: Any, *given: Any) -> None:
            steps.append(joined_call.part(from_engine(0, layer, *given)))

        tap = AttentionTap({name: layer})
        if tap.out_of_scope:
            raise CaptureError(tap.out_of_scope[name])
        with tap.observing(observe):
            self.generate(prompts, 1)
        call = joined_call.of_steps(steps) if steps else None
        if call is None or sorted(call.lengths) != sorted(map(len, prompts)):
            raise CaptureError(f"{name}: not all of the prompts were seen in the attention's calls")
        save(call, path)

    def _layers(self) -> dict[str, Any]:
        """vLLM's attention layers by name."""
        context = self._engine.vllm_config.compilation_config.static_forward_context
        return {name: layer for name, layer in context.items() if hasattr(layer, "impl")}

    def _add(self, prompts: Sequence[Sequence[int]], output_len: int) -> list[str]:
        """Hand the prompts to vLLM; the requests' names."""
        from vllm import SamplingParams

        # One more than is waited for: a request that ends gives its blocks back before they are counted.
        most = 1 if output_len == 1 else output_len + 1 + self.prefill_steps(prompts)
        params = SamplingParams(max_tokens=most, temperature=0.0, ignore_eos=True, detokenize=False)
        names = [str(self._requests + n) for n in range(len(prompts))]
        self._requests += len(prompts)
        for name, ids in zip(names, prompts, strict=True):
            self._engine.add_request(name, {"prompt_token_ids": list(ids)}, params)
        return names

    def prefill_steps(self, prompts: Sequence[Sequence[int]]) -> int:
        """At most so many steps until every prompt has its first token."""
        return prefill_steps(
            sum(map(len, prompts)), self._engine.vllm_config.scheduler_config.max_num_batched_tokens
        )

    def _end(self, names: Sequence[str]) -> None:
        """Take the requests out of the engine; what they held is free on return."""
        self._engine.abort_request(list(names))
        while self._engine.has_unfinished_requests():
            self._engine.step()

    def close(self) -> None:
        """Stop the engine."""
        self._engine.engine_core.shutdown()


def blocks_needed(prompt_len: int, output_len: int, block_size: int, steps: int) -> int:
    """Blocks of one prompt of `GenerationEngine.generate`; `steps`: see `prefill_steps`."""
    extra = 0 if output_len == 1 else output_len + steps
    return layout.num_blocks(prompt_len + extra, block_size)


@contextmanager
def generation_engine(config: RunConfig, source: ModelSource, limits: Limits) -> Iterator[GenerationEngine]:
    """For `Child`."""
    engine = GenerationEngine(config, source, limits)
    try:
        yield engine
    finally:
        engine.close()
