"""From an attention call and a layout to arms: ways of running the same work, ready for timing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain

import torch

from harness import layout
from harness.calls.capture import AttentionCall, clone_together
from harness.kernels import DenseKV, EngineKernel, Kernel, PagedKV, Run, fp8
from harness.replay.placement import Placement, gather, new_cache, plain_pages, readable, slots
from harness.runs.record import Cell, Data


@dataclass(frozen=True)
class Bound:
    """An arm with its inputs in memory."""

    run: Run
    remark: str | None = None  # a remark for the row
    expected: torch.Tensor | None = None  # what `run` must return bit for bit, if known
    is_output: bool = True  # whether `run` returns attention output, to be checked against the reference


@dataclass(frozen=True)
class Arm:
    """One cell of a series and how to prepare it; `bind` may raise Unsupported or run out of memory."""

    cell: Cell
    bind: Callable[[], Bound]
    one_segment_for: int | None = None
    control: bool = False


def synthetic(call: AttentionCall, seed: int) -> AttentionCall:
    """Random normal Q, K and V with a call's shapes, strides and metadata, without output."""
    generator = torch.Generator(device=call.query.device).manual_seed(seed)
    clones = clone_together([call.query, call.key, call.value])
    for clone in clones:
        # Drawn in float32: CPU generators are slow in half precision.
        clone.copy_(torch.randn(clone.shape, generator=generator, device=clone.device))
    query, key, value = clones
    return replace(call, query=query, key=key, value=value, kv_cache=None)


# Each request's number of blocks and of segments -> its block ids in a cache made here.
Plan = Callable[[Sequence[int], Sequence[int]], list[list[int]]]


def of_series(
    place: Placement, engine: EngineKernel, functions: Sequence[Kernel], data: Data, plan: Plan
) -> list[Arm]:
    """All arms of one layer at one spread_k, the baseline twice (A/A).

    Args:
        plan: lays out the cache of a kernel that does not support the engine's block size.
    """
    func, packed, with_kvcache = functions
    return [
        *_gathering(place, func, "gather_kv", data),
        *_gathering(place, packed, "gather_qkv", data),
        *_with_kvcache(place, with_kvcache, data, plan),
        *_engine(place, engine, data),
        *(_cache_write(place, engine, data, plan) if data == "captured" else ()),
    ]


def _cell(place: Placement, kernel: Kernel, arm: str, data: Data) -> Cell:
    return Cell(
        stage="kernel",
        kernel=kernel.name,
        provider=kernel.provider,
        arm=arm,
        spread_k=place.spread_k,
        block_size=place.call.block_size,
        layer=place.call.layer,
        data=data,
    )


def _gathering(place: Placement, kernel: Kernel, gather_name: str, data: Data) -> list[Arm]:
    """A function without a block table: on the compact copy, and after a gather, which is timed
    separately.
    """
    call = place.call

    def target() -> tuple[DenseKV, Callable[[], object]]:
        if gather_name == "gather_kv":
            into = DenseKV(torch.empty_like(place.compact.key), torch.empty_like(place.compact.value))
            return into, lambda: gather(place.blocks, call.lengths, into)
        qkv = call.query.new_empty(call.num_tokens, 3, call.num_heads, call.head_dim)
        into = DenseKV(qkv[:, 1], qkv[:, 2])

        def pack() -> None:
            qkv[:, 0] = call.query
            gather(place.blocks, call.lengths, into)

        return into, pack

    def contiguous() -> Bound:
        return Bound(kernel.dense(call, place.compact))

    def fragmented() -> Bound:
        kernel.dense(call, place.compact)  # refuse before anything is copied
        into, collect = target()
        collect()
        return Bound(kernel.dense(call, into))

    def gathering() -> Bound:
        if gather_name == "gather_qkv":  # if packing is impossible, so is its gather
            kernel.dense(call, place.compact)
        into, collect = target()

        def run() -> torch.Tensor:
            collect()
            return into.key

        run()
        if not torch.equal(into.value, call.value):
            raise ValueError("the gathered V differs from the captured one")
        return Bound(run, expected=call.key, is_output=False)

    cell = _cell(place, kernel, "fragmented", data)
    return [
        Arm(_cell(place, kernel, "contiguous", data), contiguous),
        Arm(cell, fragmented),
        Arm(replace(cell, stage="gather", kernel=gather_name, provider="torch"), gathering),
    ]


def _with_kvcache(place: Placement, kernel: Kernel, data: Data, plan: Plan) -> list[Arm]:
    """flash_attn_with_kvcache: without a block table on the compact copy, and with one on the blocks."""
    call = place.call
    multiple = getattr(kernel, "page_multiple", 1)
    in_place = call.block_size % multiple == 0
    page_size = call.block_size if in_place else multiple

    def pages(spread_k: int) -> tuple[PagedKV, str | None]:
        if in_place:
            return (place.blocks if spread_k > 1 else readable(call, place.one_segment)), None
        blocks = [layout.num_blocks(length, page_size) for length in call.lengths]
        segments = (
            [min(k, n) for k, n in zip(place.segments, blocks, strict=True)]
            if spread_k > 1
            else [1] * len(blocks)
        )
        most = f"{max(segments)} of {max(blocks)} segments"
        remark = f"re-paged from {call.block_size} to {page_size} tokens per block, {most}"
        return plain_pages(call, plan(blocks, segments), page_size), remark

    def contiguous() -> Bound:
        return Bound(kernel.dense(call, place.compact))

    def paged(spread_k: int) -> Bound:
        kv, remark = pages(spread_k)
        return Bound(kernel.paged(call, kv), remark=remark)

    cell = replace(_cell(place, kernel, "fragmented", data), block_size=page_size)
    arms = [
        Arm(_cell(place, kernel, "contiguous", data), contiguous),
        Arm(cell, lambda: paged(place.spread_k)),
    ]
    if place.spread_k > 1:
        arms.append(Arm(replace(cell, spread_k=1), lambda: paged(1), one_segment_for=place.spread_k))
    return arms


def _engine(place: Placement, kernel: EngineKernel, data: Data) -> list[Arm]:
    """The engine's kernel: dense on the step's own K and V and on the compact copy, paged in one segment
    (twice, and at another place as a placebo) and in k segments; and on random inputs, dense as in a
    benchmark without an engine.
    """
    call = place.call

    def dense(kv: DenseKV) -> Bound:
        return Bound(kernel.dense(call, kv))

    def paged(kv: PagedKV) -> Bound:
        return Bound(kernel.paged(call, kv), expected=call.output)

    cell = _cell(place, kernel, "paged", data)
    one_segment = replace(cell, spread_k=1)
    arms = [
        Arm(_cell(place, kernel, "dense", data), lambda: dense(DenseKV(call.key, call.value))),
        Arm(_cell(place, kernel, "compact", data), lambda: dense(place.compact)),
        Arm(cell, lambda: paged(place.split)),
        Arm(one_segment, lambda: paged(place.one_segment), one_segment_for=place.spread_k, control=True),
    ]
    if place.spread_k > 1:
        arms.append(Arm(one_segment, lambda: paged(place.one_segment), one_segment_for=place.spread_k))
    if data == "synthetic":
        return arms + _random(place, kernel, data)
    cell = replace(one_segment, arm="placebo")
    placebo = Arm(cell, lambda: paged(place.elsewhere), one_segment_for=place.spread_k)
    return [*arms, placebo]


def _cache_write(place: Placement, kernel: EngineKernel, data: Data, plan: Plan) -> list[Arm]:
    """The engine's cache write, into the split blocks and into the single segment."""
    call = place.call
    if call.quantised:
        return _converting_write(place, kernel, data, plan)

    def writing(kv: PagedKV) -> Bound:
        ids = call.block_ids(kv.block_table)
        run = kernel.cache_write(call, kv, slots(call, ids, call.block_size))
        kv.cache[list(chain(*ids))] = 0
        run()
        if not torch.equal(kernel.paged(call, kv)(), call.output):
            raise ValueError("attention on the written cache differs from the captured output")
        return Bound(run, is_output=False)

    cell = replace(_cell(place, kernel, "paged", data), stage="cache_write", kernel=kernel.writer)
    arms = [Arm(cell, lambda: writing(place.split))]
    if place.spread_k > 1:
        one_segment = replace(cell, spread_k=1)
        arms.append(Arm(one_segment, lambda: writing(place.one_segment), one_segment_for=place.spread_k))
    return arms


def _converting_write(place: Placement, kernel: EngineKernel, data: Data, plan: Plan) -> list[Arm]:
    """The engine's cache write into 8-bit floats, and into the type of K and V (twice), both into the same
    blocks of caches made here: what converting costs.
    """
    call = place.call
    counts = [layout.num_blocks(length, call.block_size) for length in call.lengths]

    @cache
    def blocks(dtype: torch.dtype) -> tuple[PagedKV, torch.Tensor]:
        ids = plan(counts, place.segments)
        return new_cache(call, max(map(max, ids)) + 1, dtype, ids), slots(call, ids, call.block_size)

    def converting() -> Bound:
        stored = fp8.of_call(call)
        kv, at = blocks(fp8.CACHE_DTYPE)
        run = kernel.cache_write(call, kv, at)
        run()
        if not (error := kernel.stored_error(call, kv, at)) <= stored.step:
            raise ValueError(f"what was written is {error:.2g} from K and V, {stored.step:g} allowed")
        return Bound(run, is_output=False)

    def unconverted() -> Bound:
        fp8.of_call(call)
        return Bound(kernel.cache_write(call, *blocks(call.key.dtype)), is_output=False)

    cell = replace(_cell(place, kernel, "converted", data), stage="cache_write", kernel=kernel.writer)
    baseline = replace(cell, arm="unconverted")
    return [Arm(cell, converting), Arm(baseline, unconverted), Arm(baseline, unconverted, control=True)]


def _random(place: Placement, kernel: EngineKernel, data: Data) -> list[Arm]:
    """Dense on contiguous tensors, with the schedule prepared in advance and, if the kernel has one,
    without.
    """
    call = place.call

    def contiguous() -> tuple[AttentionCall, DenseKV]:
        query, key, value = (t.contiguous() for t in (call.query, call.key, call.value))
        return replace(call, query=query, key=key, value=value), DenseKV(key, value)

    arms = [Arm(_cell(place, kernel, "random", data), lambda: Bound(kernel.dense(*contiguous())))]
    unscheduled = getattr(kernel, "unscheduled", None)
    if unscheduled is not None:
        cell = _cell(place, kernel, "random_unscheduled", data)
        arms.append(Arm(cell, lambda: Bound(unscheduled(*contiguous()))))
    return arms


def of_request(place: Placement, engine: EngineKernel, index: int) -> list[Arm]:
    """The arms of the engine's kernel, dense and paged, for a placement with one request of a batch.

    Args:
        index: of the request in the batch.
    """
    arms = _engine(place, engine, "captured")
    wanted = [arm for arm in arms if arm.cell.stage == "kernel" and arm.cell.arm in ("dense", "paged")]
    return [replace(arm, cell=replace(arm.cell, request=index)) for arm in wanted]


def with_output(place: Placement, kernel: EngineKernel) -> Placement:
    """The placement with `call.output` set to the engine's kernel's output on the single segment."""
    output = kernel.paged(place.call, place.one_segment)().clone()
    return replace(place, call=replace(place.call, output=output))
