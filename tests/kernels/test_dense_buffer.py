"""Attention on blocks by way of a dense buffer, and block by block: both are right, one copies less."""

from __future__ import annotations

import pytest
import torch

from harness.config import load
from harness.experiments.kernels.options import KernelsConfig, resolve
from harness.kernels import dense_buffer, reference
from harness.replay import random_call

SMALL = {"num_heads": 4, "num_kv_heads": 2, "head_dim": 16, "block_size": 16, "dtype": "float32"}


def blocks_of(**options):
    shape = resolve(load(KernelsConfig, SMALL | options), "cpu")
    call = random_call.make(shape, "cpu")
    return call, random_call.in_blocks(call, shape, 3 if shape.num_blocks() > 2 else 1, 16).split


@pytest.mark.parametrize("arm", [dense_buffer.gathered, dense_buffer.per_block])
@pytest.mark.parametrize(
    "options",
    [
        {"length": 1},
        {"length": 100},
        {"length": 64, "batch_size": 3},
        {"length": 100, "batch_size": 2, "seq_len_q": 1},
        {"length": 100, "seq_len_q": 30},
        {"length": 50, "causal": False},
        {"length": 50, "num_kv_heads": 4, "dtype": "bfloat16"},
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
    _, kv = blocks_of(length=100, batch_size=3)
    per_token = 2 * 2 * 16 * 4  # K and V, KV heads, head size, bytes
    assert dense_buffer.buffer_bytes(kv) == 3 * 112 * per_token
    assert dense_buffer.block_bytes(kv) == 3 * 16 * per_token


def test_no_dense_buffer_is_made_block_by_block(monkeypatch):
    call, kv = blocks_of(length=160, batch_size=2, seq_len_q=1)
    largest = 0
    index = torch.Tensor.__getitem__

    def watched(self, key):
        nonlocal largest
        found = index(self, key)
        if found.untyped_storage().data_ptr() not in (self.untyped_storage().data_ptr(),):
            largest = max(largest, found.untyped_storage().nbytes())
        return found

    monkeypatch.setattr(torch.Tensor, "__getitem__", watched)
    dense_buffer.per_block(call, kv)()
    by_block = largest
    dense_buffer.gathered(call, kv)()
    assert 0 < by_block <= dense_buffer.block_bytes(kv) < largest
