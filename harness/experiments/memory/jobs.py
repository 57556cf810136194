"""The two jobs whose memory is compared stage by stage, each in its own process.

A job's libraries are imported in its process only, so that they do not count in the other's figures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from harness.engine.child import Child, ChildDied, EngineFailed
from harness.experiments.memory.options import OUTPUT_LEN, MemoryConfig
from harness.models import ModelSource
from harness.runs.record import Status

EngineName = Literal["transformers", "vLLM"]
ENGINES: tuple[EngineName, ...] = ("transformers", "vLLM")
# Called when a stage is reached: bytes of KV cache in use, bytes reserved for it, first tokens.
Reached = Callable[[int, int, Sequence[int]], None]


@dataclass(frozen=True)
class Stage:
    """A stage at which memory is read."""

    name: str
    lengths: tuple[int, ...] = ()  # tokens of the inputs whose KV cache is then in memory


def plan(engine: EngineName, lengths: Sequence[int]) -> list[Stage]:
    """The stages of an engine's job, in order."""
    every = tuple(lengths)
    inputs = [Stage("all inputs", every)]
    if engine == "transformers":
        alone = [Stage(f"input {n}", (length,)) for n, length in enumerate(lengths, start=1)]
        inputs = [*alone, Stage("all, padded", every)]
    return [Stage("start"), Stage("model loaded"), Stage("warmed up"), *inputs, Stage("done")]


class Job(Protocol):
    """What a process runs: each method leads up to its stage and calls `reached` there."""

    block_size: int  # of the loaded engine, may differ from the configured one; 0: none

    def load(self, reached: Reached) -> None:
        """Load the model."""
        ...

    def warm_up(self, reached: Reached) -> None:
        """Run a prompt of one token and one of the longest's length."""
        ...

    def run(self, stage: Stage, reached: Reached) -> None:
        """Prefill the stage's inputs; `reached` is called while their KV cache exists."""
        ...

    def done(self, reached: Reached) -> None:
        """The inputs are finished, the model is still loaded."""
        ...


def job_of(engine: EngineName, config: MemoryConfig, source: ModelSource, token_ids: list[int]) -> Job:
    """The job of an engine; nothing is loaded yet.

    Args:
        source: materialised.
        token_ids: at least as many as the longest input has; every input is a prefix of them.
    """
    kind = TransformersJob if engine == "transformers" else VllmJob
    return kind(config, source, token_ids)


class TransformersJob:
    """Hugging Face transformers, one request at a time, then all of them padded to the longest."""

    block_size = 0

    def __init__(self, config: MemoryConfig, source: ModelSource, token_ids: list[int]) -> None:
        self.config, self.source, self.token_ids = config, source, token_ids

    def load(self, reached: Reached) -> None:
        from harness import device
        from harness.engine import transformers_model

        self.device = device.kind()
        self.model, self.last_only = transformers_model.load(
            self.source, self.config.dtype, self.device, self.config.seed
        )
        reached(0, 0, [])

    def warm_up(self, reached: Reached) -> None:
        for length in (1, max(self.config.lengths)):
            self._prefill([length])
        reached(0, 0, [])

    def run(self, stage: Stage, reached: Reached) -> None:
        cache, first_tokens = self._prefill(stage.lengths)
        used = sum(each.nbytes for layer in cache.layers for each in (layer.keys, layer.values))
        reached(used, used, first_tokens)

    def done(self, reached: Reached) -> None:
        reached(0, 0, [])

    def _prefill(self, lengths: Sequence[int]) -> tuple[Any, list[int]]:
        """The KV cache of prompts of these lengths, padded on the left as for generation; first tokens."""
        import torch
        from transformers import DynamicCache

        longest = max(lengths)
        ids = torch.zeros(len(lengths), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, length in enumerate(lengths):
            ids[row, longest - length :] = torch.tensor(self.token_ids[:length])
            mask[row, longest - length :] = 1
        positions = (mask.cumsum(-1) - 1).clamp_min(0)
        inputs: dict[str, Any] = {"input_ids": ids.to(self.device)}
        if len(lengths) > 1:
            inputs |= {"attention_mask": mask.to(self.device), "position_ids": positions.to(self.device)}
        # Not the model's default, which drops K and V outside a sliding window: vLLM keeps them here, too.
        done = self.model(**inputs, past_key_values=DynamicCache(), use_cache=True, **self.last_only)
        return done.past_key_values, done.logits[:, -1].argmax(-1).tolist()


class VllmJob:
    """vLLM in this process, all requests in one batch."""

    block_size = 0

    def __init__(self, config: MemoryConfig, source: ModelSource, token_ids: list[int]) -> None:
        self.config, self.source, self.token_ids = config, source, token_ids

    def load(self, reached: Reached) -> None:
        from harness.engine.engine import Engine

        self.engine = Engine(self.config.engine(), self.source)
        self.block_size = self.engine.block_size
        self._report(reached)

    def warm_up(self, reached: Reached) -> None:
        from harness.engine.generation import warm_up

        warm_up(self.engine, [1, max(self.config.lengths)], at_once=1)
        self._report(reached)

    def run(self, stage: Stage, reached: Reached) -> None:
        from harness.engine.generation import complete

        prompts = [self.token_ids[:length] for length in stage.lengths]
        first_tokens = [done[0] for done in complete(self.engine, prompts).tokens]
        steps: list[int] = []

        def on_step() -> None:
            steps.append(1)
            if len(steps) == 1:  # all prompts are prefilled, each with one more token to generate
                self._report(reached, first_tokens)

        complete(self.engine, prompts, OUTPUT_LEN, on_step)

    def done(self, reached: Reached) -> None:
        self._report(reached)

    def _report(self, reached: Reached, first_tokens: Sequence[int] = ()) -> None:
        facts = self.engine.facts()
        reached(self.engine.cache_bytes(), facts.num_blocks * facts.block_bytes, first_tokens)


@dataclass(frozen=True)
class Reading:
    """What was read at a stage, or why nothing could be read."""

    stage: Stage
    status: Status = Status.OK
    reason: str | None = None
    figures: dict[str, int] = field(default_factory=dict)  # by name, in bytes
    first_tokens: tuple[int, ...] = ()
    sources: dict[str, str] = field(default_factory=dict)  # see process_memory.Meter
    block_size: int = 0  # of the loaded engine; 0: it has no blocks, or is not loaded yet


def readings(
    engine: EngineName, config: MemoryConfig, source: ModelSource, token_ids: list[int]
) -> Iterator[Reading]:
    """Run the job in a new process and yield a reading as it reaches each stage.

    If the process dies, the stage that it did not reach and all later ones get readings with the reason. The
    process is gone when this ends, even if the caller stops early.
    """
    left = plan(engine, config.lengths)
    try:
        with Child(metered_job, engine, config, source, token_ids) as child:
            try:
                yield from _reach_all(child, left)
            finally:
                child.kill()  # it has nothing to clean up
    except EngineFailed as error:
        yield from _fail_stages(left, error)


def _reach_all(child: Child, left: list[Stage]) -> Iterator[Reading]:
    """Yield the readings of the stages in `left`, removing each; on EngineFailed the unreached ones stay."""
    while left:
        try:
            yield child.ask("reach", left[0])
        except EngineFailed as error:
            if isinstance(error, ChildDied) or not left[0].lengths:  # later stages depend on it
                raise
            yield Reading(left[0], error.status, str(error))
        left.pop(0)


def _fail_stages(stages: Sequence[Stage], error: EngineFailed) -> Iterator[Reading]:
    yield Reading(stages[0], error.status, str(error))
    for stage in stages[1:]:
        yield Reading(stage, error.status, f"not reached: {stages[0].name}: {error}")


@contextmanager
def metered_job(*job: Any) -> Iterator[_MeteredJob]:
    """For `Child`; the arguments are those of `job_of`."""
    yield _MeteredJob(job_of(*job))


class _MeteredJob:
    """A job that reads its own process's memory at every stage."""

    def __init__(self, job: Job) -> None:
        from harness import device
        from harness.measure.process_memory import Meter

        self.job, self.meter = job, Meter(device.kind())

    def facts(self) -> None:
        """No facts before a stage is reached."""

    def reach(self, stage: Stage) -> Reading:
        """Run up to a stage and return what was read there."""
        readings: list[Reading] = []

        def reached(used: int, held: int, first_tokens: Sequence[int]) -> None:
            figures = self.meter.read() | {"cache_used_bytes": used, "cache_held_bytes": held}
            more = tuple(first_tokens), dict(self.meter.sources), self.job.block_size
            readings.append(Reading(stage, Status.OK, None, figures, *more))

        if stage.name == "start":
            reached(0, 0, [])
        elif stage.name == "model loaded":
            self.job.load(reached)
        elif stage.name == "warmed up":
            self.job.warm_up(reached)
        elif stage.name == "done":
            self.job.done(reached)
        else:
            self.job.run(stage, reached)
        (reading,) = readings
        return reading
