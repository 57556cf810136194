"""Which attention backend is the fastest, for which batch sizes and lengths? In prefill, or in decoding.

vLLM's backends run in an engine each, in a process of its own and one after the other: an engine's KV cache
takes what memory there is. Within one all cells run in every round, in a new random order each time.
sdpa.math has no engine: it is PyTorch's attention alone, on random Q, K and V of the same shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from harness import dense_buffer, generation, models, prompt, random_call
from harness.arms import Bound
from harness.capture import AttentionCall
from harness.child import Child, EngineFailed
from harness.config.backends import SDPA, BackendsConfig
from harness.config.kernels import KernelsConfig
from harness.config.prefill import for_engine
from harness.experiments.sampling import Sampling
from harness.generation import GenerationFacts, Limits, blocks_needed, generation_engine, prefill_steps
from harness.kernels import PagedKV, Run
from harness.measure import memory, timers
from harness.measure.sampler import Budget, Series
from harness.measure.timers import Step
from harness.models import ModelSource
from harness.record import Cell, Result, Status, status_of
from harness.recorder import Recorder, recording
from harness.replay import Judge

Size = tuple[int, int]  # batch size, input length
# What an arm of sdpa.math runs, and the bytes that it copies for it.
SDPA_ARMS = {
    "gathered": (dense_buffer.gathered, dense_buffer.buffer_bytes),
    "per_block": (dense_buffer.per_block, dense_buffer.block_bytes),
}
ARMS_ALONE = (
    ("gathered", False),
    ("per_block", False),
    ("gathered", True),
)  # whether it is the control (A/A)


class StepTimer:
    """The engine's own step times, which leave out handing the prompts to it."""

    name = "engine steps"

    def time_round(self, steps: Sequence[Step]) -> list[float]:
        """Microseconds of each step, which its `run` returns."""
        return [float(step.run()) for step in steps]  # type: ignore[arg-type]


def run(config: BackendsConfig) -> int:
    """Run it and leave its run directory; the exit status, as of the main job."""
    source = generation.inspect(config, longest(config))
    return recording(config, source.name, lambda config, recorder: measure(config, recorder, source))


def longest(config: BackendsConfig, cells: Sequence[Size] | None = None) -> int:
    """Tokens of the longest prompt of the cells with all that is generated from it."""
    cells, out, per_step = cells or config.cells(), config.output_len or 0, config.max_num_batched_tokens or 1
    waiting = max(prefill_steps(batch * tokens, per_step) for batch, tokens in cells) if out else 0
    return max(tokens for _, tokens in cells) + out + waiting


def measure(config: BackendsConfig, recorder: Recorder, source: ModelSource) -> None:
    """One series of all cells for each of vLLM's backends, and one a cell for sdpa.math."""
    for text in source.notices:
        recorder.notice(text)
    source = models.materialise(source, config.seed)
    facts = {"weights": source.weights, "num_layers": source.num_layers, "num_heads": source.num_heads}
    facts |= {"num_kv_heads": source.num_kv_heads, "head_dim": source.head_dim}
    recorder.note(model=recorder.record["model"] | facts)
    sampling = Sampling(config, recorder)
    cells, finished = config.cells(), recorder.finished
    engines = [name for name in config.engine_backends() if name not in finished]
    with_sdpa = SDPA in (config.attention_backends or [])
    alone = [size for size in cells if with_sdpa and sdpa_series(size) not in finished]
    budget = sampling.budget(len(engines) * len(cells) + len(alone), 1.0)
    with recorder.bar("backends", len(engines) + bool(alone)) as bar:
        for name in engines:
            bar.set_postfix_str(name)
            Backend(name, config, recorder, source, sampling).measure(budget)
            bar.update()
        bar.set_postfix_str(SDPA if alone else "")
        attention = AttentionAlone(config, recorder, source, sampling)
        measure_alone(alone, attention, budget)
    sampling.note_limits(budget, getattr(attention.timer, "launch_bound", 0))


def measure_alone(sizes: Sequence[Size], attention: AttentionAlone, budget: Budget) -> None:
    """A series for each cell of sdpa.math; the memory of one is freed before the next."""
    recorder = attention.recorder
    with torch.inference_mode(), recorder.bar(SDPA, len(sizes)) as bar:
        for size in sizes:
            with recorder.peak_memory(sdpa_series(size)):
                attention.measure(size, budget)
            bar.update()


@dataclass
class Backend:
    """All cells of one of vLLM's backends."""

    name: str
    config: BackendsConfig
    recorder: Recorder
    source: ModelSource
    sampling: Sampling

    def measure(self, budget: Budget) -> None:
        """Start an engine for the cells, without those that turn out not to fit, and sample the rest."""
        sizes, lost = self.config.cells(), dict[Size, tuple[Status, str]]()
        while left := [size for size in sizes if size not in lost]:
            try:
                with self._started(left) as engine:
                    usable = self._first_pass(engine, left, lost)
                    if usable:
                        self._sample(engine, lost, budget)
                        return
            except EngineFailed as error:
                self.recorder.notice(f"{self.name}: {error}")
                most = max(tokens for _, tokens in left)
                short = [s for s in left if error.status is Status.OUT_OF_MEMORY and s[1] < most]
                lost |= {s: (error.status, str(error)) for s in left if s not in short}
        self._sample(None, lost, budget)

    def _started(self, sizes: Sequence[Size]) -> Child:
        """An engine with room for these cells. Raises EngineFailed."""
        config = self.config
        self.recorder.say(f"starting vLLM with {self.name} ...")
        per_step = config.max_num_batched_tokens or 1
        limits = Limits(
            max_num_seqs=max(batch for batch, _ in sizes),
            max_model_len=longest(config, sizes) + 1,
            max_num_batched_tokens=per_step,
            kv_cache_bytes=self._cpu_cache_bytes(sizes) if self.sampling.device == "cpu" else None,
            num_blocks=config.num_gpu_blocks_override,
        )
        engine = for_engine(config, longest(config, sizes)).model_copy(
            update={"attention_backend": self.name}
        )
        child = Child(generation_engine, engine, self.source, limits)
        facts: GenerationFacts = child.facts
        noted = self.recorder.record.get("engines", {})
        about = facts.settings | {"block_size": facts.block_size, "start_s": round(facts.start_s, 1)}
        self.recorder.note(engines=noted | {self.name: about})
        if facts.settings["attention_backend"] != [self.name]:
            child.close()
            got = ", ".join(facts.settings["attention_backend"])
            raise EngineFailed(Status.UNSUPPORTED, f"vLLM took {got} in place of {self.name}")
        return child

    def _cpu_cache_bytes(self, sizes: Sequence[Size]) -> int:
        """KV cache for the largest cell, in four-byte numbers: a CPU's engine takes what it is told to."""
        size = self.config.block_size or 1
        blocks = max(batch * self._blocks((batch, tokens), size) for batch, tokens in sizes) + 1
        return (
            2 * blocks * size * self.source.num_layers * self.source.num_kv_heads * self.source.head_dim * 4
        )

    def _blocks(self, size: Size, block_size: int) -> int:
        """Blocks of each prompt of a cell."""
        batch, tokens = size
        steps = prefill_steps(batch * tokens, self.config.max_num_batched_tokens or 1)
        return blocks_needed(tokens, self.config.output_len or 1, block_size, steps)

    def _first_pass(self, engine: Child, sizes: Sequence[Size], lost: dict[Size, tuple[Status, str]]) -> bool:
        """Run one token, then every cell, the smaller ones first; what fails goes to `lost`, with the reason.

        Once a cell has run out of memory in the engine, those at least as large are not tried, and the
        engine is not to be used again: False.
        """
        facts: GenerationFacts = engine.facts
        engine.ask("prefill_us", [[1]])
        for size in sorted(sizes, key=lambda size: (size[0] * size[1], size)):
            needed = size[0] * self._blocks(size, facts.block_size)
            if needed > facts.num_blocks:
                reason = f"its KV cache takes {needed} blocks, there are {facts.num_blocks}"
                lost[size] = Status.OUT_OF_MEMORY, reason
                continue
            try:
                self._run(engine, size)
            except EngineFailed as error:
                lost[size] = error.status, str(error)
                if error.status is Status.OUT_OF_MEMORY:
                    beyond = [s for s in sizes if s[0] >= size[0] and s[1] >= size[1] and s not in lost]
                    why = f"not tried, as batch {size[0]} x {size[1]} tokens failed: {error}"
                    lost |= dict.fromkeys(beyond, (Status.OUT_OF_MEMORY, why))
                    return False
        return True

    def _run(self, engine: Child, size: Size) -> float:
        """Microseconds of a cell: of its prefill, or of its decoding steps."""
        prompts = self._prompts(size)
        if self.config.output_len:
            return float(engine.ask("decode_us", prompts, self.config.output_len))
        return float(engine.ask("prefill_us", prompts))

    def _prompts(self, size: Size) -> list[list[int]]:
        """Random token ids: prompts of one batch differ, those of two cells begin alike."""
        batch, tokens = size
        return [prompt.random_ids(self.source.config, tokens, self.config.seed + n) for n in range(batch)]

    def _sample(self, engine: Child | None, lost: dict[Size, tuple[Status, str]], budget: Budget) -> None:
        """One series of all cells, in which the lost ones are there with their reasons."""
        series = Series([], [], pairs=[])
        for size in self.config.cells():
            status, reason = lost.get(size, (Status.OK, None))
            series.results.append(Result(self._cell(size), self.name, status, reason))
            step = None if engine is None or size in lost else self._step(engine, size)
            series.steps.append(step)
        with self.recorder.bar(self.name, None) as bar:
            # Every cell has run before.
            weight, seed = len(series.results), self.config.seed
            self.sampling.sample(series, StepTimer(), budget, seed, bar.update, weight, least_warmup=1)

    def _step(self, engine: Child, size: Size) -> Step:
        return Step(lambda: self._run(engine, size))

    def _cell(self, size: Size) -> Cell:
        block_size = self.recorder.record.get("engines", {}).get(self.name, {}).get("block_size")
        provider = f"vLLM {self.recorder.record['versions']['vllm']}"
        of_cell = self.name, 0, block_size or self.config.block_size or 0, None, "captured", _point(size)
        return Cell("end_to_end", self.config.phase, provider, *of_cell)


def _point(size: Size) -> tuple[tuple[str, int], ...]:
    return ("batch_size", size[0]), ("input_len", size[1])


@dataclass
class AttentionAlone:
    """The cells of sdpa.math: one layer's attention, with a dense buffer and block by block."""

    config: BackendsConfig
    recorder: Recorder
    source: ModelSource
    sampling: Sampling

    @cached_property
    def timer(self) -> timers.Timer:
        """Of single calls."""
        return timers.for_device(self.sampling.device)

    def measure(self, size: Size, budget: Budget) -> None:
        """One series: both arms of a cell."""
        self.sampling.sample(self._series(size), self.timer, budget, self.config.seed)

    def _series(self, size: Size) -> Series:
        """The arms on random Q, K and V, judged, or with the reason why one cannot be run."""
        series = Series([], [], pairs=[(0, 1), (0, 2)])
        shape, name = self._shape(size), sdpa_series(size)
        for arm, control in ARMS_ALONE:
            series.results.append(
                Result(self._cell(size, arm), name, Status.OK, control=control, readings={})
            )
            series.steps.append(None)
        try:
            call = random_call.make(shape, self.sampling.device)
            kv = random_call.in_blocks(call, shape, 1, shape.block_size).one_run
            judge = Judge(call)
        except Exception as error:
            for n in range(len(ARMS_ALONE)):
                series.fail(n, *status_of(error))
            return series
        for n, result in enumerate(series.results):
            try:
                series.steps[n] = self._step(call, kv, judge, result)
            except Exception as error:
                series.fail(n, *status_of(error))
        return series

    def _step(self, call: AttentionCall, kv: PagedKV, judge: Judge, result: Result) -> Step:
        """The arm's call, once it ran and was right; what it copies goes to the result's readings."""
        bind, copied = SDPA_ARMS[result.cell.arm]
        result.readings["buffer_bytes"] = [float(copied(kv))]
        step, extra = judged(bind(call, kv), judge, self.sampling.device)
        if self.sampling.device == "cuda":
            result.readings["extra_bytes"] = [float(extra)]
        return step

    def _shape(self, size: Size) -> KernelsConfig:
        """Of one layer's attention call: of the prefill, or of the decoding step in the middle."""
        (batch, tokens), out, source = size, self.config.output_len, self.source
        return KernelsConfig.model_validate(
            {
                "length": tokens + (out or 0) // 2,
                "seq_len_q": 1 if out else tokens,
                "batch_size": batch,
                "num_heads": source.num_heads,
                "num_kv_heads": source.num_kv_heads,
                "head_dim": source.head_dim,
                "dtype": self._dtype(),
                "block_size": self.config.block_size,
                "seed": self.config.seed,
            }
        )

    def _dtype(self) -> Any:
        """The engines', else what was asked for."""
        engines = self.recorder.record.get("engines", {})
        found = [engine["dtype"] for engine in engines.values()]
        named = {"auto": "bfloat16", "half": "float16", "float": "float32"}
        return found[0] if found else named.get(self.config.dtype, self.config.dtype)

    def _cell(self, size: Size, arm: str) -> Cell:
        provider = f"PyTorch {self.recorder.record['versions']['torch']} math"
        of_cell = arm, 1, self.config.block_size or 0, None, "synthetic", _point(size)
        return Cell("kernel", "scaled_dot_product_attention", provider, *of_cell)


def sdpa_series(size: Size) -> str:
    """The series of a cell of sdpa.math."""
    return f"{SDPA} batch={size[0]} input={size[1]}"


def judged(run: Run, judge: Judge, device: str) -> tuple[Step, int]:
    """A step that was run once, and the bytes that this took on top of its inputs.

    Raises:
        WrongOutput: it is not what float32 gives.
    """
    before = memory.now_bytes(device)
    memory.start_peak(device)
    output = run()
    peak = memory.peak_bytes(device) - before
    if problem := judge.objection(Bound(run), output):
        raise WrongOutput(problem)
    return Step(run), peak


class WrongOutput(RuntimeError):
    """An arm computes something else than it should."""

    status = Status.WRONG_OUTPUT
