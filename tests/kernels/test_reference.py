"""The float32 reference against attention written out token by token in float64."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.kernels import reference
from harness.kernels.support import Feature
from tests.kernel_calls import FORMS, call_with

ASKED = st.sets(st.sampled_from([feature for feature in Feature if feature not in FORMS]))


def naive(call, row):
    """One query token's output, [num_heads, head_dim] float64, one key at a time."""
    starts = call.query_start_loc.tolist()
    request = max(r for r, start in enumerate(starts[:-1]) if start <= row)
    first, last = starts[request], starts[request + 1]
    left, right = call.sliding_window
    out = torch.zeros(call.num_heads, call.head_dim, dtype=torch.float64)
    for head in range(call.num_heads):
        kv_head = head * call.num_kv_heads // call.num_heads
        total = math.exp(float(call.sinks[head])) if call.sinks is not None else 0.0
        for token in range(first, last):
            ahead = token - row
            if call.causal and ahead > 0:
                continue
            if (left >= 0 and -ahead > left) or (right >= 0 and ahead > right):
                continue
            score = float(call.query[row, head].double() @ call.key[token, kv_head].double()) * call.scale
            if call.softcap:
                score = call.softcap * math.tanh(score / call.softcap)
            if call.alibi_slopes is not None:
                score -= float(call.alibi_slopes[head]) * abs(ahead)
            weight = math.exp(score)
            total += weight
            out[head] += weight * call.value[token, kv_head].double()
        out[head] /= total
    return out


@settings(max_examples=40)
@given(ASKED, st.lists(st.integers(1, 30), min_size=1, max_size=3), st.sampled_from([8, 24]), st.data())
def test_features_in_any_combination(features, lengths, head_dim, data):
    call = call_with(features, lengths=lengths, head_dim=head_dim, dtype=torch.float32)
    row = data.draw(st.integers(0, call.num_tokens - 1))
    (got,) = reference.attention_rows(call, torch.tensor([row]))
    torch.testing.assert_close(got.double(), naive(call, row), rtol=1e-4, atol=1e-5)


@given(st.lists(st.integers(1, 400), min_size=1, max_size=8))
@settings(max_examples=20)
def test_every_requests_ends_are_sampled(lengths):
    call = call_with({Feature.CAUSAL}, lengths=lengths, head_dim=8)
    rows = set(reference.sampled_rows(call).tolist())
    starts = call.query_start_loc.tolist()
    assert {*starts[:-1], *(start - 1 for start in starts[1:])} <= rows
    assert len(rows) <= reference.SAMPLED_ROWS


def test_of_many_requests_each_is_sampled_and_the_worst_counts():
    call = call_with({Feature.CAUSAL}, lengths=[3] * 200, head_dim=8)
    rows = reference.sampled_rows(call)
    assert {row // 3 for row in rows.tolist()} == set(range(200))
    expected = reference.attention_rows(call, rows)
    output = reference.attention_rows(call, torch.arange(600))
    assert reference.relative_error(call, output, rows, expected) == 0
    output[3 * 77] *= 1.05
    assert 0.01 < reference.relative_error(call, output, rows, expected) < 0.05
    output[3 * 77] = torch.nan
    assert not reference.relative_error(call, output, rows, expected) <= 1
