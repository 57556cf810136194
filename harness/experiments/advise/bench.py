"""Stock's engine and, beside it, one candidate's: started, held against each other, and timed in turns."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from harness import units
from harness.analysis import stats
from harness.engine.answers import compare
from harness.engine.child import Child, EngineFailed
from harness.engine.options import EngineError
from harness.engine.serving import Answer, Cache, EngineSetup, Ran, ReplyTimer, serving
from harness.experiments.advise import changes
from harness.experiments.advise.changes import AGAIN, STOCK, Base, Change
from harness.experiments.advise.deciding import CACHING, WARM
from harness.experiments.advise.inputs import Given
from harness.experiments.advise.options import AdviseConfig
from harness.experiments.advise.rows import Metric
from harness.measure.budget import Budget
from harness.measure.sampler import Series
from harness.measure.timers import Step
from harness.running.recorder import Recorder
from harness.running.sampling import Sampling
from harness.runs import resume
from harness.runs.record import Cell, Point, Result, Status
from harness.runs.schema import CandidateRecord

MOST_ANSWERS = 16  # prompts whose answers are held against stock's
MOST_ALONE = 256  # requests whose latency is taken, spread over the file
WEIGHTS: dict[Metric, int] = {"throughput": 3, "latency": 1}  # of a candidate's time


@dataclass(frozen=True)
class Candidate:
    """What is set against stock: some changes, at once; none is stock again."""

    changes: tuple[Change, ...] = ()

    @property
    def name(self) -> str:
        """The changes' names, e.g. "graphs+plugin-step"."""
        return "+".join(change.name for change in self.changes) or AGAIN

    @property
    def plugin(self) -> str | None:
        """The plugin's mode; None: it stays off."""
        return next((change.plugin for change in self.changes if change.plugin), None)

    def series(self, metric: Metric) -> str:
        """The name of its series."""
        return f"{self.name}: {metric}"


@dataclass
class Arm:
    """The same requests again and again in one engine; the n-th call of each arm has the same ones."""

    engine: Child
    parts: Sequence[Sequence[Sequence[int]]]  # of the work, one a call
    cache: Cache = "empty"
    calls: int = 0
    last: Ran | None = None
    readings: dict[str, list[float]] = field(default_factory=dict)

    def run(self) -> float:
        """Microseconds of the next part; prefixes that the part before it left in the cache are found."""
        n = self.calls % len(self.parts)
        self.calls += 1
        self.last = self.engine.ask("run", self.parts[n], "as it is" if n else self.cache)
        return self.last.us

    def read(self) -> None:
        """Record the last call's share of tokens that were cached, where the engine has a prefix cache."""
        if self.engine.facts.settings.prefix_caching and self.last and len(self.parts) == 1:
            tokens = sum(map(len, self.parts[0]))
            self.readings.setdefault("hit_rate_pct", []).append(100 * self.last.cached_tokens / tokens)


class Bench:
    """Stock's engine, up as long as it is needed, and what it is compared with."""

    def __init__(self, config: AdviseConfig, recorder: Recorder, given: Given) -> None:
        self.config, self.recorder, self.given = config, recorder, given
        self.sampling = Sampling(config, recorder)
        self.start_s = 0.0  # of the engine that was started last
        self.file_s = 0.0  # of the whole file in stock's engine
        self._stock: Child | None = None
        self._answers: list[Answer] | None = None
        self._alone = [given.prompts[n] for n in units.pick_evenly(len(given.prompts), MOST_ALONE)]

    def base(self) -> Base:
        """What changes start from; starts stock's engine unless an earlier part of the run did."""
        known = (self.recorder.record.candidates or {}).get(STOCK)
        settings = (known and known.settings) or self.stock().facts.settings
        device = self.recorder.record.device
        lengths = [len(ids) for ids in self.given.prompts]
        return Base(settings, self.given.arguments, lengths, device.kind == "cuda", device.compute_capability)

    def stock(self) -> Child:
        """Stock's engine, started if it is not up. Raises EngineError if it does not start."""
        if self._stock is None:
            try:
                self._stock = self._start(STOCK, None, {})
                self.note(None, settings=self._stock.facts.settings)
            except EngineFailed as error:
                raise EngineError(f"vLLM does not start as it is: {error}", error.status) from error
        return self._stock

    def finished(self, candidate: Candidate) -> bool:
        """Whether it is measured, or cannot be."""
        done = resume.finished_series(self.recorder.results)
        lost = {r.series for r in self.recorder.results if r.status is not Status.OK and not r.samples_us}
        first = candidate.series("throughput")
        return first in done and (first in lost or candidate.series("latency") in done)

    def lose(self, candidate: Candidate, status: Status, reason: str) -> None:
        """Record why a candidate is not measured."""
        cell = self._cell(candidate, "throughput", candidate.name)
        self.recorder.say(f"{candidate.name}: {reason}")
        self.recorder.add([Result(cell, candidate.series("throughput"), status, reason)])

    def note(self, candidate: Candidate | None, **found: Any) -> None:
        """Record what a candidate, or stock, is started with, and further fields of its record."""
        name = candidate.name if candidate else STOCK
        own = changes.arguments(candidate.changes, self.base()) if candidate else {}
        plugin = candidate.plugin if candidate else None
        shown = self.given.shown | {"max_num_batched_tokens": self.base().step_tokens} | own
        long = f"{changes.ALLOW_LONG}=1 " * self.config.allow_long_max_model_len
        about = CandidateRecord(
            change=changes.describe(own, plugin),
            serve=long + changes.serve_line(self.config.model, shown, plugin),
            **found,
        )
        with self.recorder.update_record() as record:
            record.candidates = (record.candidates or {}) | {name: about}

    def measure(self, candidate: Candidate, seconds: Callable[[], float]) -> None:
        """Start a candidate, hold its answers against stock's, and time both in turns.

        Args:
            seconds: for sampling, asked for once its engine is up.
        """
        try:
            engine = self._beside_stock(candidate)
        except EngineFailed as error:
            if not candidate.changes:
                raise EngineError(f"no second engine starts beside stock's: {error}", error.status) from error
            self.lose(candidate, error.status, str(error))
            return
        with engine:
            try:
                objection = self._objection(candidate, engine)
            except EngineFailed as error:
                self.lose(candidate, error.status, str(error))
                return
            if objection:
                self.lose(candidate, Status.WRONG_OUTPUT, objection)
                return
            share = seconds() / self.sampling.seconds
            budget = self.sampling.budget(sum(WEIGHTS.values()), share, stats.INTERVAL_SAMPLES)
            for metric in WEIGHTS:
                if candidate.series(metric) not in self.recorder.finished:
                    self._sample(candidate, engine, metric, budget)

    def close(self) -> None:
        """End stock's engine."""
        if self._stock:
            self._stock.close()
            self._stock = None

    def _beside_stock(self, candidate: Candidate) -> Child:
        """The candidate's engine, with stock's up. Raises EngineFailed."""
        if not candidate.changes and self._stock is None and "kv_cache_memory_bytes" in self.given.arguments:
            # As large as asked, whatever is free meanwhile; else vLLM must measure that in turn.
            with ThreadPoolExecutor() as pool:
                again = pool.submit(self._start, AGAIN, None, {})
                try:
                    self.stock()
                except BaseException:
                    if not again.exception():
                        again.result().close()
                    raise
                return again.result()
        self.stock()
        own = changes.arguments(candidate.changes, self.base())
        self.note(candidate)
        engine = self._start(candidate.name, candidate.plugin, own)
        self.note(candidate, settings=engine.facts.settings)
        if engine.facts.mode != candidate.plugin:
            engine.close()
            raise EngineFailed(Status.UNSUPPORTED, "the plugin stayed off; see VLLM_PREFILL_ONLY_ON_DOUBT")
        return engine

    def _start(self, name: str, plugin: str | None, own: changes.Arguments) -> Child:
        self.recorder.say(f"starting vLLM: {name} ...")
        began = time.perf_counter()
        setup = EngineSetup(plugin, self.given.arguments | own, self.given.std, self.config.seed)
        engine = Child(serving, setup)
        self.start_s = time.perf_counter() - began
        return engine

    def _objection(self, candidate: Candidate, engine: Child) -> str | None:
        """What is wrong with a candidate's answers, or None; how far they are from stock's is recorded."""
        prompts = [self.given.prompts[n] for n in units.pick_evenly(len(self.given.prompts), MOST_ANSWERS)]
        if self._answers is None:
            self._answers = self.stock().ask("answers", prompts, True)
        found = compare(self._answers, engine.ask("answers", prompts, True), engine.facts.dtype)
        worst = None if math.isnan(found.worst) else found.worst
        self.note(candidate, settings=engine.facts.settings, worst=worst)
        if found.equal:
            return None
        return f"its answers are not stock's: worst difference {found.worst:.2g}, allowed {found.allowed:g}"

    def _sample(self, candidate: Candidate, engine: Child, metric: Metric, budget: Budget) -> None:
        parts = [self.given.prompts] if metric == "throughput" else [[ids] for ids in self._alone]
        arms = {STOCK: Arm(self.stock(), parts), candidate.name: Arm(engine, parts)}
        pairs = [(0, 1)]
        if metric == "throughput" and candidate.name == CACHING:
            cached = int(engine.facts.settings.prefix_caching)
            arms[WARM] = Arm((self.stock(), engine)[cached], parts, "filled")
            pairs.append((cached, 2))
        series = Series([], [], pairs=pairs)
        for name, arm in arms.items():
            again = name == AGAIN
            cell = self._cell(candidate, metric, STOCK if again else name)
            result = Result(cell, candidate.series(metric), Status.OK, control=again, readings=arm.readings)
            series.results.append(result)
            series.steps.append(Step(arm.run))

        weight, seed = WEIGHTS[metric], self.config.seed
        with self.sampling.rounds_bar(candidate.series(metric), budget, weight) as tick:

            def on_round() -> None:
                for arm in arms.values():
                    arm.read()
                tick()

            self.sampling.sample(series, ReplyTimer(), budget, seed, on_round, weight)
        if metric == "throughput" and series.results[0].samples_us:
            self.file_s = min(series.results[0].samples_us) / 1e6
        if 0 in series.failed:  # its process may be gone
            self.close()

    def _cell(self, candidate: Candidate, metric: Metric, arm: str) -> Cell:
        asked = self.given.prompts if metric == "throughput" else self._alone
        point: Point = (
            ("candidate", candidate.name), ("metric", metric),
            ("requests", len(asked)), ("tokens", sum(map(len, asked))),
        )  # fmt: skip
        provider = f"vLLM {self.recorder.record.versions['vllm']}"
        size = self.base().settings.block_size or 0
        return Cell("end_to_end", "prefill", provider, arm, 0, size, None, "captured", point)
