"""vLLM's KV cache manager by itself, without an engine or a model: what gives requests their blocks."""

from __future__ import annotations

import inspect
from typing import Any

from patches import Symbol

_MANAGER = Symbol(
    "vllm.v1.core.kv_cache_manager:KVCacheManager",
    ("kv_cache_config", "max_model_len", "hash_block_size", "enable_caching"),
)
_CONFIG = Symbol(
    "vllm.v1.kv_cache_interface:KVCacheConfig", ("num_blocks", "kv_cache_tensors", "kv_cache_groups")
)
_GROUP = Symbol("vllm.v1.kv_cache_interface:KVCacheGroupSpec", ("layer_names", "kv_cache_spec"))
_SPEC = Symbol(
    "vllm.v1.kv_cache_interface:FullAttentionSpec", ("block_size", "num_kv_heads", "head_size", "dtype")
)
_REQUEST = Symbol(
    "vllm.v1.request:Request",
    ("request_id", "prompt_token_ids", "sampling_params", "pooling_params", "block_hasher"),
)
_SAMPLING = Symbol("vllm.sampling_params:SamplingParams")
NEEDS = (
    _MANAGER, _CONFIG, _GROUP, _SPEC, _REQUEST, _SAMPLING,
    Symbol("vllm.v1.core.kv_cache_manager:KVCacheManager.get_computed_blocks", ("request",)),
    Symbol("vllm.v1.core.kv_cache_manager:KVCacheManager.allocate_slots",
           ("request", "num_new_tokens", "num_new_computed_tokens", "new_computed_blocks")),
    Symbol("vllm.v1.core.kv_cache_manager:KVCacheManager.get_block_ids", ("request_id",)),
    Symbol("vllm.v1.core.kv_cache_manager:KVCacheManager.free", ("request",)),
    Symbol("vllm.v1.core.block_pool:BlockPool.get_num_free_blocks"),
)  # fmt: skip
FEATURE = "layouts of a trace without a model (allocate)"


def make_manager(num_blocks: int, block_size: int, max_model_len: int, enable_caching: bool) -> Any:
    """A KVCacheManager of one group of full attention layers over `num_blocks` blocks, the null block too.

    Raises PatchError if vLLM has none.
    """
    import torch

    spec = _SPEC.resolve()(block_size=block_size, num_kv_heads=1, head_size=1, dtype=torch.float16)
    group = _GROUP.resolve()(layer_names=["layer"], kv_cache_spec=spec)
    manager = _MANAGER.resolve()
    arguments = {
        "kv_cache_config": _CONFIG.resolve()(
            num_blocks=num_blocks, kv_cache_tensors=[], kv_cache_groups=[group]
        ),
        "max_model_len": max_model_len,
        "scheduler_block_size": block_size,  # not in 0.26
        "hash_block_size": block_size,
        "enable_caching": enable_caching,
    }
    known = inspect.signature(manager).parameters
    return manager(**{name: value for name, value in arguments.items() if name in known})


def make_request(request_id: str, tokens: int, block_hashes: list[bytes]) -> Any:
    """A request for one token after a prompt of `tokens`, with its blocks' hashes given."""
    return _REQUEST.resolve()(
        request_id=request_id,
        prompt_token_ids=[0] * tokens,
        sampling_params=_SAMPLING.resolve()(max_tokens=1),
        pooling_params=None,
        block_hasher=lambda _: block_hashes,  # asked once, as no token is added
    )
