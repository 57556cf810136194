"""Copying a cache's blocks into token order, the core of every gather."""

from __future__ import annotations

import torch

FEW = 16  # up to this row size PyTorch's index_select is half as fast as advanced indexing


def copy_blocks(cache: torch.Tensor, blocks: torch.Tensor, out: torch.Tensor) -> None:
    """Copy a cache's blocks into token order.

    Args:
        cache: [num_blocks, block_size, heads, dim].
        blocks: [n] int32, physical ids in logical order.
        out: [tokens, heads, dim] of any strides, tokens <= n * block_size.
    """
    cache, out = _widest(cache), _widest(out)
    tokens, block_size = out.shape[0], cache.shape[1]
    whole = tokens // block_size
    if whole:
        target = out[: whole * block_size].unflatten(0, (whole, block_size))
        if target.is_contiguous() and whole <= FEW:
            torch.ops.aten.index.Tensor_out(cache, [blocks[:whole]], out=target)  # target[:] = cache[blocks]
        elif target.is_contiguous():
            torch.index_select(cache, 0, blocks[:whole], out=target)
        else:
            target.copy_(cache.index_select(0, blocks[:whole]))
    if tokens % block_size:
        last = cache.index_select(0, blocks[whole : whole + 1])  # a separate index would wait for the GPU
        out[whole * block_size :] = last[0, : tokens % block_size]


def _widest(tensor: torch.Tensor) -> torch.Tensor:
    """The same bytes as 64-bit words where possible: PyTorch copies those twice as fast."""
    words = 8 // tensor.element_size()
    counts = (*tensor.shape[-1:], *tensor.stride()[:-1], tensor.storage_offset())
    if tensor.stride(-1) == 1 and all(count % words == 0 for count in counts):
        return tensor.view(torch.int64)
    return tensor
