"""What a vLLM engine is started with besides its model, from an experiment's options."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from pydantic import BaseModel


@dataclass(frozen=True)
class EngineSpec:
    """An engine that takes whole prompts; fields use vLLM's names where vLLM has them."""

    max_model_len: int  # tokens of a prompt plus those generated from it; a prompt must be shorter
    max_num_seqs: int  # prompts at once; no more than needed, as graphs are captured up to this number
    max_num_batched_tokens: int  # of one step
    block_size: int
    dtype: str = "auto"
    seed: int = 0
    gpu_memory_utilization: float = 0.6
    enforce_eager: bool = False
    attention_backend: str | None = None  # in any case; None: vLLM's choice
    flash_attn_version: int | None = None  # None: vLLM's choice
    tensor_parallel_size: int = 1
    distributed_executor_backend: str | None = None
    allow_long_max_model_len: bool = False
    enable_prefix_caching: bool = False
    cached_tokens: int = (
        0  # capacity of the KV cache on a CPU, whose engine takes as much memory as it is told
    )
    kv_cache_bytes: int | None = None  # of KV cache; None: what gpu_memory_utilization or cached_tokens gives
    num_gpu_blocks_override: int | None = None  # blocks of KV cache; None: as many as its memory holds
    cudagraph_mode: str | None = (
        None  # of graphs captured for `cudagraph_tokens`; "EAGER": without compilation;
    )
    # None: vLLM's own mode and sizes
    cudagraph_tokens: int | None = None
    engine_options: dict[str, Any] = field(default_factory=dict)  # vLLM's other options, by its names

    @classmethod
    def of(cls, options: BaseModel, **sizes: Any) -> EngineSpec:
        """The engine for an experiment's resolved options, from those that share a field's name.

        Args:
            sizes: the other fields, and overrides of the options'.
        """
        named = {f.name for f in fields(cls)} & type(options).model_fields.keys()
        return cls(**{name: getattr(options, name) for name in named} | sizes)
