"""Attention on blocks by way of a dense buffer, and block by block: both are right, one copies less."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from harness.calls.shape import AttentionShape
from harness.kernels import dense_buffer, reference
from harness.replay import random_call

SMALL: dict[str, Any] = {
    "batch_size": 1,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 16,
    "dtype": "float32",
}


def blocks_of(**options):
    shape = AttentionShape(**SMALL | options)
    call = random_call.make(shape, "cpu", seed=0)
    return call, random_call.in_blocks(call, 16, segments=3 if shape.kv_len > 32 else 1).split


@pytest.mark.parametrize("arm", [dense_buffer.attend_gathered, dense_buffer.attend_per_block])
@pytest.mark.parametrize(
    "options",
    [
        {"kv_len": 1, "query_len": 1},
        {"kv_len": 100, "query_len": 100},
        {"kv_len": 64, "query_len": 64, "batch_size": 3},
        {"kv_len": 100, "batch_size": 2, "query_len": 1},
        {"kv_len": 100, "query_len": 30},
        {"kv_len": 50, "query_len": 50, "causal": False},
        {"kv_len": 50, "query_len": 50, "num_kv_heads": 4, "dtype": "bfloat16"},
    ],
    ids=str,
)
def test_it_computes_attention(arm, options):
    call, kv = blocks_of(**options)
    rows = reference.sampled_rows(call)
    expected = reference.attention_rows(call, rows)
    output = arm(call, kv)()
    assert output.dtype == call.query.dtype
    error = reference.relative_error(call, output, rows, expected)
    assert error <= reference.TOLERANCE[call.query.dtype]


def test_the_buffer_holds_k_and_v_of_whole_blocks():
    _, kv = blocks_of(kv_len=100, query_len=100, batch_size=3)
    per_token = 2 * 2 * 16 * 4  # K and V, KV heads, head size, bytes
    assert dense_buffer.buffer_bytes(kv) == 3 * 112 * per_token
    assert dense_buffer.block_bytes(kv) == 3 * 16 * per_token


def test_no_dense_buffer_is_made_block_by_block(monkeypatch):
    call, kv = blocks_of(kv_len=160, query_len=1, batch_size=2)
    largest = 0
    index = torch.Tensor.__getitem__

    def watched(self, key):
        nonlocal largest
        found = index(self, key)
        if found.untyped_storage().data_ptr() not in (self.untyped_storage().data_ptr(),):
            largest = max(largest, found.untyped_storage().nbytes())
        return found

    monkeypatch.setattr(torch.Tensor, "__getitem__", watched)
    dense_buffer.attend_per_block(call, kv)()
    by_block = largest
    dense_buffer.attend_gathered(call, kv)()
    assert 0 < by_block <= dense_buffer.block_bytes(kv) < largest
