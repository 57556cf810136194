"""Attention in float32, spelled out, on a sample of query rows, which every arm's output is checked
against.
"""

from __future__ import annotations

import torch

from harness.calls.capture import AttentionCall

# Largest ‖out - reference‖ / ‖reference‖ that passes: a few units in the last place of each format.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 2e-2}
SAMPLED_ROWS = 128


def sampled_rows(call: AttentionCall, seed: int = 0) -> torch.Tensor:
    """Indices of query tokens, [rows] int64: each request's ends, and random ones up to SAMPLED_ROWS."""
    generator = torch.Generator().manual_seed(seed)
    starts = call.query_start_loc.cpu().long()
    ends = torch.cat([starts[:-1], starts[1:] - 1])
    others = torch.randperm(call.num_tokens, generator=generator)[: max(SAMPLED_ROWS - len(ends), 0)]
    return torch.cat([ends, others]).unique().to(call.query.device)


def attention_rows(call: AttentionCall, rows: torch.Tensor) -> torch.Tensor:
    """Float32 attention output of the query tokens `rows`, [rows, num_heads, head_dim].

    A request's queries are its last tokens: all of them in a prefill, one in a decode step.
    Masks, scale, soft-cap, ALiBi and sinks as in the flash-attn interface's docstrings.
    """
    starts, request = call.query_start_loc.long(), _request_of(call, rows)
    ends = call.seq_lens.long().cumsum(0)
    out = torch.empty(len(rows), call.num_heads, call.head_dim, dtype=torch.float32, device=call.query.device)
    for index in request.unique().tolist():
        mine = request == index
        length, end = int(call.seq_lens[index]), int(ends[index])
        positions = rows[mine] - starts[index + 1] + length
        out[mine] = _one_request(call, rows[mine], positions, slice(end - length, end))
    return out


def relative_error(
    call: AttentionCall, output: torch.Tensor, rows: torch.Tensor, expected: torch.Tensor
) -> float:
    """‖out - expected‖ / ‖expected‖ over the sampled rows of that request where it is largest.

    Over all requests together, a wrong one among many would not show. nan if the output contains one.
    """
    squares = expected.new_zeros(2, call.num_requests)
    difference = output.reshape(call.num_tokens, call.num_heads, -1)[rows].float() - expected
    for sums, values in zip(squares, (difference, expected), strict=True):
        sums.index_add_(0, _request_of(call, rows), values.square().sum((1, 2)))
    of_requests = (squares[0] / squares[1].clamp_min(1e-30)).sqrt()
    return float(of_requests.max())


def _request_of(call: AttentionCall, rows: torch.Tensor) -> torch.Tensor:
    """Which request each query token belongs to."""
    return torch.searchsorted(call.query_start_loc.long(), rows, right=True) - 1


def _one_request(
    call: AttentionCall, rows: torch.Tensor, positions: torch.Tensor, tokens: slice
) -> torch.Tensor:
    """One KV head at a time: in float32 all heads of a long request at once would not fit.

    Args:
        positions: of the queries `rows` among the request's tokens.
        tokens: where the request's keys and values are.
    """
    length = tokens.stop - tokens.start
    hidden, distance = mask(positions, length, call.causal, call.sliding_window)
    groups = call.num_heads // call.num_kv_heads
    out = rows.new_empty(len(rows), call.num_heads, call.head_dim, dtype=torch.float32)
    for kv_head in range(call.num_kv_heads):
        heads = slice(kv_head * groups, (kv_head + 1) * groups)
        out[:, heads] = attend(
            call.query[rows, heads], call.key[tokens, kv_head], call.value[tokens, kv_head], hidden, distance,
            scale=call.scale, softcap=call.softcap,
            slopes=None if call.alibi_slopes is None else call.alibi_slopes[heads],
            sinks=None if call.sinks is None else call.sinks[heads],
        )  # fmt: skip
    return out


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    hidden: torch.Tensor,
    distance: torch.Tensor,
    *,
    scale: float,
    softcap: float = 0.0,
    slopes: torch.Tensor | None = None,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """Float32 attention of query heads that share one KV head, [queries, heads, head_dim].

    Args:
        query: [queries, heads, head_dim].
        key, value: [keys, head_dim].
        hidden, distance: [queries, keys], of `mask`.
        slopes, sinks: [heads].
    """
    scores = torch.einsum("qhd,kd->hqk", query.float(), key.float()) * scale
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    if slopes is not None:
        scores -= slopes.to(scores)[:, None, None] * distance.abs()
    scores.masked_fill_(hidden, float("-inf"))
    if sinks is not None:
        sink = sinks.to(scores)[:, None, None].expand(-1, len(query), 1)
        weights = torch.cat([scores, sink], dim=-1).softmax(-1)[..., :-1]
    else:
        weights = scores.softmax(-1)
    return torch.einsum("hqk,kd->qhd", weights, value.float())


def mask(
    positions: torch.Tensor, length: int, causal: bool, window: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Which keys are hidden from the queries at `positions`, and each key's distance to the left.

    Both [queries, length], bool and int64.

    Args:
        window: (left, right) tokens beside a query's own that it sees; -1: all.
    """
    distance = positions[:, None] - torch.arange(length, device=positions.device)[None, :]
    left, right = window
    hidden = torch.zeros_like(distance, dtype=torch.bool)
    if causal:
        hidden |= distance < 0
    if left >= 0:
        hidden |= distance > left
    if right >= 0:
        hidden |= distance < -right
    return hidden, distance
