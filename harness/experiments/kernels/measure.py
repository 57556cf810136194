"""How fast are attention kernels on contiguous K and V, and on K and V in spread_k segments?

No engine and no model: Q, K and V are random.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch

from harness import layout
from harness.calls.capture import AttentionCall
from harness.config.kernel_names import FUNCTIONS, gather_for
from harness.experiments import views
from harness.experiments.kernels.options import KernelsConfig
from harness.kernels import DenseKV, PagedKV
from harness.kernels.listed import Listed, by_option
from harness.kernels.support import Feature, require
from harness.kernels.vllm_cpu import VllmCpuAttention
from harness.measure import timers
from harness.measure.budget import Budget
from harness.measure.sampler import Series
from harness.replay import random_call
from harness.replay.arms import Arm, Bound
from harness.replay.placement import copy_elsewhere, gather
from harness.replay.series import Judge, failing, prepare
from harness.running.recorder import Recorder, recording
from harness.running.sampling import Sampling
from harness.runs.record import Cell


def run(config: KernelsConfig, source: None = None) -> None:
    """Run the experiment, leaving a run directory; raises as `recording` does."""
    recording(config, "random Q, K and V", measure, views.write)


def measure(config: KernelsConfig, recorder: Recorder) -> None:
    """One series for each spread_k: the kernels' arms, their gathers, one segment, and one segment again
    (A/A).
    """
    sampling = Sampling(config, recorder)
    timer = timers.for_device(sampling.device, config.timer, config.l2)
    with recorder.update_record() as record:
        record.timer, record.spread_k, record.num_blocks = timer.name, config.spreads(), config.num_blocks()
    todo = [k for k in config.spreads() if _series(k) not in recorder.finished]
    random.Random(config.seed).shuffle(todo)  # so that what changes with the hour is no trend over spread_k
    budget = sampling.budget(len(todo), 1.0)
    with torch.inference_mode(), recorder.bar("spread_k", len(todo)) as bar:
        for k in todo:
            with recorder.peak_memory(_series(k)):
                _measure(sampling, config, k, timer, budget)
            bar.update()
    sampling.note_limits(getattr(timer, "launch_bound", 0))


def _series(spread_k: int) -> str:
    return f"spread={spread_k}"


def _measure(
    sampling: Sampling, config: KernelsConfig, spread_k: int, timer: timers.Timer, budget: Budget
) -> None:
    """A separate function, so that nothing of one spread_k survives into the next."""
    sampling.sample(series(config, spread_k, sampling.device), timer, budget, config.seed + spread_k)


def series(config: KernelsConfig, spread_k: int, device: str) -> Series:
    """All arms at one spread_k, prepared, with outputs checked against the float32 reference.

    Args:
        config: resolved.
        device: "cpu" or "cuda".
    """
    inputs = Inputs(config, spread_k, device)
    known = by_option(device)
    arms = [arm for name in config.kernels for arm in _arms(inputs, known[name])]
    try:
        judge = Judge(inputs.call)
    except Exception as error:  # probably out of memory
        return prepare(failing(arms, error), None, _series(spread_k))
    return prepare(arms, judge, _series(spread_k))


@dataclass
class Inputs:
    """The inputs that the arms of one spread_k share, made on first use."""

    config: KernelsConfig
    spread_k: int
    device: str
    _blocks: dict[int, random_call.Blocks] = field(default_factory=dict)
    _packed: dict[int, random_call.Blocks] = field(default_factory=dict)

    @cached_property
    def call(self) -> AttentionCall:
        """Q, K and V, contiguous."""
        return random_call.make(self.config.shape(), self.device, self.config.seed)

    @cached_property
    def contiguous(self) -> DenseKV:
        """K and V in token order."""
        return DenseKV(self.call.key, self.call.value)

    def blocks(self, block_size: int) -> random_call.Blocks:
        """K and V in blocks of `block_size` tokens, in `spread_k` segments or as many as there are blocks."""
        if block_size not in self._blocks:
            config = self.config
            segments = min(self.spread_k, layout.num_blocks(config.length, block_size))
            self._blocks[block_size] = random_call.in_blocks(
                self.call, block_size, segments, gap=config.gap, sizes=config.segment_sizes, seed=config.seed
            )
        return self._blocks[block_size]

    def readable(self, kernel: Listed, block_size: int) -> random_call.Blocks:
        """`blocks` as the kernel reads them: vLLM's CPU kernel needs the packing of its own cache write."""
        blocks = self.blocks(block_size)
        if not isinstance(kernel.kernel, VllmCpuAttention):
            return blocks
        if block_size not in self._packed:
            self._packed[block_size] = random_call.fill_with_kernel(kernel.kernel, self.call, blocks)
        return self._packed[block_size]

    def cell(self, kernel: Listed, arm: str) -> Cell:
        """The cell of a kernel's arm; where several share a function, the provider names it."""
        block_size, name = self.config.block_size, kernel.option
        provider = kernel.provider if name in FUNCTIONS else f"{kernel.name}, {kernel.provider}"
        return Cell("kernel", name, provider, arm, self.spread_k, block_size, None, "synthetic")


def _arms(inputs: Inputs, kernel: Listed) -> list[Arm]:
    """A kernel's arms, according to its declaration."""
    if Feature.PAGED not in kernel.support.features:
        return _without_table(inputs, kernel)
    arms = _with_table(inputs, kernel)
    return arms if Feature.DENSE in kernel.support.features else arms[1:]


def _without_table(inputs: Inputs, kernel: Listed) -> list[Arm]:
    """A kernel without a block table: on contiguous K and V, and on gathered ones; the gather is timed
    separately.
    """
    lengths, gather_name = [inputs.config.length] * inputs.config.batch_size, gather_for(kernel.option)

    def target() -> tuple[DenseKV, Callable[[], object]]:
        call, kv = inputs.call, inputs.blocks(inputs.config.block_size).split
        if gather_name != "gather_qkv":
            into = DenseKV(torch.empty_like(call.key), torch.empty_like(call.value))
            return into, lambda: gather(kv, lengths, into)
        qkv = call.query.new_empty(call.num_tokens, 3, call.num_heads, call.head_dim)
        into = DenseKV(qkv[:, 1], qkv[:, 2])

        def pack() -> None:
            qkv[:, 0] = call.query
            gather(kv, lengths, into)

        return into, pack

    def contiguous() -> Bound:
        return Bound(kernel.dense(inputs.call, inputs.contiguous))

    def fragmented() -> Bound:
        contiguous()  # refuse before anything is copied
        into, collect = target()
        collect()
        return Bound(kernel.dense(inputs.call, into))

    def gathering() -> Bound:
        contiguous()
        into, collect = target()

        def run() -> torch.Tensor:
            collect()
            return into.key

        run()
        if not torch.equal(into.value, inputs.call.value):
            raise ValueError("the gathered V differs from the V in the blocks")
        return Bound(run, expected=inputs.call.key, is_output=False)

    cell = inputs.cell(kernel, "fragmented")
    return [
        Arm(inputs.cell(kernel, "contiguous"), contiguous),
        Arm(cell, fragmented),
        Arm(replace(cell, stage="gather", kernel=gather_name, provider="torch"), gathering),
    ]


def _with_table(inputs: Inputs, kernel: Listed) -> list[Arm]:
    """A kernel with a block table: without it, on the segments, and on a single segment: twice (A/A), and at
    another place (placebo).
    """
    config, k = inputs.config, inputs.spread_k
    multiple = kernel.support.page_sizes.multiple_of
    in_place = config.block_size % multiple == 0
    page_size = config.block_size if in_place else multiple
    pages = layout.num_blocks(config.length, page_size)
    repaged = (
        f"re-paged from {config.block_size} to {page_size} tokens per block, {min(k, pages)} of "
        f"{pages} segments"
    )

    def contiguous() -> Bound:
        return Bound(kernel.dense(inputs.call, inputs.contiguous))

    def elsewhere(blocks: random_call.Blocks) -> PagedKV:
        return copy_elsewhere(blocks.one_segment, [config.length] * config.batch_size)

    def paged(choose: Callable[[random_call.Blocks], PagedKV]) -> Bound:
        require(kernel, inputs.call, page_size)  # refuse before anything is copied
        kv = choose(inputs.readable(kernel, page_size))
        return Bound(kernel.paged(inputs.call, kv), None if in_place else repaged)

    cell = replace(inputs.cell(kernel, "fragmented"), block_size=page_size)
    one_segment = replace(cell, spread_k=1)
    arms = [
        Arm(inputs.cell(kernel, "contiguous"), contiguous),
        Arm(cell, lambda: paged(lambda blocks: blocks.split)),
        Arm(one_segment, lambda: paged(lambda blocks: blocks.one_segment), one_segment_for=k, control=True),
        Arm(replace(one_segment, arm="placebo"), lambda: paged(elsewhere), one_segment_for=k),
    ]
    if k > 1:
        arms.append(Arm(one_segment, lambda: paged(lambda blocks: blocks.one_segment), one_segment_for=k))
    return arms
