"""How much time does a KV cache save a generation, token by token, and what does it cost?

Three modes generate from the same prompt: transformers without a KV cache, with one, and vLLM with its paged
one. Each has its own process, one generates at a time, and every round runs all of them in a new random
order. transformers with a cache runs twice (A/A).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from harness import batch, models, prompt
from harness.engine import inengine
from harness.engine.child import Child, EngineFailed
from harness.engine.engine import EngineFacts
from harness.engine.generation import Generated, blocks_needed, generating
from harness.engine.inengine import LOGITS_TOLERANCE, Outcome
from harness.engine.transformers_model import transformers_model
from harness.experiments import views
from harness.experiments.kvcache.options import KVCacheConfig
from harness.measure.sampler import Series
from harness.measure.timers import Step
from harness.models import ModelSource
from harness.running.recorder import Recorder, recording
from harness.running.sampling import Sampling
from harness.runs.record import Cell, Result, Status
from harness.runs.schema import FirstLogits, Model
from harness.units import ELEMENT_BYTES

GENERATION, STEPS = "generation", "steps"  # the series
# Modes in the order of the series; the pairs are baselines and treatments of contrasts.
MODES = (("no_cache", False), ("kv_cache", False), ("paged", False), ("kv_cache", True))
PAIRS = [(0, 1), (0, 2), (1, 2), (1, 3)]
MOST_NOISE = 0.1  # of the logits' spread; what a bug changes is several times that
DTYPES = {"auto": "bfloat16", "half": "float16", "float": "float32"}


def run(config: KVCacheConfig, source: ModelSource) -> None:
    """Run the experiment, leaving a run directory; raises as `recording` does."""
    recording(config, source.name, partial(measure, source=source), views.write, source.notices)


def measure(config: KVCacheConfig, recorder: Recorder, source: ModelSource) -> None:
    """Measure a series of whole generations, and from the same generations a series of their steps."""
    if {GENERATION, STEPS} <= recorder.finished:
        return
    source = models.materialise(source, config.seed)
    (ids,), origin = prompt.token_ids(source, [config.input_len or 1], None, config.seed)
    with recorder.update_record() as record:
        record.model = Model(
            name=record.model.name,
            weights=source.weights,
            num_layers=source.num_layers,
            head_dim=source.head_dim,
            num_kv_heads=source.num_kv_heads,
            drawn_apart=source.load_format == "dummy",
        )
        record.prompt = origin
    sampling = Sampling(config, recorder)
    timer = GenerationTimer()
    with ExitStack() as closing:
        modes = Modes(config, recorder, source, ids, closing)
        modes.start(sampling.device)
        series = modes.series()
        budget = sampling.budget(1, 1.0)
        try:
            with sampling.rounds_bar("generations", budget) as on_round:
                # Every mode has already generated.
                sampling.sample(series, timer, budget, config.seed, on_round)
        finally:  # also if the run ends here
            recorder.add(step_results(config, series, timer.seen))
    sampling.note_limits(0)


@dataclass
class GenerationTimer:
    """The sum of a generation's step times; keeps each generation under that time."""

    name: str = "steps of the generation"
    seen: dict[float, Generated] = field(default_factory=dict)  # keyed by the sample, in microseconds

    def time_round(self, steps: Sequence[Step]) -> list[float]:
        """Microseconds of each step, whose `run` returns a Generated."""
        times = []
        for step in steps:
            generated: Generated = step.run()  # type: ignore[assignment]
            times.append(1e6 * generated.seconds)
            self.seen[times[-1]] = generated
        return times


class Modes:
    """The generating processes, and the errors of those that failed to start."""

    def __init__(
        self,
        config: KVCacheConfig,
        recorder: Recorder,
        source: ModelSource,
        ids: Sequence[int],
        closing: ExitStack,
    ) -> None:
        self.config, self.recorder, self.source = config, recorder, source
        self.ids, self.closing = list(ids), closing
        self.children: dict[str, Child] = {}
        self.failed: dict[str, EngineFailed] = {}
        self.block_size = 0  # of the paged mode

    def start(self, device: str) -> None:
        """Start all of them, vLLM first, because it checks how much of the GPU is free. Each generates
        once.
        """
        with self.recorder.bar("starting", 3) as bar:
            self._try("paged", self._start_vllm)
            bar.update()
            engine = self.recorder.record.engine
            dtype = (engine and engine.dtype) or DTYPES.get(self.config.dtype, self.config.dtype)
            for mode in ("no_cache", "kv_cache"):
                arguments = self.source, dtype, device, self.config.seed
                self._try(mode, partial(Child, transformers_model, *arguments))
                bar.update()
        tokens: dict[str, list[int]] = {}
        for mode in [*self.children]:
            if generated := self._first(mode):
                tokens[mode] = generated
                with self.recorder.update_record() as record:
                    record.tokens = tokens
        self._hold_against_no_cache(tokens)

    def _try(self, mode: str, start: Callable[[], Child]) -> None:
        self.recorder.say(f"starting {mode} ...")
        try:
            self.children[mode] = start()
            self.closing.callback(self.children[mode].close)
        except EngineFailed as error:
            self._fail(mode, error)

    def _fail(self, mode: str, error: EngineFailed) -> None:
        self.failed[mode] = error
        self.children.pop(mode, None)
        self.recorder.notice(f"{mode}: {error}")

    def _start_vllm(self) -> Child:
        config, size = self.config, self.config.block_size or 1
        steps = batch.prefill_steps(len(self.ids), config.per_step)
        needed = blocks_needed(len(self.ids), config.output_len or 1, size, steps)
        blocks = needed + 2  # vLLM reserves one block and requires room for max_model_len
        cache_bytes = blocks * size * self.source.room_per_token(4)
        spec = replace(config.engine(), kv_cache_bytes=cache_bytes, num_gpu_blocks_override=blocks)
        child = Child(generating, spec, self.source)
        facts: EngineFacts = child.facts
        self.block_size = facts.block_size
        with self.recorder.update_record() as record:
            record.engine = facts.with_start_s()
            if element_bytes := ELEMENT_BYTES.get(str(record.engine.dtype)):
                record.kv_bytes_per_token = self.source.kv_bytes_per_token(element_bytes)
        return child

    def _first(self, mode: str) -> list[int] | None:
        """Generate one token from a one-token prompt, then the whole generation; returns its tokens."""
        try:
            self._generate(mode, self.ids[:1], 2)
            return list(self._generate(mode, self.ids, self.config.output_len or 1).tokens[0])
        except EngineFailed as error:
            self._fail(mode, error)
            return None

    def _hold_against_no_cache(self, tokens: Mapping[str, Sequence[int]]) -> None:
        """Record how far off each mode's first logits are, with a notice if that is more than rounding."""
        outcomes = {}
        for mode in tokens:
            if mode == "paged" and self.source.load_format == "dummy":
                continue  # vLLM's weights differ
            asked = (self.ids,) if mode == "paged" else (self.ids, mode == "kv_cache")
            try:
                logits = torch.from_numpy(self.children[mode].ask("first_logits", *asked))
                outcomes[mode] = Outcome(logits[None], (tokens[mode][0],))
            except EngineFailed as error:
                self.recorder.notice(f"{mode}: its first logits are not known: {error}")
        if "no_cache" not in outcomes:
            return
        checked = judge_logits(outcomes)
        for mode, logits in checked.items():
            if logits.objection:
                self.recorder.notice(f"{mode}: differs from the output without a cache: {logits.objection}")
        with self.recorder.update_record() as record:
            record.first_logits = checked

    def _generate(self, mode: str, ids: Sequence[int], output_len: int) -> Generated:
        asked: tuple[object, ...] = ([ids], output_len)
        if mode != "paged":
            asked = ids, output_len, mode == "kv_cache"
        generated: Generated = self.children[mode].ask("generate", *asked)
        return generated

    def series(self) -> Series:
        """The series of whole generations; a mode that failed has a reason."""
        series = Series([], [], pairs=PAIRS)
        for mode, control in MODES:
            cell, failed = self._cell(mode), self.failed.get(mode)
            status, reason = (failed.status, str(failed)) if failed else (Status.OK, None)
            series.results.append(Result(cell, GENERATION, status, reason, control=control))
            series.steps.append(None if failed else self._step(mode))
        return series

    def _step(self, mode: str) -> Step:
        return Step(lambda: self._generate(mode, self.ids, self.config.output_len or 1))

    def _cell(self, mode: str) -> Cell:
        versions = self.recorder.record.versions
        paged = mode == "paged"
        provider = f"vLLM {versions['vllm']}" if paged else f"transformers {versions['transformers']}"
        return Cell(
            stage="end_to_end",
            kernel="generation",
            provider=provider,
            arm=mode,
            spread_k=0,
            block_size=self.block_size if paged else 0,
            layer=None,
            data="captured",
            point=(("input_len", len(self.ids)), ("output_len", self.config.output_len or 1)),
        )


def judge_logits(outcomes: Mapping[str, Outcome]) -> dict[str, FirstLogits]:
    """How far each mode's first logits are from those without a cache, and whether that is rounding.

    The noise of the model in its data type is measured: transformers computes the same logits with its cache,
    the last token in a step of its own, so that only rounding differs. Another engine is allowed twice that,
    as it rounds in its own way, and at least the tolerance of two arms of one engine.

    Args:
        outcomes: by mode, "no_cache" among them.
    """
    expected, found = outcomes["no_cache"], {}
    noise = inengine.difference(outcomes["kv_cache"], expected) if "kv_cache" in outcomes else 0.0
    for mode, got in outcomes.items():
        if mode == "no_cache":
            continue
        allowed = MOST_NOISE
        if mode == "paged":
            allowed = max(LOGITS_TOLERANCE, 2 * noise if noise <= MOST_NOISE else 0.0)
        objection = inengine.objection(got, expected, got, allowed)
        error = inengine.difference(got, expected)
        found[mode] = FirstLogits(error=error, allowed=allowed, objection=objection)
    return found


def step_results(config: KVCacheConfig, series: Series, seen: dict[float, Generated]) -> list[Result]:
    """Two cells for every step of every mode: its time in the generations that count, and its memory.

    Args:
        series: of the whole generations.
        seen: the generations by the samples of the series.
    """
    results = []
    for result in series.results:
        if result.control:
            continue
        generations = [seen[microseconds] for microseconds in result.samples_us]
        for n in range(config.output_len or 1 if generations else 0):
            cell = replace(result.cell, stage="step", point=(*result.cell.point, ("step", n + 1)))
            times, readings = step_figures(generations, n)
            results.append(Result(cell, STEPS, result.status, result.reason, times, readings=readings))
        readings = {
            "start_bytes": [float(each.start_bytes) for each in generations],
            "peak_bytes": [float(each.peak_bytes) for each in generations],
        }
        cell = replace(result.cell, stage="memory")
        results.append(Result(cell, STEPS, result.status, result.reason, readings=readings))
    return results


def step_figures(kept: Sequence[Generated], n: int) -> tuple[list[float], dict[str, list[float]]]:
    """Time in us and memory of each generation's n-th token, counted from 0.

    The first includes all steps before decoding: vLLM may prefill a prompt in several.
    """
    times, cached, held = [], [], []
    for generated in kept:
        first = next(i for i, step in enumerate(generated.steps) if step.decoding)
        taken = generated.steps[:first] if n == 0 else generated.steps[first + n - 1 : first + n]
        times.append(1e6 * sum(step.seconds for step in taken))
        cached.append(float(taken[-1].cache_bytes))
        held.append(float(taken[-1].memory_bytes))
    return times, {"cache_bytes": cached, "memory_bytes": held}
