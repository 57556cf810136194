"""What each step of an engine did: its kind, its requests and their block tables, its time, its profile."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from harness.layout import spread_k
from harness.measure.profile import Device, Profile, profiling
from harness.workloads.layouts import RequestLayout
from patches import engine, steering, steps

PURE, CHUNK, MIXED, DECODE = KINDS = ("pure prefill", "chunk", "mixed", "decode")


@dataclass(frozen=True)
class StepRecord:
    """One step of the engine."""

    kind: str  # one of KINDS
    tokens: int  # computed in it
    requests: int
    cached_tokens: int  # that its new requests found in the prefix cache
    graph: str  # CUDA graphs' mode: NONE (eager), PIECEWISE or FULL
    blocks: int  # of its requests' block tables
    segments: int
    start_s: float  # since the pass began
    ms: float  # on a GPU by its own clock; else until the step's tokens were sampled
    gap_ms: float  # from there to the next step; of the last one 0


@dataclass(frozen=True)
class ProfiledStep:
    """One profiled step."""

    kind: str
    tokens: int
    categories: dict[str, float]  # ms by measure.categories.CATEGORIES
    profiled_ms: float


@dataclass(frozen=True)
class PassLog:
    """What was seen of a pass."""

    steps: list[StepRecord] = field(default_factory=list)
    # Of each request with blocks, of the first KV cache group, when it was scheduled first.
    layouts: list[RequestLayout] = field(default_factory=list)
    profiled: list[ProfiledStep] = field(default_factory=list)


@dataclass
class _Seen:
    """A request so far."""

    tokens: int  # of its prompt
    cached_tokens: int
    block_ids: list[int]
    start_s: float


@dataclass
class _Step:
    """A step as it is scheduled; its segments are counted after the pass."""

    kind: str
    tokens: int
    cached_tokens: int
    tables: list[tuple[list[int], int]]  # of each request: its blocks, and how many of them it has by now
    start_s: float
    marks: list[Any]  # begin and end
    graph: str = "NONE"


class StepLog:
    """Records the steps of a pass. Counting segments and reading times wait until its end."""

    def __init__(self, worker: Any, device: Device, every: Mapping[str, int] | None) -> None:
        """
        Args:
            every: of each kind, profile every n-th step; None: record, and profile nothing.
        """
        self._worker, self._device, self._every = worker, device, every
        self._requests: dict[str, _Seen] = {}
        self._steps: list[_Step] = []
        self._counts: Counter[str] = Counter()
        self._profile = ExitStack()
        self._profiled: list[tuple[_Step, list[Profile]]] = []
        self._began_s = time.perf_counter()

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record the steps that run inside the block."""
        layers = engine.attention_layers(self._worker)
        with steps.watching(self._worker.model_runner, layers, self._before, self._after):
            yield

    def _before(self, scheduled: Any) -> None:
        step = self._describe(scheduled)
        self._steps.append(step)
        self._counts[step.kind] += 1
        if self._every and (self._counts[step.kind] - 1) % self._every.get(step.kind, 1) == 0:
            context: AbstractContextManager[list[Profile]] = profiling(self._device)
            self._profiled.append((step, self._profile.enter_context(context)))
        step.marks.append(self._mark())

    def _after(self, graph: str) -> None:
        step = self._steps[-1]
        step.graph = graph
        step.marks.append(self._mark())
        self._profile.close()

    def _mark(self) -> Any:
        """Now, on the device's own time line."""
        if self._device == "cpu":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _describe(self, scheduled: Any) -> _Step:
        now_s = time.perf_counter() - self._began_s
        counts = scheduled.num_scheduled_tokens
        for new in scheduled.scheduled_new_reqs:
            blocks = list(new.block_ids[0]) if new.block_ids else []
            prompt = len(new.prompt_token_ids or ())
            self._requests[new.req_id] = _Seen(prompt, new.num_computed_tokens, blocks, now_s)
        again = scheduled.scheduled_cached_reqs
        decoding = 0
        for name, more, computed in zip(
            again.req_ids, again.new_block_ids, again.num_computed_tokens, strict=True
        ):
            seen = self._requests[name]
            if name in again.resumed_req_ids:  # after a preemption: all of its blocks are new
                seen.block_ids = list(more[0]) if more else []
            elif more:
                seen.block_ids += more[0]
            decoding += computed >= seen.tokens
        kind = CHUNK
        if steering.pure_prefill(scheduled) is not None:
            kind = PURE
        elif decoding:
            kind = DECODE if decoding == len(counts) else MIXED
        tables = [(self._requests[name].block_ids, len(self._requests[name].block_ids)) for name in counts]
        cached = sum(new.num_computed_tokens for new in scheduled.scheduled_new_reqs)
        return _Step(kind, sum(counts.values()), cached, tables, now_s, [])

    def close(self) -> PassLog:
        """What was seen, once the pass has ended."""
        if self._device == "cuda":
            torch.cuda.synchronize()
        followers = [*self._steps[1:], None]
        records = [
            StepRecord(
                step.kind,
                step.tokens,
                len(step.tables),
                step.cached_tokens,
                step.graph,
                sum(count for _, count in step.tables),
                sum(spread_k(ids[:count]) for ids, count in step.tables if count),
                step.start_s,
                _ms_between(*step.marks),
                _ms_between(step.marks[1], after.marks[0]) if after else 0.0,
            )
            for step, after in zip(self._steps, followers, strict=True)
        ]
        size = self._worker.cache_config.block_size
        layouts = [
            RequestLayout(seen.start_s, seen.tokens, tuple(seen.block_ids), seen.cached_tokens // size)
            for seen in self._requests.values()
            if seen.block_ids
        ]
        profiled = [
            ProfiledStep(step.kind, step.tokens, profile.categories, profile.profiled_ms)
            for step, profiles in self._profiled
            for profile in profiles
        ]
        return PassLog(records, layouts, profiled)


def _ms_between(begin: Any, end: Any) -> float:
    ms = 1e3 * (end - begin) if isinstance(begin, float) else begin.elapsed_time(end)
    return max(0.0, float(ms))
