"""What do the three flash-attn functions take on contiguous K and V, and on K and V in spread_k runs?

No engine and no model: Q, K and V are random.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch

from harness import kernels, layout
from harness.calls import random_call
from harness.calls.capture import AttentionCall
from harness.config.kernels import KernelsConfig
from harness.experiments.sampling import Sampling
from harness.kernels import DenseKV, Kernel, PagedKV
from harness.measure import timers
from harness.measure.budget import Budget
from harness.measure.sampler import Series
from harness.replay.arms import Arm, Bound
from harness.replay.placement import gather
from harness.replay.series import Judge, failing, prepare
from harness.report import kernels as view
from harness.runs.record import Cell
from harness.runs.recorder import Recorder, recording


def run(config: KernelsConfig) -> int:
    """Run it and leave its run directory; the exit status, as of the main job."""
    return recording(config, "random Q, K and V", measure)


def measure(config: KernelsConfig, recorder: Recorder) -> None:
    """One series a spread_k: the functions' six points, their gathers, one run, and that again (A/A)."""
    sampling = Sampling(config, recorder)
    timer = timers.for_device(sampling.device, config.timer, config.l2)
    recorder.note(timer=timer.name, spread_k=config.spreads(), num_blocks=config.num_blocks())
    todo = [k for k in config.spreads() if _series(k) not in recorder.finished]
    budget = sampling.budget(len(todo), 1.0)
    with torch.inference_mode(), recorder.bar("spread_k", len(todo)) as bar:
        for k in todo:
            with recorder.peak_memory(_series(k)):
                _measure(sampling, config, k, timer, budget)
            recorder.print(view.comparison_of(recorder.record, recorder.kept, k))
            bar.update()
    sampling.note_limits(budget, getattr(timer, "launch_bound", 0))


def _series(spread_k: int) -> str:
    return f"spread={spread_k}"


def _measure(
    sampling: Sampling, config: KernelsConfig, spread_k: int, timer: timers.Timer, budget: Budget
) -> None:
    """A function of its own so that nothing of one spread_k is alive at the next."""
    sampling.sample(series(config, spread_k, sampling.device), timer, budget, config.seed + spread_k)


def series(config: KernelsConfig, spread_k: int, device: str) -> Series:
    """All arms at one spread_k, made ready, each output held against the float32 reference.

    Args:
        config: resolved.
        device: "cpu" or "cuda".
    """
    inputs = Inputs(config, spread_k, device)
    func, packed, with_kvcache = kernels.flash_attn_functions(device)
    arms = [
        *_without_table(inputs, func, "gather_kv"),
        *_without_table(inputs, packed, "gather_qkv"),
        *_with_table(inputs, with_kvcache),
    ]
    try:
        judge = Judge(inputs.call)
    except Exception as error:  # out of memory, most likely
        return prepare(failing(arms, error), None, _series(spread_k))
    return prepare(arms, judge, _series(spread_k))


@dataclass
class Inputs:
    """What the arms of one spread_k share, made when it is first asked for."""

    config: KernelsConfig
    spread_k: int
    device: str
    _blocks: dict[int, random_call.Blocks] = field(default_factory=dict)

    @cached_property
    def call(self) -> AttentionCall:
        """Q, K and V, contiguous."""
        return random_call.make(self.config, self.device)

    @cached_property
    def contiguous(self) -> DenseKV:
        """K and V in token order."""
        return DenseKV(self.call.key, self.call.value)

    def blocks(self, block_size: int) -> random_call.Blocks:
        """K and V in blocks of so many tokens, in `spread_k` runs or as many as there are blocks."""
        if block_size not in self._blocks:
            runs = min(self.spread_k, layout.num_blocks(self.config.length, block_size))
            self._blocks[block_size] = random_call.in_blocks(self.call, self.config, runs, block_size)
        return self._blocks[block_size]

    def cell(self, kernel: Kernel, arm: str) -> Cell:
        """The cell of a function's arm."""
        block_size = self.config.block_size
        return Cell("kernel", kernel.name, kernel.provider, arm, self.spread_k, block_size, None, "synthetic")


def _without_table(inputs: Inputs, kernel: Kernel, gather_name: str) -> list[Arm]:
    """A function without a block table: on contiguous K and V, and on what a gather wrote, timed apart."""
    lengths = [inputs.config.length] * inputs.config.batch_size

    def target() -> tuple[DenseKV, Callable[[], object]]:
        call, kv = inputs.call, inputs.blocks(inputs.config.block_size).split
        if gather_name == "gather_kv":
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
            raise ValueError("the gathered V is not the one that was put into the blocks")
        return Bound(run, expected=inputs.call.key, is_output=False)

    cell = inputs.cell(kernel, "fragmented")
    return [
        Arm(inputs.cell(kernel, "contiguous"), contiguous),
        Arm(cell, fragmented),
        Arm(replace(cell, stage="gather", kernel=gather_name, provider="torch"), gathering),
    ]


def _with_table(inputs: Inputs, kernel: Kernel) -> list[Arm]:
    """flash_attn_with_kvcache: without a table, with one on the runs, and with one on a single run, twice."""
    config, k = inputs.config, inputs.spread_k
    multiple = getattr(kernel, "page_multiple", 1)
    in_place = config.block_size % multiple == 0
    page_size = config.block_size if in_place else multiple
    pages = layout.num_blocks(config.length, page_size)
    repaged = (
        f"re-paged from {config.block_size} to {page_size} tokens a block, {min(k, pages)} of {pages} runs"
    )

    def contiguous() -> Bound:
        return Bound(kernel.dense(inputs.call, inputs.contiguous))

    def paged(choose: Callable[[random_call.Blocks], PagedKV]) -> Bound:
        kv = choose(inputs.blocks(page_size))
        return Bound(kernel.paged(inputs.call, kv), None if in_place else repaged)

    cell = replace(inputs.cell(kernel, "fragmented"), block_size=page_size)
    one_run = replace(cell, spread_k=1)
    arms = [
        Arm(inputs.cell(kernel, "contiguous"), contiguous),
        Arm(cell, lambda: paged(lambda blocks: blocks.split)),
        Arm(one_run, lambda: paged(lambda blocks: blocks.one_run), one_run_for=k, control=True),
    ]
    if k > 1:
        arms.append(Arm(one_run, lambda: paged(lambda blocks: blocks.one_run), one_run_for=k))
    return arms
