"""Merged neighbours: every block once, in no more copies than its order in the pool forces."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import layout
from harness.experiments.transfer.descriptors import EACH, RISING, RISING_OR_FALLING, Copies, merge

STEPS = [EACH, RISING, RISING_OR_FALLING]


@st.composite
def block_ids(draw: st.DrawFn) -> list[int]:
    """Ids as traffic leaves them: stretches that rise or fall, in any order."""
    lengths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=12))
    ends = np.cumsum(lengths).tolist()
    stretches = [list(range(end - length, end)) for end, length in zip(ends, lengths, strict=True)]
    turned = [stretch[:: draw(st.sampled_from([1, -1]))] for stretch in stretches]
    return [block for stretch in draw(st.permutations(turned)) for block in stretch]


def buffer_of(copies: Copies, pool: list[int]) -> list[int]:
    """What the copies put into a buffer of as many slots as there are blocks."""
    buffer = [-1] * len(copies.slot_of)
    for first, slot, length in zip(copies.ids, copies.slots, copies.lengths, strict=True):
        buffer[slot : slot + length] = pool[first : first + length]
    return buffer


@pytest.mark.parametrize("steps", STEPS)
@given(ids=block_ids())
def test_every_logical_block_is_in_its_slot(steps: tuple[int, ...], ids: list[int]) -> None:
    copies = merge(ids, steps)
    buffer = buffer_of(copies, list(range(max(ids) + 1)))
    assert [buffer[slot] for slot in copies.slot_of] == ids


@pytest.mark.parametrize("steps", STEPS)
@given(ids=block_ids())
def test_there_are_as_many_copies_as_neighbours_that_do_not_join(
    steps: tuple[int, ...], ids: list[int]
) -> None:
    joins = sum(two - one in steps for one, two in pairwise(ids))
    assert len(merge(ids, steps)) == len(ids) - joins


@given(ids=block_ids())
def test_rising_neighbours_are_the_segments(ids: list[int]) -> None:
    copies, segments = merge(ids, RISING), layout.segments(ids)
    assert copies.slot_of.tolist() == list(range(len(ids)))
    found = list(zip(copies.slots.tolist(), copies.ids.tolist(), copies.lengths.tolist(), strict=True))
    assert found == [(each.first_block, each.first_id, each.length) for each in segments]


def test_a_finished_request_s_blocks_come_back_in_one_copy() -> None:
    ids = list(range(8, 0, -1))
    assert [len(merge(ids, steps)) for steps in STEPS] == [8, 8, 1]
