"""All cells of one of vLLM's backends, in one engine; every round runs all of them in a new random order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness import device, prompt
from harness.batch import prefill_steps
from harness.config.engine import EngineSpec
from harness.engine.child import Child, EngineFailed
from harness.engine.engine import EngineFacts
from harness.engine.generation import blocks_needed, generating
from harness.experiments.backends.options import BackendsConfig, Size
from harness.measure.budget import Budget
from harness.measure.sampler import Series
from harness.measure.timers import Step
from harness.models import ModelSource
from harness.running.recorder import Recorder
from harness.running.sampling import Sampling
from harness.runs.record import Cell, Point, Result, Status

Prompts = list[list[int]]  # token ids of each
Lost = dict[Size, tuple[Status, str]]  # cells that cannot be measured, and why


def again(name: str) -> str:
    """The name of the series of a backend's second engine (A/A)."""
    return f"{name} again"


def prompts(config: BackendsConfig, source: ModelSource, batch: int, tokens: int) -> Prompts:
    """Random token ids: the prompts of one batch differ; those of two cells share their beginnings."""
    return [prompt.random_ids(source, tokens, config.seed + n) for n in range(batch)]


def engine_spec(config: BackendsConfig, source: ModelSource, name: str, sizes: Sequence[Size]) -> EngineSpec:
    """The spec of a backend's engine with room for these cells: on a CPU an engine takes the memory
    that it is given.
    """
    spec = config.engine(name, sizes)
    if device.kind() != "cpu":
        return spec
    blocks = max(size[0] * _blocks(config, size, spec.block_size) for size in sizes) + 1
    return replace(spec, kv_cache_bytes=blocks * spec.block_size * source.room_per_token(4))


def point(size: Size) -> Point:
    """A cell's place on its axes."""
    return ("batch_size", size[0]), ("input_len", size[1])


def _blocks(config: BackendsConfig, size: Size, block_size: int) -> int:
    """Blocks of each prompt of a cell."""
    batch, tokens = size
    steps = prefill_steps(batch * tokens, config.max_num_batched_tokens or 1)
    return blocks_needed(tokens, config.output_len or 1, block_size, steps)


class StepTimer:
    """The engine's own step times, without the time to hand the prompts to it."""

    name = "engine steps"

    def time_round(self, steps: Sequence[Step]) -> list[float]:
        """Microseconds of each step, which its `run` returns."""
        return [float(step.run()) for step in steps]  # type: ignore[arg-type]


@dataclass
class BackendEngine:
    """The cells of one engine."""

    name: str
    config: BackendsConfig
    recorder: Recorder
    source: ModelSource
    sampling: Sampling
    control: bool  # the backend's second engine (A/A)

    @property
    def series(self) -> str:
        """The name of its results and its engine."""
        return again(self.name) if self.control else self.name

    def measure(self, budget: Budget) -> None:
        """Start an engine for the cells, drop those that do not fit, and sample the rest."""
        sizes, lost = self.config.cells(), Lost()
        while left := [size for size in sizes if size not in lost]:
            try:
                with self._start(left) as engine:
                    usable = self._first_pass(engine, left, lost)
                    if usable:
                        self._sample(engine, lost, budget)
                        return
            except EngineFailed as error:
                self.recorder.notice(f"{self.series}: {error}")
                most = max(tokens for _, tokens in left)
                short = [s for s in left if error.status is Status.OUT_OF_MEMORY and s[1] < most]
                lost |= {s: (error.status, str(error)) for s in left if s not in short}
            except KeyboardInterrupt:
                self._keep_unsampled(lost)
                raise
        self._sample(None, lost, budget)

    def _keep_unsampled(self, lost: Lost) -> None:
        """If sampling has not begun, store the cells that do not fit, and the others as interrupted."""
        if all(result.series != self.series for result in self.recorder.results):
            interrupted = Status.INTERRUPTED, "interrupted by the user"
            self.recorder.keep(self._all_cells(None, dict.fromkeys(self.config.cells(), interrupted) | lost))

    def _start(self, sizes: Sequence[Size]) -> Child:
        """An engine with room for these cells. Raises EngineFailed."""
        self.recorder.say(f"starting vLLM with {self.series} ...")
        spec = engine_spec(self.config, self.source, self.name, sizes)
        child = Child(generating, spec, self.source)
        facts: EngineFacts = child.facts
        with self.recorder.update_record() as record:
            record.engines = (record.engines or {}) | {self.series: facts.with_start_s()}
        if facts.settings.attention_backend != [self.name]:
            child.close()
            got = ", ".join(facts.settings.attention_backend or [])
            raise EngineFailed(Status.UNSUPPORTED, f"vLLM took {got} instead of {self.name}")
        return child

    def _first_pass(self, engine: Child, sizes: Sequence[Size], lost: Lost) -> bool:
        """Run one token, then every cell, smallest first; failures go to `lost`, with the reason.

        Once a cell has run out of memory, larger ones are not tried and the engine must not be used again:
        returns False.
        """
        facts: EngineFacts = engine.facts
        engine.ask("prefill_us", [[1]])
        for size in sorted(sizes, key=lambda size: (size[0] * size[1], size)):
            needed = size[0] * _blocks(self.config, size, facts.block_size)
            if needed > facts.num_blocks:
                reason = f"its KV cache needs {needed} blocks, but there are {facts.num_blocks}"
                lost[size] = Status.OUT_OF_MEMORY, reason
                continue
            try:
                self._run(engine, prompts(self.config, self.source, *size))
            except EngineFailed as error:
                lost[size] = error.status, str(error)
                if error.status is Status.OUT_OF_MEMORY:
                    beyond = [s for s in sizes if s[0] >= size[0] and s[1] >= size[1] and s not in lost]
                    why = f"not tried, as batch {size[0]} x {size[1]} tokens failed: {error}"
                    lost |= dict.fromkeys(beyond, (Status.OUT_OF_MEMORY, why))
                    return False
        return True

    def _run(self, engine: Child, ids: Prompts) -> float:
        """A cell's time in us: of its prefill, or of its decoding steps."""
        if self.config.output_len:
            return float(engine.ask("decode_us", ids, self.config.output_len))
        return float(engine.ask("prefill_us", ids))

    def _all_cells(self, engine: Child | None, lost: Lost) -> Series:
        """Results for all cells, the lost ones with their reasons."""
        series = Series([], [], pairs=[])
        for size in self.config.cells():
            status, reason = lost.get(size, (Status.OK, None))
            series.results.append(Result(self._cell(size), self.series, status, reason, control=self.control))
            step = None if engine is None or size in lost else self._step(engine, size)
            series.steps.append(step)
        return series

    def _sample(self, engine: Child | None, lost: Lost, budget: Budget) -> None:
        """Sample all cells in one series."""
        series = self._all_cells(engine, lost)
        weight, seed = len(series.results), self.config.seed
        with self.sampling.rounds_bar(self.series, budget, weight) as on_round:
            # Every cell has already run.
            self.sampling.sample(series, StepTimer(), budget, seed, on_round, weight)

    def _step(self, engine: Child, size: Size) -> Step:
        ids = prompts(self.config, self.source, *size)  # once: every round has the same
        return Step(lambda: self._run(engine, ids))

    def _cell(self, size: Size) -> Cell:
        engine = (self.recorder.record.engines or {}).get(self.series)
        block_size = engine and engine.block_size
        provider = f"vLLM {self.recorder.record.versions['vllm']}"
        return Cell(
            stage="end_to_end",
            kernel=self.config.phase,
            provider=provider,
            arm=self.name,
            spread_k=0,
            block_size=block_size or self.config.block_size or 0,
            layer=None,
            data="captured",
            point=point(size),
        )
