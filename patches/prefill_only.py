"""What the plugin for prefill-only serving (`harness/plugin/`) wraps and calls inside vLLM.

vLLM has no setting that leaves out the KV cache of a causal model, so the plugin wraps five methods: where
the configuration is made, where an API and where the engine take a request in, where a model is loaded, and
where a worker runs a step. It can go once vLLM reads K and V of a whole prompt from the step itself.
"""

from __future__ import annotations

from patches import Symbol

FEATURE = "the plugin for prefill-only serving"
STEP = ("scheduled_new_reqs", "num_scheduled_tokens")
REQUEST = (
    "req_id",
    "prompt_token_ids",
    "sampling_params",
    "pooling_params",
    "num_computed_tokens",
    "prompt_embeds",
)
IMPL_FORWARD = (
    "layer",
    "query",
    "key",
    "value",
    "kv_cache",
    "attn_metadata",
    "output",
    "output_scale",
    "output_block_scale",
)
BUILD = ("common_prefix_len", "common_attn_metadata", "fast_build")

CREATE_ENGINE_CONFIG = Symbol("vllm:EngineArgs.create_engine_config")
PROCESS_INPUTS = Symbol(
    "vllm.v1.engine.input_processor:InputProcessor.process_inputs",
    ("request_id", "prompt", "params", "resumable"),
)
ADD_REQUEST = Symbol("vllm.v1.engine.core:EngineCore.add_request", ("request",))
# Which API servers return to their client as a bad request.
BAD_REQUEST = Symbol("vllm.exceptions:VLLMValidationError")
LOAD_MODEL = Symbol(
    "vllm.model_executor.model_loader.base_loader:BaseModelLoader.load_model", ("vllm_config", "model_config")
)
EXECUTE_MODEL = Symbol("vllm.v1.worker.gpu_worker:Worker.execute_model", ("scheduler_output",))
REGISTRY = "vllm.v1.attention.backends.registry"
REGISTER_BACKEND = Symbol(f"{REGISTRY}:register_backend", ("backend", "class_path"))
BACKENDS = Symbol(f"{REGISTRY}:AttentionBackendEnum")
CLEAR_OVERRIDE = Symbol(f"{REGISTRY}:AttentionBackendEnum.clear_override")
# The choice of a backend, remembered by its arguments.
CHOOSE_BACKEND = Symbol("vllm.v1.attention.selector:_cached_get_attn_backend")
ATTENTION_CONTEXT = Symbol(
    "vllm.model_executor.layers.attention.attention:get_attention_context", ("layer_name",)
)
ATTENTION = Symbol("vllm.model_executor.layers.attention.attention:Attention")
ATTENTION_BASE = Symbol("vllm.model_executor.layers.attention_layer_base:AttentionLayerBase")
# Makes metadata for layers without a cache in the V2 model runner.
ENCODER_ONLY_STATE = Symbol("vllm.v1.worker.gpu.model_states.encoder_only:EncoderOnlyModelState")
# Takes them into full CUDA graphs where their backend allows it.
ENCODER_ONLY_GRAPHS = Symbol(
    "vllm.v1.worker.gpu.model_states.encoder_only:EncoderOnlyModelState.get_additional_cg_support"
)
NEEDS = (
    CREATE_ENGINE_CONFIG, PROCESS_INPUTS, ADD_REQUEST, BAD_REQUEST, LOAD_MODEL, EXECUTE_MODEL,
    REGISTER_BACKEND, BACKENDS, CLEAR_OVERRIDE, CHOOSE_BACKEND, ATTENTION_CONTEXT, ATTENTION, ATTENTION_BASE,
    Symbol("vllm.v1.core.sched.output:SchedulerOutput", STEP),
    Symbol("vllm.v1.core.sched.output:NewRequestData", REQUEST),
    Symbol("vllm.v1.request:Request", ("sampling_params", "resumable")),
    Symbol("vllm.config:VllmConfig", ("additional_config",)),
    Symbol("vllm.v1.attention.backend:AttentionBackend.forward_includes_kv_cache_update"),
    Symbol("vllm.v1.attention.backend:AttentionImpl.forward", IMPL_FORWARD),
    Symbol("vllm.v1.attention.backend:AttentionMetadataBuilder.build", BUILD),
    Symbol("vllm.v1.attention.backend:AttentionMetadataBuilder.get_cudagraph_support",
           ("vllm_config", "kv_cache_spec")),
)  # fmt: skip
NEEDS_ON_CUDA = (
    Symbol("vllm.v1.attention.backends.fa_utils:flash_attn_varlen_func",
           ("q", "k", "v", "out", "cu_seqlens_q", "cu_seqlens_k", "max_seqlen_q", "max_seqlen_k",
            "softmax_scale", "causal", "alibi_slopes", "window_size", "softcap", "fa_version", "num_splits",
            "s_aux")),
    Symbol("vllm.v1.attention.ops.triton_prefill_attention:context_attention_fwd",
           ("q", "k", "v", "o", "b_start_loc", "b_seq_len", "max_input_len", "is_causal", "softmax_scale",
            "sliding_window_q", "sliding_window_k", "sinks")),
)  # fmt: skip
