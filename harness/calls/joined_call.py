"""One layer's attention call of a whole prefill, joined from the steps that vLLM split it into."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, pairwise

import torch

from harness.calls.capture import AttentionCall

Piece = tuple[torch.Tensor, ...]  # query, key and value of one request in one step


def part(call: AttentionCall) -> AttentionCall:
    """What `of_steps` needs of a step's call, on the CPU: the engine holds most of a GPU's memory."""
    return replace(
        call,
        query=call.query.cpu(),
        key=call.key.cpu(),
        value=call.value.cpu(),
        output=call.output.new_empty(0),
        kv_cache=None,
        scheduler_metadata=None,
    )


def of_steps(steps: Sequence[AttentionCall]) -> AttentionCall:
    """The call of all steps together: requests one after the other, in the order in which they began.

    Like random_call's calls, it has no block table, cache or output.

    Args:
        steps: the calls of one layer in order, of a prefill without a prefix cache; at least one.
    """
    requests: list[list[Piece]] = []
    begun: dict[int, list[Piece]] = {}  # by first block, which belongs to one request until it is finished
    for step in steps:
        bounds = pairwise(step.query_start_loc.tolist())
        for (start, end), length, block in zip(
            bounds, step.lengths, step.block_table[:, 0].tolist(), strict=True
        ):
            if length == end - start:
                begun[block] = []
                requests.append(begun[block])
            begun[block].append((step.query[start:end], step.key[start:end], step.value[start:end]))
    query, key, value = (torch.cat([piece[n] for pieces in requests for piece in pieces]) for n in range(3))
    lengths = [sum(len(piece[0]) for piece in pieces) for pieces in requests]
    return replace(
        steps[0],
        query=query,
        key=key,
        value=value,
        block_table=torch.empty(len(requests), 0, dtype=torch.int32),
        slot_mapping=torch.empty(0, dtype=torch.int64),
        seq_lens=torch.tensor(lengths, dtype=torch.int32),
        query_start_loc=torch.tensor([0, *accumulate(lengths)], dtype=torch.int32),
    )


def last_token(call: AttentionCall) -> AttentionCall:
    """The call of a decoding step: only each request's last token is a query, on all K and V."""
    last = call.query_start_loc[1:].long() - 1
    every = torch.arange(call.num_requests + 1, dtype=torch.int32, device=call.query.device)
    return replace(call, query=call.query[last], query_start_loc=every)
