"""A job in a process of its own, which reads its own memory at every stage."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from harness.experiments.memory.jobs import EngineName, Job, Stage, job_of, plan
from harness.experiments.memory.options import MemoryConfig
from harness.models import ModelSource
from harness.runs.record import Status, status_of

if TYPE_CHECKING:
    from harness.measure.process_memory import Meter


@dataclass(frozen=True)
class Reading:
    """What was read at a stage, or why nothing was."""

    stage: Stage
    status: Status
    reason: str | None = None
    figures: dict[str, int] = field(default_factory=dict)  # by name, in bytes
    first_tokens: tuple[int, ...] = ()
    sources: dict[str, str] = field(default_factory=dict)  # see process_memory.Meter
    block_size: int = 0  # of the engine that is loaded; 0: it has no blocks, or is not yet


def readings(
    engine: EngineName, config: MemoryConfig, source: ModelSource, token_ids: list[int]
) -> Iterator[Reading]:
    """Run the job in a new process; a reading for each of its stages, as it gets there.

    A process that dies leaves a reading for the stage that it did not reach and for all that would have
    followed. The process is gone when this ends, also if the caller stops early.
    """
    context = multiprocessing.get_context("spawn")  # a fork would share this process's pages
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(theirs, engine, config, source, token_ids))
    process.start()
    theirs.close()  # so that the pipe ends where the child does
    left = plan(engine, config.lengths)
    try:
        while left:
            try:
                reading: Reading = ours.recv()
            except (EOFError, OSError):
                process.join()
                yield from _lost(left, *_how_it_ended(process.exitcode))
                return
            if reading.status is not Status.OK and not reading.stage.lengths:  # without it nothing follows
                yield from _lost(left, reading.status, reading.reason or "")
                return
            left.remove(reading.stage)
            yield reading
    finally:
        process.kill()  # it keeps nothing that would have to be put in order
        process.join()
        ours.close()


def _lost(stages: Sequence[Stage], status: Status, reason: str) -> Iterator[Reading]:
    yield Reading(stages[0], status, reason)
    for stage in stages[1:]:
        yield Reading(stage, status, f"not reached: {stages[0].name}: {reason}")


def _how_it_ended(exit_code: int | None) -> tuple[Status, str]:
    if exit_code == -signal.SIGKILL:
        return Status.OUT_OF_MEMORY, "the process was killed; the system may have run out of memory"
    if exit_code is not None and exit_code < 0:
        return Status.ERROR, f"the process ended with {signal.Signals(-exit_code).name}"
    return Status.ERROR, f"the process ended with exit status {exit_code}"


def _serve(
    pipe: Connection, engine: EngineName, config: MemoryConfig, source: ModelSource, token_ids: list[int]
) -> None:
    """The child."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends its children
    os.dup2(2, 1)  # stdout belongs to the parent's tables
    import torch

    from harness import device
    from harness.measure.process_memory import Meter

    meter = Meter(device.kind())
    job = job_of(engine, config, source, token_ids)
    # vLLM's tensors may only be written to in inference mode. Once the parent is gone, all is over.
    with torch.inference_mode(), contextlib.suppress(BrokenPipeError):
        for stage in plan(engine, config.lengths):
            _reach(pipe, meter, job, stage)


def _reach(pipe: Connection, meter: Meter, job: Job, stage: Stage) -> None:
    """Do what leads to a stage and send what was read there."""

    def reached(used: int, held: int, first_tokens: Sequence[int]) -> None:
        figures = meter.read() | {"cache_used_bytes": used, "cache_held_bytes": held}
        sources = dict(meter.sources)
        pipe.send(Reading(stage, Status.OK, None, figures, tuple(first_tokens), sources, job.block_size))

    try:
        if stage.name == "start":
            reached(0, 0, [])
        elif stage.name == "model loaded":
            job.load(reached)
        elif stage.name == "warmed up":
            job.warm_up(reached)
        elif stage.name == "done":
            job.done(reached)
        else:
            job.run(stage, reached)
    except BrokenPipeError:
        raise
    except Exception as error:
        pipe.send(Reading(stage, *status_of(error)))
