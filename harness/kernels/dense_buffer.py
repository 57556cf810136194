"""PyTorch's attention on K and V in blocks: gathered into a dense buffer first, or block by block without
one.

PyTorch has no attention that reads a block table. So its mathematical form (`SDPBackend.MATH`, plain matrix
products and a softmax) needs K and V of all requests in token order, a second copy of the cache, or its
softmax must be split: block by block, with a running maximum and sum (Milakov and Gimelshein 2018,
arXiv:1805.02867), which is what paged kernels do inside.
"""

from __future__ import annotations

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from harness.calls.capture import AttentionCall
from harness.kernels import PagedKV, Run
from harness.kernels.torch_sdpa import attention
from harness.kernels.upstream import by_request


def buffer_bytes(kv: PagedKV) -> int:
    """Bytes of the dense buffer: K and V of every request, padded to whole blocks."""
    heads, dim = kv.cache.shape[1], kv.cache.shape[3]
    return int(kv.block_table.numel() * kv.block_size * heads * dim * kv.cache.element_size())


def block_bytes(kv: PagedKV) -> int:
    """Bytes of one block of every request: what `attend_per_block` copies at a time."""
    requests, heads, dim = kv.block_table.shape[0], kv.cache.shape[1], kv.cache.shape[3]
    return int(requests * kv.block_size * heads * dim * kv.cache.element_size())


def attend_gathered(call: AttentionCall, kv: PagedKV) -> Run:
    """Gather K and V into a new dense buffer, then attend to it; requests of equal lengths."""
    blocks, length = kv.block_table.long(), int(call.seq_lens[0])
    caches = kv.split()

    def run() -> torch.Tensor:
        key, value = (cache[blocks].flatten(1, 2)[:, :length].flatten(0, 1) for cache in caches)
        with sdpa_kernel(SDPBackend.MATH):
            return attention(call, call.query, key, value)

    return run


def attend_per_block(call: AttentionCall, kv: PagedKV) -> Run:
    """Attend to one block of every request at a time; nothing larger than that is copied."""
    length, queries = int(call.seq_lens[0]), call.num_tokens // call.num_requests
    first = length - queries  # position of the first query
    key_cache, value_cache = kv.split()
    columns = kv.block_table.long().T.contiguous()
    groups = call.num_heads // call.num_kv_heads
    positions = torch.arange(first, length, device=call.query.device)

    def run() -> torch.Tensor:
        # [requests, KV heads, query heads of each, queries, head size]; in float32, as PyTorch's own
        query = by_request(call, call.query).transpose(1, 2).unflatten(1, (call.num_kv_heads, groups)).float()
        largest = query.new_full(query.shape[:-1], -torch.inf)
        total = torch.zeros_like(largest)
        out = torch.zeros_like(query)
        for n, blocks in enumerate(columns):
            start = n * kv.block_size
            size = min(kv.block_size, length - start)
            seen = max(start - first, 0) if call.causal else 0  # queries before the block see none of it
            # [requests, KV heads, 1, tokens, head size]
            key, value = (
                c[blocks, :size].transpose(1, 2).unsqueeze(2).float() for c in (key_cache, value_cache)
            )
            scores = (query[..., seen:, :] @ key.mT) * call.scale
            if call.causal and start + size - 1 > first + seen:
                keys = torch.arange(start, start + size, device=scores.device)
                scores.masked_fill_(keys > positions[seen:, None], -torch.inf)
            before = largest[..., seen:]
            now = torch.maximum(before, scores.amax(-1))
            weights = torch.exp(scores - now[..., None])
            shrink = torch.exp(before - now)
            largest[..., seen:] = now
            total[..., seen:] = total[..., seen:] * shrink + weights.sum(-1)
            out[..., seen:, :] *= shrink[..., None]
            out[..., seen:, :] += weights @ value
        out /= total[..., None]
        return out.flatten(1, 2).transpose(1, 2).flatten(0, 1).to(call.query.dtype)

    return run
