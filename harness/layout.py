"""Where requests' KV blocks lie: blocks, segments, spread_k, and plans with a chosen spread_k.

Physical ids are always in logical order: `block_ids[i]` holds the tokens from
`i * block_size` on.
"""

from __future__ import annotations

import heapq
import itertools
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

SCATTER = 4  # size of the pool for scattered segments without an engine, as a multiple of the blocks needed

Ints = npt.NDArray[np.int64]
Gap = Literal["shuffled", "scattered"]
Sizes = Literal["even", "random"]


class LayoutError(ValueError):
    """A layout that cannot exist; the message names the numbers."""


@dataclass(frozen=True)
class Segment:
    """A longest stretch of logical blocks whose physical ids rise by one."""

    first_block: int  # logical index of its first block
    first_id: int  # physical id of its first block
    length: int  # in blocks


def num_blocks(length: int, block_size: int) -> int:
    """Blocks needed for `length` tokens; the last one may be partly filled."""
    if length < 1 or block_size < 1:
        raise LayoutError(f"length {length}, block_size {block_size}: both must be at least 1")
    return -(-length // block_size)


def segments(block_ids: Sequence[int]) -> list[Segment]:
    """The segments of a request's block ids, in logical order."""
    ids = np.asarray(block_ids, dtype=np.int64)
    firsts = _first_of_each_segment(ids)
    lengths = np.diff(np.append(firsts, ids.size))
    columns = (firsts.tolist(), ids[firsts].tolist(), lengths.tolist())
    return [Segment(*row) for row in zip(*columns, strict=True)]


def to_ranges(block_ids: Sequence[int]) -> str:
    """The segments as text in logical order, e.g. "257-384,1-128,7": a block table in run.json."""
    shown = (
        f"{segment.first_id}-{segment.first_id + segment.length - 1}"
        if segment.length > 1
        else f"{segment.first_id}"
        for segment in segments(block_ids)
    )
    return ",".join(shown)


def from_ranges(text: str) -> list[int]:
    """The inverse of `to_ranges`; raises ValueError on anything else."""
    ids: list[int] = []
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        ids += range(int(first), int(last or first) + 1)
    return ids


def spread_k(block_ids: Sequence[int]) -> int:
    """The number of segments; 0 for no blocks."""
    return int(_first_of_each_segment(np.asarray(block_ids, dtype=np.int64)).size)


def default_spreads(num_blocks: int, factor: int = 2) -> list[int]:
    """1, 2, 4, ... (or the powers of another factor) below `num_blocks`, and `num_blocks` itself."""
    powers = itertools.accumulate(itertools.repeat(factor), operator.mul, initial=1)
    return [*itertools.takewhile(lambda k: k < num_blocks, powers), num_blocks]


def segment_lengths(num_blocks: int, spread_k: int, sizes: Sizes, rng: np.random.Generator) -> list[int]:
    """`spread_k` lengths of at least 1 block with the sum `num_blocks`.

    even: they differ by at most one. random: every such division is equally likely.
    """
    _check_spread(num_blocks, spread_k)
    lengths, _ = _divide(np.array([num_blocks]), spread_k, sizes, rng)
    return [int(length) for length in lengths]


def plan(
    num_blocks: int,
    spread_k: int,
    free_ids: Sequence[int],
    *,
    gap: Gap = "shuffled",
    sizes: Sizes = "even",
    seed: int = 0,
) -> list[int]:
    """Physical ids in logical order: `num_blocks` distinct ids out of `free_ids` in exactly `spread_k`
    segments.

    gap="shuffled": the segments fill the start of the longest stretch of free ids, adjacent and out of order;
    several stretches are used if none is long enough. gap="scattered": the segments are spread over all free
    ids, out of order, with gaps where there is room. Segment lengths follow `sizes` (see `segment_lengths`);
    if the stretches are too short for that, as closely as possible. Same arguments, same plan.

    Raises LayoutError if spread_k is not within 1..num_blocks or the free ids do not allow it.
    """
    rng = np.random.default_rng(seed)
    wanted = np.array(segment_lengths(num_blocks, spread_k, sizes, rng))
    starts, room = _stretches(num_blocks, spread_k, free_ids, gap)
    lengths, homes = _fit(wanted, room) or _divide(_apportion(num_blocks, room), spread_k, sizes, rng)
    by_address = np.argsort(starts[homes], kind="stable")
    lengths, homes = lengths[by_address], homes[by_address]
    firsts = starts[homes] + _offsets(lengths, homes, room, rng if gap == "scattered" else None)
    return _in_logical_order(firsts, lengths, rng)


def plan_batch(
    num_blocks: Sequence[int],
    spread_ks: Sequence[int],
    free_ids: Sequence[int],
    *,
    gap: Gap = "shuffled",
    sizes: Sizes = "even",
    seed: int = 0,
) -> list[list[int]]:
    """A plan for each of several requests, no block in two of them: `num_blocks[i]` in `spread_ks[i]`
    segments.

    One request's are as `plan` has them. The segments of several requests are mixed as if all belonged to
    one, each out of order within its request.

    Raises LayoutError if a spread_k is not within 1..its blocks or the segments do not fit the free ids.
    """
    if len(num_blocks) == 1:
        return [plan(num_blocks[0], spread_ks[0], free_ids, gap=gap, sizes=sizes, seed=seed)]
    rng = np.random.default_rng(seed)
    of_requests = zip(num_blocks, spread_ks, strict=True)
    wanted = np.concatenate([segment_lengths(n, k, sizes, rng) for n, k in of_requests])
    starts, room = _stretches(sum(num_blocks), len(wanted), free_ids, gap)
    mixed = rng.permutation(len(wanted))
    fitting = _fit(wanted[mixed], room)
    if fitting is None:
        raise LayoutError(
            f"{sum(num_blocks)} blocks of {len(num_blocks)} requests in {len(wanted)} segments do not fit "
            f"the {len(room)} stretches of free blocks; free more blocks, or take a larger spread_k"
        )
    lengths, homes = fitting
    by_address = np.argsort(starts[homes], kind="stable")
    lengths, homes = lengths[by_address], homes[by_address]
    firsts = starts[homes] + _offsets(lengths, homes, room, rng if gap == "scattered" else None)
    request = np.repeat(np.arange(len(spread_ks)), spread_ks)[mixed][by_address]
    own = np.split(np.argsort(request, kind="stable"), np.cumsum(spread_ks)[:-1])
    return [_in_logical_order(firsts[segments], lengths[segments], rng) for segments in own]


def slot_mapping(block_ids: Sequence[int], block_size: int, length: int) -> Ints:
    """The cache slot of each of `length` tokens, int64 [length]: id * block_size + offset in the block."""
    if num_blocks(length, block_size) > len(block_ids):
        raise LayoutError(f"length {length}: {len(block_ids)} blocks of {block_size} tokens hold fewer")
    ids = np.asarray(block_ids, dtype=np.int64)
    slots: Ints = ids[:, None] * block_size + np.arange(block_size, dtype=np.int64)
    return slots.reshape(-1)[:length]


def slots_of_batch(block_ids: Sequence[Sequence[int]], block_size: int, lengths: Sequence[int]) -> Ints:
    """The slots of all requests' tokens, one request after the other, int64 [sum(lengths)]."""
    of_requests = zip(block_ids, lengths, strict=True)
    return np.concatenate([slot_mapping(ids, block_size, length) for ids, length in of_requests])


def _check_spread(num_blocks: int, spread_k: int) -> None:
    if not 1 <= spread_k <= num_blocks:
        raise LayoutError(f"spread_k {spread_k}: must be within 1..{num_blocks}, the number of blocks")


def _stretches(num_blocks: int, spread_k: int, free_ids: Sequence[int], gap: Gap) -> tuple[Ints, Ints]:
    """First ids and lengths of the stretches of free ids for a plan: only the longest are needed to shuffle.

    Raises LayoutError if they cannot hold `num_blocks` blocks in `spread_k` segments.
    """
    starts, room = _longest_stretches(free_ids, spread_k)
    if int(room.sum()) < num_blocks:
        raise LayoutError(
            f"{num_blocks} blocks in {spread_k} segment(s): the {room.size} longest stretch(es) of free "
            f"blocks hold {int(room.sum())}; free more blocks, or take a larger spread_k"
        )
    if gap == "shuffled":
        needed = int(np.searchsorted(np.cumsum(room), num_blocks)) + 1
        return starts[:needed], room[:needed]
    return starts, room


def _first_of_each_segment(ids: Ints) -> Ints:
    """Logical indices at which a segment begins."""
    joins = np.zeros(ids.size, dtype=bool)
    joins[1:] = np.diff(ids) == 1
    return np.flatnonzero(~joins).astype(np.int64)


def _longest_stretches(free_ids: Sequence[int], limit: int) -> tuple[Ints, Ints]:
    """First ids and lengths of the `limit` longest stretches of free ids, longest first.

    More are not needed: a plan has no more segments than that.
    """
    ids = np.unique(np.asarray(free_ids, dtype=np.int64))
    firsts = _first_of_each_segment(ids)
    lengths = np.diff(np.append(firsts, ids.size))
    longest = np.argsort(-lengths, kind="stable")[:limit]
    return ids[firsts[longest]], lengths[longest]


def _fit(lengths: Ints, room: Ints) -> tuple[Ints, Ints] | None:
    """Each segment's stretch: the longest segment goes first, into the emptiest stretch; None if they do not
    fit.
    """
    emptiest = [
        (-int(blocks), home) for home, blocks in enumerate(room)
    ]  # longest first, which is already a heap
    homes = np.empty(lengths.size, dtype=np.int64)
    for segment in np.argsort(-lengths, kind="stable").tolist():
        left, home = emptiest[0]
        left += int(lengths[segment])
        if left > 0:
            return None
        heapq.heapreplace(emptiest, (left, home))
        homes[segment] = home
    return lengths, homes


def _divide(blocks: Ints, spread_k: int, sizes: Sizes, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Lengths and stretches of `spread_k` segments that use `blocks[i]` blocks of stretch i."""
    used = np.flatnonzero(blocks)
    blocks = blocks[used]
    ends = np.cumsum(blocks)
    if sizes == "random":
        cuts = np.delete(np.arange(1, ends[-1]), ends[:-1] - 1)
        cuts = rng.choice(cuts, spread_k - used.size, replace=False)
        bounds = np.sort(np.concatenate([[0], cuts, ends]))
        return np.diff(bounds), used[np.searchsorted(ends, bounds[1:])]
    counts = 1 + _apportion(spread_k - used.size, blocks - 1)
    index_in_stretch = _ids(np.zeros_like(counts), counts)
    lengths = np.repeat(blocks // counts, counts) + (index_in_stretch < np.repeat(blocks % counts, counts))
    return lengths, np.repeat(used, counts)


def _apportion(total: int, limits: Ints) -> Ints:
    """Integers proportional to `limits`, none above its limit, with the sum `total`."""
    whole_limit = max(int(limits.sum()), 1)
    whole: Ints = total * limits // whole_limit
    rest = total * limits % whole_limit
    whole[np.argsort(-rest, kind="stable")[: total - int(whole.sum())]] += 1
    return whole


def _offsets(lengths: Ints, homes: Ints, room: Ints, rng: np.random.Generator | None) -> Ints:
    """Where each segment begins in its stretch, for segments sorted by address: adjacent, or with gaps from
    `rng`.
    """
    every = np.arange(homes.size)
    opens_stretch = np.append(True, homes[1:] != homes[:-1])
    first_of_stretch = np.maximum.accumulate(np.where(opens_stretch, every, 0))
    before = np.cumsum(lengths) - lengths
    packed: Ints = before - before[first_of_stretch]
    if rng is None:
        return packed
    filled = np.zeros_like(room)
    np.add.at(filled, homes, lengths)
    spare = (room - filled)[homes]
    counts = np.bincount(homes, minlength=room.size)[homes]
    index = every - first_of_stretch
    least = np.where(spare >= counts - 1, 1, 0)  # blocks between neighbours
    #  One gap from each of `counts` equal parts: spread out, but without a fixed stride that could suit
    #  caches.
    drift = (index + rng.random(homes.size)) * (spare - least * (counts - 1)) / counts
    apart: Ints = packed + index * least + np.floor(drift).astype(np.int64)
    return apart


def _in_logical_order(firsts: Ints, lengths: Ints, rng: np.random.Generator) -> list[int]:
    """Block ids of segments given by address, in random order, with no two of them joined."""
    order = np.argsort(_order_without_joins(len(firsts), rng))
    ids: list[int] = _ids(firsts[order], lengths[order]).tolist()
    return ids


def _order_without_joins(count: int, rng: np.random.Generator) -> Ints:
    """A random order of 0..count-1 in which i is never followed by i + 1."""
    while True:  # more than one order in three will do
        order: Ints = rng.permutation(count)
        if not (np.diff(order) == 1).any():
            return order


def _ids(firsts: Ints, lengths: Ints) -> Ints:
    """firsts[0], firsts[0] + 1, ... (lengths[0] of them), firsts[1], ..."""
    before = np.cumsum(lengths) - lengths
    ids: Ints = np.repeat(firsts - before, lengths) + np.arange(int(lengths.sum()))
    return ids
