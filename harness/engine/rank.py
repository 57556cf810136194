"""One rank's side of an engine, in the process that holds its layers: observes, captures, steers, replays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from harness import device, kernels
from harness.calls import capture
from harness.engine import compatibility, observing
from harness.kernels import overrides
from harness.measure import memory, profile
from harness.measure.budget import Budget
from harness.replay import placement
from harness.replay.bench import Bench, Equipment, ReplaySpec, Sampled
from patches import PatchError, attention, engine, layer_kinds, logits, steering
from patches.steering import Override


@dataclass(frozen=True)
class About:
    """What a rank reports about itself."""

    layers: tuple[str, ...]  # vLLM's names of its attention layers, in their order
    backends: tuple[str, ...]  # of these layers, each once
    not_steered: str | None  # why attention cannot be steered
    no_override: tuple[str, ...]  # backends whose kernels are not known and cannot be overridden
    flash_attn_version: int | None  # of the layers that run flash attention; None: there is none
    kinds: layer_kinds.LayerKinds  # of the layers that are not plain attention


class Rank:
    """A worker's attention layers, and what the harness does with them. Results can be pickled."""

    def __init__(self, worker: Any) -> None:
        """
        Args:
            worker: vLLM's, with its model loaded.
        """
        parallel, self.model_runner = worker.vllm_config.parallel_config, worker.model_runner
        self.number: int | None = worker.rank if parallel.world_size > 1 else None
        self.layers = engine.attention_layers(worker)
        self.kinds = layer_kinds.kinds(worker)
        self.steering: steering.Steering | None = None
        self.not_steered: str | None = None
        try:
            if missing := compatibility.why_not(device.kind(), steering.FEATURE):
                raise PatchError(missing)
            sources = overrides.by_source()
            self.steering = steering.Steering(
                self.layers, self.model_runner, overrides.BACKEND_KERNELS, sources, self.kinds
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
            no_override=tuple(self.steering.no_override) if self.steering else (),
            flash_attn_version=engine.flash_attn_version(self.layers),
            kinds=self.kinds,
        )

    @cached_property
    def hook(self) -> attention.AttentionHook:
        """The hook on the layers' calls; raises PatchError if their backend lacks what it needs."""
        own = {name: layer for name, layer in self.layers.items() if name not in self.kinds.unmeasured}
        return attention.AttentionHook(own)

    def begin(self, what: str, *args: Any) -> None:
        """Enter one of this class's contexts; `end` leaves the one that was entered last."""
        context: AbstractContextManager[Any] = getattr(self, what)(*args)
        self._under_way.append((context, context.__enter__()))

    def end(self) -> Any:
        """Leave a context and return what it yielded."""
        context, answer = self._under_way.pop()
        context.__exit__(None, None, None)
        return answer

    @contextmanager
    def capturing(self, layers: Sequence[int] | None, longest: int) -> Iterator[observing.Captured]:
        """Capture the attention calls of `layers` (None: all); yields their outlines.

        Args:
            longest: tokens of the step's longest prompt.
        """
        outlines = observing.Captured()
        reasons = self.kinds.not_captured(longest)
        with observing.capturing(self.layers, self.hook, layers, reasons) as self.captured:
            yield outlines
        outlines.calls |= {number: capture.outline(call) for number, call in self.captured.calls.items()}
        outlines.skipped |= self.captured.skipped

    @contextmanager
    def checking(self, block_ids: observing.Ids, block_size: int) -> Iterator[list[str]]:
        """Check attention calls against the captured ones; yields a list of what differs.

        Args:
            block_ids: of each request, of `block_size` tokens each.
        """
        problems: list[str] = []
        asked = observing.Layout(block_ids, block_size)
        with observing.checking(self.layers, self.hook, self.captured, asked) as self.checked:
            yield problems
        whose = "" if self.number is None else f"rank {self.number}, "
        problems += [whose + problem for problem in self.checked.problems]

    @contextmanager
    def steer(self, override: Override | None) -> Iterator[list[int]]:
        """Run attention with an override (None: vLLM untouched); yields a list with the number of steered
        steps.
        """
        steps: list[int] = []
        if override is None:
            yield steps
            return
        if self.steering is None:
            raise PatchError(f"attention cannot be steered: {self.not_steered}")
        before = self.steering.steered
        with self.steering.on(override):
            yield steps
        steps.append(self.steering.steered - before)

    @contextmanager
    def observing_logits(self) -> Iterator[list[torch.Tensor]]:
        """Observe the logits that tokens are sampled from; only the first rank yields them."""
        answer: list[torch.Tensor] = []
        with logits.observing(self.model_runner.model) as seen:
            yield answer
        if not self.number:
            answer += [one.cpu() for one in seen]

    def profiling(self, trace: Path | None) -> AbstractContextManager[list[profile.Profile]]:
        """Profile the first rank; the others yield nothing."""
        if self.number:
            return nullcontext([])
        return profile.profiling(self._equipped.device, trace)

    def equip(self, spec: ReplaySpec, with_ceilings: bool) -> Equipment:
        """Prepare for replay."""
        gpu = torch.cuda.current_device() if torch.cuda.is_available() else 0
        self._bench = Bench(spec, self.number, gpu)
        return self._bench.equipment(with_ceilings)

    def keep(self, layers: Sequence[int]) -> None:
        """Drop the captured calls of all other layers."""
        self.captured.calls = {n: call for n, call in self.captured.calls.items() if n in layers}

    def save(self, folder: Path) -> int:
        """Write the captured calls as safetensors and return how many; with several ranks, a folder each."""
        folder = folder if self.number is None else folder / f"rank-{self.number}"
        folder.mkdir(parents=True, exist_ok=True)
        for number, call in self.captured.calls.items():
            capture.save(call, folder / f"layer-{number:03d}.safetensors")
        return len(self.captured.calls)

    def round_s(self, layer: int, spread_k: int) -> float:
        """Seconds that one round of a layer's series takes."""
        call = self.captured.calls[layer]
        return self._equipped.round_s(_placement(call, spread_k, call.block_table))

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
        return _placement(self.captured.calls[layer], spread_k, self.checked.tables[layer])

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
        assert self._bench is not None, "call equip first"
        return self._bench


def _placement(call: capture.AttentionCall, spread_k: int, table: torch.Tensor) -> placement.Placement:
    """The call's K and V where they are in the engine's own cache; `table`: of the fragmented prefill."""
    assert call.kv_cache is not None
    one_segment = kernels.PagedKV(call.kv_cache, call.block_table)
    split = kernels.PagedKV(call.kv_cache, table)
    return placement.Placement(call, spread_k, one_segment, split, placement.readable(call, split))
