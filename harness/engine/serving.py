"""One engine behind a child process: stock vLLM or the plugin's, as a user starts it."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from harness import plugin
from harness.engine import executors
from harness.engine.options import environment, kv_cache_space, unless_set
from harness.measure.timers import Step
from harness.plugin import mode as plugin_mode
from harness.runs.schema import EngineSettings

POOLING = ("embed", "classify", "token_embed", "token_classify")
EXTENSION = "harness.engine.serving_worker.Workers"
LOGPROBS = 20  # the most that vLLM gives without being told
Prompts = Sequence[Sequence[int]]  # token ids of each


@dataclass(frozen=True)
class EngineSetup:
    """What an engine is started with."""

    mode: str | None  # the plugin's; None: stock
    arguments: Mapping[str, Any]  # vLLM's
    std: float | None  # of weights that are drawn in the engine; None: it loads its own
    seed: int
    own_process: bool = False  # vLLM's core runs beside this process, as in production


@dataclass(frozen=True)
class ServingFacts:
    """What a started engine reports about itself."""

    task: str  # "generate", or the pooling task
    dtype: str
    backends: tuple[str, ...]
    cudagraph_mode: str
    mode: str | None  # that the plugin is in
    pool_bytes: int  # of all layers' K and V, of one rank
    allocated_bytes: int  # by PyTorch on the GPU, of this process; 0 on a CPU
    start_s: float
    settings: EngineSettings  # vLLM's effective ones


@dataclass(frozen=True)
class Answer:
    """A model's answer to a prompt: a token and logprobs, or what it pools."""

    token: int | None
    logprobs: dict[int, float]  # of the most likely tokens
    pooled: tuple[float, ...]


Cache = Literal["empty", "filled", "as it is"]  # prefixes kept ahead of a run: none, those of its prompts


@dataclass(frozen=True)
class Ran:
    """Prompts that came at once and were answered."""

    us: float
    cached_tokens: int  # found in the prefix cache, as vLLM counts


class Serving:
    """A running engine: its answers, its times, its cache."""

    def __init__(self, llm: Any, setup: EngineSetup, start_s: float) -> None:
        self.llm, self.setup, self.start_s = llm, setup, start_s
        tasks = llm.supported_tasks
        self.task = "generate" if "generate" in tasks else next(task for task in POOLING if task in tasks)

    def facts(self) -> ServingFacts:
        """Of the engine, with memory as of now."""
        import torch

        from patches import engine

        vllm = self.llm.llm_engine.vllm_config
        backends, flash_attn_version, pool_bytes = self.llm.collective_rpc(describe_layers)[0]
        settings = EngineSettings(
            **engine.settings(self.llm.llm_engine),
            flash_attn_version=flash_attn_version,
            attention_backend=list(backends),
            async_scheduling=bool(vllm.scheduler_config.async_scheduling),
            cudagraph_capture_sizes=sorted(vllm.compilation_config.cudagraph_capture_sizes or ()),
            start_s=round(self.start_s, 1),
        )
        return ServingFacts(
            self.task,
            str(vllm.model_config.dtype).removeprefix("torch."),
            backends,
            str(getattr(vllm.compilation_config.cudagraph_mode, "name", "NONE")),
            plugin_mode.of(vllm),
            pool_bytes,
            torch.cuda.memory_allocated() if torch.cuda.is_initialized() else 0,
            self.start_s,
            settings,
        )

    def answers(self, prompts: Prompts, one_by_one: bool) -> list[Answer]:
        """The model's answers, to each prompt alone or to all at once."""
        groups = [[ids] for ids in prompts] if one_by_one else [prompts]
        return [answer for group in groups for answer in map(self._answer, self._run(group, LOGPROBS))]

    def run_us(self, prompts: Prompts) -> float:
        """Microseconds until all prompts that came at once are answered."""
        started = time.perf_counter()
        self._run(prompts, None)
        return 1e6 * (time.perf_counter() - started)

    def run(self, prompts: Prompts, cache: Cache) -> Ran:
        """The same from a prefix cache in a known state, which takes no part of the time."""
        if cache != "as it is":
            self.forget_prefixes()
        if cache == "filled":
            self._run(prompts, None)
        started = time.perf_counter()
        outputs = self._run(prompts, None)
        us = 1e6 * (time.perf_counter() - started)
        return Ran(us, sum(output.num_cached_tokens or 0 for output in outputs))

    def forget_prefixes(self) -> None:
        """Empty the prefix cache, if there is one; raises RuntimeError if vLLM does not."""
        from patches import kv_cache

        engine = self.llm.llm_engine
        if engine.vllm_config.cache_config.enable_prefix_caching and not kv_cache.reset_prefix_cache(engine):
            raise RuntimeError("vLLM did not reset its prefix cache: a request still holds blocks")

    def written(self, prompts: Prompts) -> int:
        """How many numbers of the cache, zero before, are not after these prompts; of all ranks."""
        self.llm.collective_rpc(clear_caches)
        self._run(prompts, None)
        return sum(self.llm.collective_rpc(count_written))

    def _run(self, prompts: Prompts, logprobs: int | None) -> list[Any]:
        from vllm import SamplingParams

        given = [{"prompt_token_ids": list(ids)} for ids in prompts]
        if self.task != "generate":
            return list(self.llm.encode(given, pooling_task=self.task, use_tqdm=False))
        params = SamplingParams(max_tokens=1, temperature=0.0, logprobs=logprobs, detokenize=False)
        return list(self.llm.generate(given, params, use_tqdm=False))

    def _answer(self, output: Any) -> Answer:
        if self.task != "generate":
            return Answer(None, {}, tuple(output.outputs.data.float().flatten().tolist()))
        only = output.outputs[0]
        found = {token: float(each.logprob) for token, each in only.logprobs[0].items()}
        return Answer(only.token_ids[0], found, ())


class ReplyTimer:
    """The engines' own times, of steps that ask for `Serving.run_us`."""

    name = "LLM.generate or LLM.encode"

    def time_round(self, steps: Sequence[Step]) -> list[float]:
        """Microseconds of each step, which its `run` returns."""
        return [float(step.run()) for step in steps]  # type: ignore[arg-type]


@contextmanager
def serving(setup: EngineSetup) -> Iterator[Serving]:
    """For `Child`: start an engine and yield it."""
    variables = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": str(int(setup.own_process)),
        plugin_mode.VARIABLE: setup.mode or "",
        **unless_set({"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1", **kv_cache_space(2**29)}),
    }
    if (ranks := setup.arguments.get("tensor_parallel_size", 1)) > 1:
        cpus = sorted(os.sched_getaffinity(0))
        variables |= unless_set({"VLLM_CPU_OMP_THREADS_BIND": executors.cpu_binding(ranks, cpus)})
    if ranks > 1 or setup.own_process:
        variables["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
        variables["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"  # functions go to the ranks
        variables["PYTHONWARNINGS"] = "ignore::UserWarning:multiprocessing.resource_tracker"
    with environment(variables), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # vLLM's own
        plugin.register()
        from pydantic import ValidationError
        from vllm import LLM

        started = time.perf_counter()
        try:
            llm = LLM(**{"worker_extension_cls": EXTENSION, "use_tqdm_on_load": False, **setup.arguments})
        except ValidationError as error:  # pydantic's first line says only how many
            raise ValueError(" ".join(str(error).split())) from error
        try:
            if setup.std is not None:
                from patches import weights

                llm.collective_rpc(weights.draw, args=(setup.std, setup.seed))
            yield Serving(llm, setup, time.perf_counter() - started)
        finally:
            llm.llm_engine.engine_core.shutdown()


def describe_layers(worker: Any) -> tuple[tuple[str, ...], int | None, int]:
    """The names of a rank's attention backends, its flash attention version, and the bytes of its cache."""
    from patches import engine

    layers = engine.attention_layers(worker)
    pool_bytes = sum(cache.nbytes for cache in _caches(worker))
    return engine.backends(layers), engine.flash_attn_version(layers), pool_bytes


def clear_caches(worker: Any) -> None:
    """Fill a rank's cache with zeros."""
    import torch

    with torch.inference_mode():
        for cache in _caches(worker):
            cache.zero_()


def count_written(worker: Any) -> int:
    """How many numbers of a rank's cache are not zero."""
    return sum(int(cache.count_nonzero()) for cache in _caches(worker))


def _caches(worker: Any) -> list[Any]:
    from patches import engine

    return [layer.kv_cache for layer in engine.attention_layers(worker).values()]
