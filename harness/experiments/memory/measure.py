"""How much memory do inputs of mixed length take, one at a time in transformers and batched in vLLM?"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from functools import partial

from harness import models, prompt
from harness.analysis import stats
from harness.experiments import views
from harness.experiments.memory.jobs import ENGINES, EngineName, Reading, plan, readings
from harness.experiments.memory.options import MemoryConfig
from harness.models import ModelSource
from harness.running.recorder import Recorder, recording
from harness.runs.record import Cell, Result, Status
from harness.runs.schema import Model
from harness.units import ELEMENT_BYTES


def run(config: MemoryConfig, source: ModelSource) -> None:
    """Run the experiment, leaving a run directory; raises as `recording` does."""
    recording(config, source.name, partial(measure, source=source), views.write, source.notices)


def measure(config: MemoryConfig, recorder: Recorder, source: ModelSource) -> None:
    """Run rounds of one process per engine, in random order, until the time is up or the precision
    reached.
    """
    source = models.materialise(source, config.seed)
    (token_ids,), origin = prompt.token_ids(source, [max(config.lengths)], None, config.seed)
    with recorder.update_record() as record:
        record.prompt = origin
        record.model = Model(name=record.model.name, weights=source.weights, dtype=config.dtype)
        record.kv_bytes_per_token = source.kv_bytes_per_token(ELEMENT_BYTES[config.dtype])
    assert config.max_seconds is not None
    job, order = Job(config, recorder, source, token_ids), random.Random(config.seed)
    rounds, longest_s, left_s = 0, 0.0, config.max_seconds
    while rounds == 0 or not _is_done(config, recorder, rounds, left_s - longest_s):
        began = time.perf_counter()
        for engine in order.sample(ENGINES, len(ENGINES)):
            job.process(engine, rounds)
        took_s = time.perf_counter() - began
        rounds, longest_s, left_s = rounds + 1, max(longest_s, took_s), left_s - took_s


def _is_done(config: MemoryConfig, recorder: Recorder, rounds: int, left_s: float) -> bool:
    """Whether to stop; `left_s`: the time left after another round as long as the longest."""
    if config.repeats is not None:
        return rounds >= config.repeats
    return left_s < 0 or is_precise(recorder.results, config.precision)


def is_precise(results: list[Result], precision_pct: float) -> bool:
    """Whether every figure's 95% interval over processes is narrow enough, in percent of its median."""
    figures: dict[tuple[Cell, str], list[float]] = {}
    for result in results:
        for name, values in result.readings.items():
            figures.setdefault((result.cell, name), []).extend(values)
    for values in figures.values():
        interval = stats.median_interval(values)
        if interval.ci95 is None:
            return False
        low, high = interval.ci95
        if high - low > precision_pct / 100 * abs(interval.median):
            return False
    return True


@dataclass
class Job:
    """Records what the processes report."""

    config: MemoryConfig
    recorder: Recorder
    source: ModelSource
    token_ids: list[int]
    sources: dict[str, dict[str, str]] = field(default_factory=dict)
    first_tokens: dict[str, dict[str, list[int]]] = field(default_factory=dict)

    def process(self, engine: EngineName, number: int) -> None:
        """Run the n-th process of an engine from start to end, unless an earlier run has it."""
        series = f"{engine} process={number}"
        if series in self.recorder.finished:
            return
        results: list[Result] = []
        try:
            with self.recorder.bar(series, len(plan(engine, self.config.lengths))) as bar:
                for reading in readings(engine, self.config, self.source, self.token_ids):
                    results.append(self._result(engine, series, len(results), reading))
                    bar.set_postfix_str(reading.stage.name)
                    bar.update()
        except KeyboardInterrupt:
            for stage in plan(engine, self.config.lengths)[len(results) :]:
                reading = Reading(stage, Status.INTERRUPTED, "interrupted by the user")
                results.append(self._result(engine, series, len(results), reading))
            raise
        finally:
            self.recorder.add(results)

    def _result(self, engine: EngineName, series: str, order: int, reading: Reading) -> Result:
        if reading.sources:
            self.sources[engine] = reading.sources
            with self.recorder.update_record() as record:
                record.sources = self.sources
        if reading.first_tokens:
            self.first_tokens.setdefault(engine, {})[reading.stage.name] = list(reading.first_tokens)
            with self.recorder.update_record() as record:
                record.tokens_by_stage = self.first_tokens
        versions = self.recorder.record.versions
        lengths = reading.stage.lengths
        cell = Cell(
            stage="memory",
            kernel="prefill",
            provider=f"{engine} {versions[engine.lower()]}",
            arm=engine,
            spread_k=0,
            block_size=reading.block_size,
            layer=None,
            data="captured",
            point=(("order", order), ("moment", reading.stage.name), ("tokens", sum(lengths))),
        )
        figures = {name: [float(value)] for name, value in reading.figures.items()}
        return Result(cell, series, reading.status, reading.reason, readings=figures)
