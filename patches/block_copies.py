"""vLLM's own copies of KV cache blocks, by which its offloading and its connectors move them.

Nothing is patched: the experiment `transfer` calls them. All take addresses or tensors of a GPU and of pinned
host memory. They are alike in 0.26 to 0.33.
"""

from __future__ import annotations

from patches import Symbol

FEATURE = "transfers by vLLM's own copies"
SWAP_BLOCKS = Symbol(
    "vllm._custom_ops:swap_blocks", ("src", "dst", "block_size_in_bytes", "block_mapping")
)  # a cudaMemcpyAsync a block
SWAP_BLOCKS_BATCH = Symbol(
    "vllm._custom_ops:swap_blocks_batch", ("src_ptrs", "dst_ptrs", "sizes", "is_src_access_order_any")
)  # one cuMemcpyBatchAsync, which refuses CUDA's default stream
# Of the offloading connector, which takes it towards the GPU alone, for less than 28 KiB a descriptor.
TRITON_COPY = Symbol(
    "vllm.v1.kv_offload.cpu.swap_blocks_triton:swap_blocks_batch",
    ("src_addrs", "dst_addrs", "sizes", "bytes_per_chunk"),
)
NEEDS_ON_CUDA = (SWAP_BLOCKS, SWAP_BLOCKS_BATCH, TRITON_COPY)
