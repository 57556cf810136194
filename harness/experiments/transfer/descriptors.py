"""Which copies move a request's blocks: one for each block, or one for neighbours in the pool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.layout import Ints

EACH: tuple[int, ...] = ()  # what joins a block to the one before it: nothing,
RISING = (1,)  # an id one higher,
RISING_OR_FALLING = (1, -1)  # or also one lower


@dataclass(frozen=True)
class Copies:
    """Copies between a pool and a contiguous buffer of as many blocks as the request has.

    The n-th moves the blocks `ids[n]` to `ids[n] + lengths[n] - 1` of the pool to or from the buffer's
    slots from `slots[n]` on.
    """

    ids: Ints  # [copies]
    slots: Ints  # [copies]
    lengths: Ints  # [copies], in blocks
    slot_of: Ints  # [blocks]: the slot of each logical block; falling neighbours lie in the pool's order

    def __len__(self) -> int:
        return len(self.ids)


def merge(block_ids: Sequence[int], steps: Sequence[int]) -> Copies:
    """As few copies as the allowed steps between neighbours give.

    Args:
        block_ids: distinct physical ids in logical order, at least one.
        steps: EACH, RISING or RISING_OR_FALLING.
    """
    ids = np.asarray(block_ids, dtype=np.int64)
    # A step up cannot follow a step down, as ids are distinct: neighbours that join rise or fall throughout.
    joined = np.append(False, np.isin(np.diff(ids), steps))
    firsts = np.flatnonzero(~joined).astype(np.int64)
    lengths = np.diff(np.append(firsts, ids.size))
    lasts = firsts + lengths - 1
    falling = np.repeat(ids[firsts] > ids[lasts], lengths)
    in_order = np.arange(ids.size, dtype=np.int64)
    slot_of = np.where(falling, np.repeat(firsts + lasts, lengths) - in_order, in_order)
    return Copies(np.minimum(ids[firsts], ids[lasts]), firsts, lengths, slot_of)
