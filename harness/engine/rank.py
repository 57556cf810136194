"""One rank's side of an engine, in the process that has its layers: sees, keeps, steers, replays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from harness import kernels
from harness.calls import capture
from harness.engine import observing
from harness.kernels import detours
from harness.measure import memory, profile
from harness.measure.budget import Budget
from harness.replay import placement
from harness.replay.bench import Bench, Equipment, ReplaySpec, Sampled
from patches import PatchError, attention, engine, logits, steering
from patches.steering import Course


@dataclass(frozen=True)
class About:
    """What a rank says of itself."""

    layers: tuple[str, ...]  # vLLM's names of its attention layers, in their order
    backends: tuple[str, ...]  # of these layers, each once
    not_steered: str | None  # why attention cannot be steered
    no_detour: tuple[str, ...]  # backends whose kernels are not known, so that nothing can be changed there
    flash_attn_version: int | None  # of the layers that run flash attention; None: there is none
    out_of_scope: tuple[str, ...]  # why, of each layer that keeps no paged K and V


class Rank:
    """A worker's attention layers and what is done with them. Its answers can be pickled."""

    def __init__(self, worker: Any) -> None:
        """
        Args:
            worker: vLLM's, with its model loaded.
        """
        parallel, self.model_runner = worker.vllm_config.parallel_config, worker.model_runner
        self.number: int | None = worker.rank if parallel.world_size > 1 else None
        self.layers = engine.attention_layers(worker)
        self.steering: steering.Steering | None = None
        self.not_steered: str | None = None
        try:
            sources = detours.by_source()
            self.steering = steering.Steering(
                self.layers, self.model_runner, detours.BACKEND_KERNELS, sources
            )
        except PatchError as error:
            self.not_steered = str(error)
        self.captured = observing.Captured()
        self.checked = observing.Checked()
        self._under_way: list[tuple[AbstractContextManager[Any], Any]] = []
        self._bench: Bench | None = None

    def about(self) -> About:
        """The rank's layers."""
        return About(
            layers=tuple(self.layers),
            backends=engine.backends(self.layers),
            not_steered=self.not_steered,
            no_detour=tuple(self.steering.no_detour) if self.steering else (),
            flash_attn_version=engine.flash_attn_version(self.layers),
            out_of_scope=tuple(attention.out_of_scope(self.layers).values()),
        )

    @cached_property
    def tap(self) -> attention.AttentionTap:
        """Sees the layers' calls; PatchError if their backend lacks what is needed for that."""
        return attention.AttentionTap(self.layers)

    def begin(self, what: str, *args: Any) -> None:
        """Enter one of this class's contexts; `end` leaves the one that was entered last."""
        context: AbstractContextManager[Any] = getattr(self, what)(*args)
        self._under_way.append((context, context.__enter__()))

    def end(self) -> Any:
        """Leave a context; its answer is what it yielded."""
        context, answer = self._under_way.pop()
        context.__exit__(None, None, None)
        return answer

    @contextmanager
    def capturing(self, layers: Sequence[int] | None) -> Iterator[observing.Captured]:
        """Keep the attention calls of `layers` (None: all) here; the answer has their outlines."""
        outlines = observing.Captured()
        with observing.capturing(self.layers, self.tap, layers) as self.captured:
            yield outlines
        outlines.calls |= {number: capture.outline(call) for number, call in self.captured.calls.items()}
        outlines.skipped |= self.captured.skipped

    @contextmanager
    def checking(self, block_ids: observing.Ids) -> Iterator[list[str]]:
        """Hold attention calls against the captured ones; the answer lists what differs."""
        problems: list[str] = []
        with observing.checking(self.layers, self.tap, self.captured, block_ids) as self.checked:
            yield problems
        whose = "" if self.number is None else f"rank {self.number}, "
        problems += [whose + problem for problem in self.checked.problems]

    @contextmanager
    def steered(self, course: Course | None) -> Iterator[list[int]]:
        """Run attention on a course (None: vLLM untouched); the answer has the number of steps that did."""
        steps: list[int] = []
        if course is None:
            yield steps
            return
        if self.steering is None:
            raise PatchError(f"attention cannot be steered: {self.not_steered}")
        before = self.steering.steered
        with self.steering.on(course):
            yield steps
        steps.append(self.steering.steered - before)

    @contextmanager
    def observing_logits(self) -> Iterator[list[torch.Tensor]]:
        """See the logits that tokens are sampled from; the answer has them on the first rank only."""
        answer: list[torch.Tensor] = []
        with logits.observed(self.model_runner.model) as seen:
            yield answer
        if not self.number:
            answer += [one.cpu() for one in seen]

    def profiling(self, trace: Path | None) -> AbstractContextManager[list[profile.Profile]]:
        """Profile the first rank; the answer of the others is empty."""
        if self.number:
            return nullcontext([])
        return profile.profiling(self._equipped.device, trace)

    def equip(self, spec: ReplaySpec, with_ceilings: bool) -> Equipment:
        """Make ready to replay."""
        gpu = torch.cuda.current_device() if torch.cuda.is_available() else 0
        self._bench = Bench(spec, self.number, gpu)
        return self._bench.equipment(with_ceilings)

    def keep(self, layers: Sequence[int]) -> None:
        """Forget the captured calls of all other layers."""
        self.captured.calls = {n: call for n, call in self.captured.calls.items() if n in layers}

    def save(self, folder: Path) -> int:
        """Write the captured calls as safetensors, and say how many; several ranks have a folder each."""
        folder = folder if self.number is None else folder / f"rank-{self.number}"
        folder.mkdir(parents=True, exist_ok=True)
        for number, call in self.captured.calls.items():
            capture.save(call, folder / f"layer-{number:03d}.safetensors")
        return len(self.captured.calls)

    def round_s(self, layer: int, spread_k: int) -> float:
        """Seconds that one round of a layer's series takes."""
        call = self.captured.calls[layer]
        return self._equipped.round_s(_placed(call, spread_k, call.block_table))

    def replay(
        self, layer: int, spread_k: int, with_synthetic: bool, budget: Budget, problem: str | None
    ) -> Sampled:
        """Sample a layer's series on the blocks of the prefill that was checked last; see Bench.measure."""
        place = self._checked_place(layer, spread_k)
        return self._equipped.measure(place, with_synthetic, budget, problem)

    def replay_request(
        self, layer: int, spread_k: int, index: int, budget: Budget, problem: str | None
    ) -> Sampled:
        """The same of one request of the step alone; see Bench.measure_request."""
        place = self._checked_place(layer, spread_k)
        return self._equipped.measure_request(place, index, budget, problem)

    def _checked_place(self, layer: int, spread_k: int) -> placement.Placement:
        return _placed(self.captured.calls[layer], spread_k, self.checked.tables[layer])

    def launch_bound(self) -> int:
        """See Bench."""
        return self._equipped.launch_bound

    def start_peak(self) -> None:
        """Begin a new peak of memory."""
        memory.start_peak(self._equipped.device)

    def end_peak(self) -> int:
        """The peak in bytes."""
        return memory.end_peak(self._equipped.device)

    @property
    def _equipped(self) -> Bench:
        assert self._bench is not None, "equip comes first"
        return self._bench


def _placed(call: capture.AttentionCall, spread_k: int, table: torch.Tensor) -> placement.Placement:
    """The call's K and V where they are in the engine's own cache; `table`: of the fragmented prefill."""
    assert call.kv_cache is not None
    one_run = kernels.PagedKV(call.kv_cache, call.block_table)
    split = kernels.PagedKV(call.kv_cache, table)
    return placement.Placement(call, spread_k, one_run, split, placement.readable(call, split))
