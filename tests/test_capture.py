"""Cloning what the engine reuses: every byte once, strides kept where that costs nothing."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.capture import clone_together


@given(st.integers(1, 9), st.integers(1, 3), st.integers(1, 3), st.integers(0, 4))
def test_views_of_a_fused_projection_keep_their_strides_and_one_storage(tokens, heads, groups, skipped):
    dim = 4
    q, kv = heads * groups * dim, heads * dim
    fused = torch.arange((tokens + skipped) * (q + 2 * kv), dtype=torch.float32).view(-1, q + 2 * kv)
    query, key, value = (x[skipped:] for x in fused.split([q, kv, kv], dim=-1))
    clones = clone_together([query, key, value])
    for view, clone in zip((query, key, value), clones, strict=True):
        assert torch.equal(view, clone)
        assert view.stride() == clone.stride()
    assert len({clone.untyped_storage().data_ptr() for clone in clones}) == 1
    assert clones[0].untyped_storage().nbytes() == 4 * sum(clone.numel() for clone in clones)


def test_views_with_others_in_between_are_copied_alone():
    fused = torch.arange(24.0).view(4, 6)
    left, right = clone_together([fused[:, :2], fused[:, 4:]])
    assert torch.equal(left, fused[:, :2])
    assert torch.equal(right, fused[:, 4:])
    assert left.is_contiguous()
    assert left.untyped_storage().nbytes() == 4 * left.numel()


def test_clones_do_not_follow_the_original():
    original = torch.zeros(3, 2)
    (clone,) = clone_together([original])
    original += 1
    assert clone.sum() == 0
