"""How each way copies, and whether every byte arrived."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch

from harness.experiments.transfer.descriptors import EACH, RISING, RISING_OR_FALLING, Copies, merge
from harness.experiments.transfer.ways import GATHER, YARDSTICK
from harness.kernels import Unsupported
from harness.kernels.blockcopy import copy_blocks
from harness.layout import Ints
from patches import PatchError, Symbol
from patches.block_copies import SWAP_BLOCKS, SWAP_BLOCKS_BATCH, TRITON_COPY

LARGEST_CHUNK = 8192  # bytes that a program of vLLM's Triton copy moves at a time, as its connector sets it
GPU_ONLY = "vLLM's copies of blocks need an NVIDIA GPU"


@dataclass(frozen=True)
class Move:
    """A request's blocks in a pool, and contiguous memory elsewhere to move them to or from.

    All three tensors are contiguous int8 [regions, blocks, bytes of a block]; a region is what lies in
    one piece of all the pool's blocks: one layer's K and V, or either of them, or all layers'.
    """

    direction: str  # to_host, to_gpu or to_peer
    pool: torch.Tensor  # of more blocks than the request has
    flat: torch.Tensor  # contiguous, on the pool's device: a gather's target, and the yardstick's bytes
    buffer: torch.Tensor  # pinned host memory, or the next GPU's
    block_ids: Ints  # physical ids in logical order

    @property
    def inwards(self) -> bool:
        """Whether the blocks are written, not read."""
        return self.direction == "to_gpu"

    @property
    def cuda(self) -> bool:
        """Whether the pool is on a GPU."""
        return bool(self.pool.is_cuda)

    def ordered(self, pool: torch.Tensor, buffer: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Destination and source."""
        return (pool, buffer) if self.inwards else (buffer, pool)


@dataclass(frozen=True)
class Bound:
    """A way, ready to be timed."""

    run: Callable[[], object]
    descriptors: int  # copies that are submitted
    copies: Copies | None  # None: of the whole contiguous tensor


def bind(way: str, move: Move) -> Bound:
    """A way of moving these blocks; what can be made ahead (views, addresses, the gather's indices) is.

    Raises Unsupported, with the reason, where this machine or vLLM has no such way.
    """
    return BINDERS[way](move)


def objection(move: Move, bound: Bound) -> str | None:
    """Run a way once into a cleared destination: which share of the bytes is wrong, or None."""
    ids = torch.from_numpy(move.block_ids).to(move.pool.device)
    slots = None if bound.copies is None else torch.from_numpy(bound.copies.slot_of).to(ids.device)
    here = move.flat if slots is None else move.pool
    if not move.inwards:
        move.buffer.zero_()
    elif slots is None:
        here.zero_()
    else:
        here.index_fill_(1, ids, 0)
    _synchronise(move)
    bound.run()
    _synchronise(move)
    wrong = 0
    for mine, theirs in zip(here, move.buffer, strict=True):  # a region at a time, to save memory
        there = theirs.to(mine.device)
        if slots is not None:
            mine, there = mine.index_select(0, ids), there.index_select(0, slots)
        wrong += int((mine != there).sum())
    if not wrong:
        return None
    return f"{100 * wrong / move.flat.numel():.3g}% of the bytes differ from those that were to be moved"


def _synchronise(move: Move) -> None:
    for tensor in (move.pool, move.buffer):
        if tensor.is_cuda:
            torch.cuda.synchronize(tensor.device)


def _contiguous(move: Move) -> Bound:
    into, source = move.ordered(move.flat, move.buffer)
    return Bound(lambda: into.copy_(source, non_blocking=True), 1, None)


def _by_copies(steps: tuple[int, ...]) -> Callable[[Move], Bound]:
    """One `copy_` (on a GPU a cudaMemcpyAsync) for each run of neighbours."""

    def bind(move: Move) -> Bound:
        copies = merge(move.block_ids.tolist(), steps)
        runs = list(zip(copies.ids.tolist(), copies.slots.tolist(), copies.lengths.tolist(), strict=True))
        pairs = [
            move.ordered(pool.narrow(0, first, length), buffer.narrow(0, slot, length))
            for pool, buffer in zip(move.pool, move.buffer, strict=True)
            for first, slot, length in runs
        ]

        def run() -> None:
            for into, source in pairs:
                into.copy_(source, non_blocking=True)

        return Bound(run, len(pairs), copies)

    return bind


def _swap_blocks(move: Move) -> Bound:
    _require_host(move, "vLLM's swap_blocks copies between a GPU and its host, not to another GPU")
    swap = _resolve(SWAP_BLOCKS)
    copies = merge(move.block_ids.tolist(), EACH)
    mapping = torch.from_numpy(np.stack(move_order(move, copies.ids, copies.slots), axis=1))
    pairs = [move.ordered(pool, buffer)[::-1] for pool, buffer in zip(move.pool, move.buffer, strict=True)]
    size = move.pool.shape[2]

    def run() -> None:
        for source, into in pairs:
            swap(source, into, size, mapping)

    return Bound(run, len(pairs) * len(copies), copies)


def move_order(move: Move, of_pool: Ints, of_buffer: Ints) -> tuple[Ints, Ints]:
    """Source and destination of what belongs to the pool and to the buffer."""
    return (of_buffer, of_pool) if move.inwards else (of_pool, of_buffer)


def _by_batch(steps: tuple[int, ...]) -> Callable[[Move], Bound]:
    """All copies in one call of the driver."""

    def bind(move: Move) -> Bound:
        if not move.cuda:
            raise Unsupported(GPU_ONLY)
        swap = _resolve(SWAP_BLOCKS_BATCH)
        copies = merge(move.block_ids.tolist(), steps)
        sources, targets, sizes = addresses(move, copies)
        # As vLLM's connector has it: nothing else writes the host's side meanwhile.
        any_order = move.inwards
        run = lambda: swap(sources, targets, sizes, is_src_access_order_any=any_order)  # noqa: E731
        return Bound(run, len(sizes), copies)

    return bind


def _triton(move: Move) -> Bound:
    _require_host(move, "vLLM's Triton copy reaches a GPU's memory and its host's, not another GPU's")
    copy = _resolve(TRITON_COPY)
    size = move.pool.shape[2]
    if size % 8:
        raise Unsupported(f"vLLM's Triton copy moves words of 8 bytes; a block has {size}")
    copies = merge(move.block_ids.tolist(), EACH)
    sources, targets, sizes = addresses(move, copies)
    chunk = min(1 << (size - 1).bit_length(), LARGEST_CHUNK)
    return Bound(lambda: copy(sources, targets, sizes, bytes_per_chunk=chunk), len(sizes), copies)


def addresses(move: Move, copies: Copies) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Source address, destination address and bytes of every copy in every region, int64 on the host."""
    size = move.pool.shape[2]
    region = np.arange(len(move.pool), dtype=np.int64)[:, None]
    of_pool, of_buffer = (
        (tensor.data_ptr() + (region * tensor.shape[1] + firsts) * size).ravel()
        for tensor, firsts in ((move.pool, copies.ids), (move.buffer, copies.slots))
    )
    sizes = np.tile(copies.lengths * size, len(move.pool))
    made = (torch.from_numpy(each) for each in (*move_order(move, of_pool, of_buffer), sizes))
    sources, targets, lengths = (each.pin_memory() if move.cuda else each for each in made)
    return sources, targets, lengths


def _gather(move: Move) -> Bound:
    """A gather and one copy; towards the pool one copy and a scatter."""
    index = _rows_of_request(move)

    def run() -> None:
        if move.inwards:
            move.flat.copy_(move.buffer, non_blocking=True)
            _words(move.pool).index_copy_(0, index, _words(move.flat))
        else:
            _gather_into(move.flat, move.pool, index)
            move.buffer.copy_(move.flat, non_blocking=True)

    return Bound(run, 1, merge(move.block_ids.tolist(), EACH))


def _nccl(move: Move) -> Bound:
    if move.direction != "to_peer":
        raise Unsupported("NCCL moves between GPUs; --directions to_peer has it")
    index, words = _rows_of_request(move), [_words(move.flat), _words(move.buffer)]

    def run() -> None:
        _gather_into(move.flat, move.pool, index)
        torch.cuda.nccl.broadcast(words)  # of two GPUs: from the first to the second

    return Bound(run, 1, merge(move.block_ids.tolist(), EACH))


def _rows_of_request(move: Move) -> torch.Tensor:
    """The request's blocks in the pool seen as [regions * blocks, ...], int64, region by region."""
    regions, blocks, _ = move.pool.shape
    rows = [region * blocks + block for region, block in product(range(regions), move.block_ids.tolist())]
    return torch.tensor(rows, dtype=torch.int64, device=move.pool.device)


def _gather_into(flat: torch.Tensor, pool: torch.Tensor, index: torch.Tensor) -> None:
    copy_blocks(pool.flatten(0, 1)[:, None, None], index, flat.flatten(0, 1)[:, None])


def _words(tensor: torch.Tensor) -> torch.Tensor:
    """[regions * blocks, words of 8 bytes where a block is so many], which PyTorch copies faster."""
    rows = tensor.flatten(0, 1)
    return rows.view(torch.int64) if rows.shape[1] % 8 == 0 else rows


def _require_host(move: Move, otherwise: str) -> None:
    if not move.cuda:
        raise Unsupported(GPU_ONLY)
    if move.direction == "to_peer":
        raise Unsupported(otherwise)


def _resolve(symbol: Symbol) -> Callable[..., object]:
    """The function in vLLM; raises Unsupported, which names it, where it is missing or has changed."""
    if problem := symbol.problem():
        raise Unsupported(problem)
    try:
        found: Callable[..., object] = symbol.resolve()
    except PatchError as error:
        raise Unsupported(str(error)) from error
    return found


BINDERS: dict[str, Callable[[Move], Bound]] = {
    YARDSTICK: _contiguous,
    "copy_blocks": _by_copies(EACH),
    "copy_rising": _by_copies(RISING),
    "copy_merged": _by_copies(RISING_OR_FALLING),
    "swap_blocks": _swap_blocks,
    "swap_batch": _by_batch(EACH),
    "swap_batch_merged": _by_batch(RISING_OR_FALLING),
    "swap_triton": _triton,
    GATHER: _gather,
    "gather_nccl": _nccl,
}
