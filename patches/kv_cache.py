"""The use of vLLM's KV cache, and resetting its prefixes."""

from __future__ import annotations

from typing import Any

from patches import Symbol

NEEDS = (
    Symbol("vllm.v1.engine.llm_engine:LLMEngine.reset_prefix_cache"),
    Symbol("vllm.v1.core.block_pool:BlockPool.get_num_free_blocks"),
)


def reset_prefix_cache(llm: Any) -> bool:
    """Forget all cached prefixes of the `LLMEngine`; False if vLLM refuses because a request holds blocks."""
    return llm.reset_prefix_cache() is not False  # older versions return nothing


def blocks_in_pool(block_pool: Any) -> int:
    """Blocks available to requests: all but vLLM's null block."""
    return int(block_pool.num_gpu_blocks) - 1


def blocks_in_use(block_pool: Any) -> int:
    """Blocks that requests hold now."""
    return blocks_in_pool(block_pool) - int(block_pool.get_num_free_blocks())
