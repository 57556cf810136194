"""Whether an engine with this configuration can run prefill-only; asked once, before anything heavy loads."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import patches
from harness.plugin import mode
from patches import prefill_only

OLDEST, NEWEST = (0, 26), (0, 33)
OWN_LOADERS = ("tensorizer", "modelexpress")  # of models, beside what `loading` wraps
PLAIN_CACHE = ("auto", "float16", "bfloat16", "float32")
CHUNKS = (
    "a step that ends within a prompt runs as ever, which under load most steps do; "
    "--no-enable-chunked-prefill keeps prompts whole"
)
# Sizes that must be 1 and other attributes that must not be set, by their way from the configuration.
_SIZES = (
    ("parallel_config.decode_context_parallel_size", "decode context parallelism splits the cache"),
    ("parallel_config.prefill_context_parallel_size", "prefill context parallelism splits prompts"),
    ("parallel_config.pipeline_parallel_size", "untested with pipeline parallelism; use tensor parallelism"),
    ("parallel_config.data_parallel_size", "untested with data parallelism; start one server for each GPU"),
)
_SET = (
    ("cache_config.enable_prefix_caching", "prefix caching would find blocks that nothing was written to; "
     "set --no-enable-prefix-caching"),
    ("cache_config.kv_sharing_fast_prefill", "layers share K and V; leave out --kv-sharing-fast-prefill"),
    ("cache_config.kv_offloading_size", "the KV cache is offloaded; leave out --kv-offloading-size"),
    ("kv_transfer_config", "a KV connector reads the cache; leave out --kv-transfer-config"),
    ("speculative_config", "speculative decoding reads the cache; leave out --speculative-config"),
    ("parallel_config.enable_dbo", "untested with micro-batches; leave out --enable-dbo"),
    ("model_config.use_mla", "the model's attention is latent (MLA), whose cache is not K and V"),
    ("model_config.is_encoder_decoder", "an encoder-decoder model reads its encoder's cache"),
    ("model_config.is_hybrid", "the model has layers with a state in the cache (hybrid)"),
    ("model_config.is_attention_free", "the model has no attention"),
    ("model_config.is_mm_prefix_lm", "the model attends to images in both directions"),
    ("model_config.is_diffusion", "a diffusion model passes over its tokens several times"),
    ("model_config.rswa_window", "the model's sliding window keeps its prompt (R-SWA)"),
    ("model_config.enable_return_routed_experts", "routed experts are returned by cache slot"),
)  # fmt: skip


def install() -> None:
    """Check every configuration that vLLM makes from engine arguments, and mark those that pass."""
    mode.wrap(prefill_only.CREATE_ENGINE_CONFIG, _checking)


def _checking(create: Any) -> Any:
    def create_engine_config(*args: Any, **kwargs: Any) -> Any:
        vllm_config = create(*args, **kwargs)
        asked, given = mode.requested(), vllm_config.additional_config
        if isinstance(given, dict):  # which may be the user's, or an earlier engine's
            vllm_config.additional_config = {name: each for name, each in given.items() if name != mode.KEY}
        if asked and (found := [*doubts(vllm_config, asked)]):
            mode.refuse(asked, found)
        elif asked:
            vllm_config.additional_config[mode.KEY] = asked
            if asked == "step" and vllm_config.scheduler_config.enable_chunked_prefill:
                mode.LOG.warning("%s=step: %s", mode.VARIABLE, CHUNKS)
        return vllm_config

    return create_engine_config


def has_full_graphs(arguments: Mapping[str, Any], compute_capability: str | None) -> bool:
    """Whether `nocache` can have full CUDA graphs of prefills, to be asked for as cudagraph_mode=FULL.

    Args:
        arguments: vLLM's.
        compute_capability: of the GPU, e.g. "9.0"; None: there is none.
    """
    attention = arguments.get("attention_config") or {}
    return (
        _release() >= (0, 32)  # whose V2 model runner keeps what such a graph reads
        and (compute_capability or "").startswith("9.")
        and arguments.get("attention_backend") in (None, "FLASH_ATTN")
        and attention.get("flash_attn_version") in (None, 3)
    )


def _release() -> tuple[int, ...]:
    _, _, version = (patches.installed_vllm() or "").partition(" ")
    return tuple(map(int, re.findall(r"\d+", version)[:2]))


def version_doubts() -> Iterator[str]:
    """That this version of vLLM is unknown, or nothing."""
    name, _, version = (patches.installed_vllm() or "vllm").partition(" ")
    if not OLDEST <= _release() <= NEWEST:
        yield f"{name} {version or 'of no known version'} is none of 0.26 to 0.33, which this plugin knows"


def doubts(vllm_config: Any, asked: str) -> Iterator[str]:
    """Reasons not to run an engine in this mode, each with the way out where there is one."""
    from vllm.platforms import current_platform

    if not (current_platform.is_cuda() or current_platform.is_cpu()):
        yield f"only NVIDIA GPUs and CPUs are known, not {current_platform.device_name}"
    if not isinstance(vllm_config.additional_config, dict):
        yield "additional_config is no dictionary, in which workers find the mode"
    yield from (why for path, why in _SIZES if (_reach(vllm_config, path) or 1) > 1)
    yield from (why for path, why in _SET if _reach(vllm_config, path))
    cache = vllm_config.cache_config.cache_dtype
    if cache not in PLAIN_CACHE:
        yield f"the KV cache is {cache}, not what a step's K and V are; leave out --kv-cache-dtype"
    if (loader := _reach(vllm_config, "load_config.load_format")) in OWN_LOADERS:
        yield f"the loader {loader} builds models its own way; leave out --load-format"
    if asked == "nocache":
        yield from _without_cache(vllm_config)


def _without_cache(vllm_config: Any) -> Iterator[str]:
    """Reasons that are none for `step`: prompts that may be cut, and a runner that needs the cache."""
    scheduler, longest = vllm_config.scheduler_config, vllm_config.model_config.max_model_len
    if scheduler.max_num_batched_tokens < longest:
        yield (
            f"prompts of up to {longest} tokens may be cut into chunks; set --max-num-batched-tokens to at "
            f"least that, or --max-model-len to at most {scheduler.max_num_batched_tokens}"
        )
    if getattr(scheduler, "long_prefill_token_threshold", 0):
        yield "--long-prefill-token-threshold cuts prompts into chunks; leave it out"
    if vllm_config.use_v2_model_runner and prefill_only.ENCODER_ONLY_STATE.problem():
        yield "this vLLM's V2 model runner needs a KV cache; set VLLM_USE_V2_MODEL_RUNNER=0"


def _reach(start: Any, path: str) -> Any:
    """The value at a dotted path; None where this vLLM has no such thing."""
    for name in path.split("."):
        start = getattr(start, name, None)
    return start
