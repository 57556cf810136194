"""Access to a running vLLM engine: its core, its block pool, and a worker's attention layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from patches import Symbol, reach

NEEDS = (
    Symbol("vllm:EngineArgs",
           ("model", "hf_overrides", "runner", "skip_tokenizer_init", "generation_config", "dtype",
            "block_size", "load_format", "gpu_memory_utilization", "kv_cache_memory_bytes",
            "num_gpu_blocks_override", "enforce_eager", "tensor_parallel_size",
            "distributed_executor_backend", "worker_extension_cls", "trust_remote_code", "seed",
            "max_model_len",
            "max_num_batched_tokens", "max_num_seqs", "enable_prefix_caching",
            "disable_hybrid_kv_cache_manager", "async_scheduling", "disable_log_stats",
            "use_tqdm_on_load", "attention_backend", "attention_config", "compilation_config")),
    Symbol("vllm:SamplingParams", ("max_tokens", "temperature", "ignore_eos", "detokenize")),
    Symbol("vllm.v1.engine.llm_engine:LLMEngine.from_engine_args", ("engine_args",)),
    Symbol("vllm.v1.engine.llm_engine:LLMEngine.add_request", ("request_id", "prompt", "params")),
    Symbol("vllm.v1.engine.llm_engine:LLMEngine.step"),
    Symbol("vllm.v1.engine.llm_engine:LLMEngine.has_unfinished_requests"),
    Symbol("vllm.v1.engine.llm_engine:LLMEngine.abort_request", ("request_ids",)),
    Symbol("vllm.v1.engine.core_client:InprocClient.shutdown"),
    Symbol("vllm.v1.core.block_pool:BlockPool.get_num_free_blocks"),
    Symbol("vllm.v1.worker.worker_base:WorkerBase", ("vllm_config", "rank")),
    Symbol("vllm.v1.executor.abstract:Executor.collective_rpc", ("method", "args")),
    Symbol("vllm.outputs:RequestOutput", ("outputs", "finished", "num_cached_tokens")),
    Symbol("vllm.outputs:CompletionOutput", ("token_ids",)),
    Symbol("vllm.config:AttentionConfig", ("flash_attn_version",)),
    Symbol("vllm.config:CacheConfig", ("block_size", "enable_prefix_caching")),
    Symbol("vllm.config:CompilationConfig", ("mode", "cudagraph_mode")),
    Symbol("vllm.config:PassConfig", ("fuse_allreduce_rms",)),
    Symbol("vllm.config:ModelConfig", ("dtype", "max_model_len", "enforce_eager")),
    Symbol("vllm.config:SchedulerConfig", ("max_num_batched_tokens", "max_num_seqs")),
)  # fmt: skip


def core(engine: Any) -> Any:
    """The `EngineCore` of an `LLMEngine` that runs in this process."""
    return reach(engine, "engine_core.engine_core")


def settings(engine: Any) -> dict[str, Any]:
    """The effective settings of an `LLMEngine`, except those of its layers."""
    vllm = reach(engine, "vllm_config")
    return {
        "dtype": str(vllm.model_config.dtype).removeprefix("torch."),
        "block_size": vllm.cache_config.block_size,
        "max_model_len": vllm.model_config.max_model_len,
        "max_num_batched_tokens": vllm.scheduler_config.max_num_batched_tokens,
        "max_num_seqs": vllm.scheduler_config.max_num_seqs,
        "compilation_mode": str(vllm.compilation_config.mode),
        "cudagraph_mode": str(vllm.compilation_config.cudagraph_mode),
        "enforce_eager": vllm.model_config.enforce_eager,
        "prefix_caching": vllm.cache_config.enable_prefix_caching,
    }


def block_pool(engine_core: Any) -> Any:
    """The pool from which new requests get their blocks."""
    pool = reach(engine_core, "scheduler.kv_cache_manager.block_pool")
    reach(pool, "blocks")
    reach(pool, "free_block_queue.fake_free_list_head")
    return pool


def attention_layers(worker: Any) -> dict[str, Any]:
    """A worker's attention layers by name."""
    context = reach(worker, "vllm_config.compilation_config.static_forward_context")
    return {name: layer for name, layer in context.items() if getattr(layer, "impl", None) is not None}


def backends(layers: Mapping[str, Any]) -> tuple[str, ...]:
    """The layers' attention backends, each once."""
    return tuple(sorted({layer.attn_backend.get_name() for layer in layers.values()}))


def flash_attn_version(layers: Mapping[str, Any]) -> int | None:
    """The newest flash attention version among the layers; None: no flash attention."""
    versions = [getattr(layer.impl, "vllm_flash_attn_version", None) for layer in layers.values()]
    return max((version for version in versions if version is not None), default=None)
