"""Small random models, one for each feature of attention, and what a capture of their layers must say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

VOCABULARY = 256
NONE = (-1, -1)


@dataclass(frozen=True)
class Model:
    """A transformers model type with its options, and the attention that it must be seen to have."""

    name: str
    model_type: str
    head_dim: int
    dtype: str
    options: dict[str, Any]
    windows: tuple[tuple[int, int], ...] = (NONE,)  # of each layer
    heads: int = 2
    kv_heads: int = 2
    scale: float | None = None  # None: 1/sqrt(head_dim)
    softcap: float = 0.0
    alibi: bool = False
    sinks: bool = False

    @property
    def layers(self) -> int:
        return len(self.windows)


def _llama(heads: int, kv_heads: int, head_dim: int, **more: Any) -> dict[str, Any]:
    """Options that most decoder-only types have in common."""
    return {
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "num_hidden_layers": 1,
        "max_position_embeddings": 256,
        **more,
    }


MODELS = (
    Model("gqa", "llama", 64, "bfloat16", _llama(4, 2, 64), heads=4),
    Model("mqa", "llama", 80, "float16", _llama(3, 1, 80, hidden_size=96), heads=3, kv_heads=1),
    Model("window", "mistral", 96, "float16", _llama(2, 2, 96, sliding_window=20), windows=((19, 0),)),
    Model(
        "mixed-windows-softcap", "gemma2", 256, "bfloat16",
        _llama(2, 1, 256, num_hidden_layers=2, sliding_window=24, attn_logit_softcapping=2.0,
               query_pre_attn_scalar=32, layer_types=["sliding_attention", "full_attention"]),
        windows=((23, 0), NONE), kv_heads=1, scale=32**-0.5, softcap=2.0,
    ),
    Model(
        "mixed-windows", "gemma3_text", 128, "bfloat16",
        _llama(2, 1, 128, num_hidden_layers=3, sliding_window=16, query_pre_attn_scalar=100,
               layer_types=["sliding_attention", "sliding_attention", "full_attention"]),
        windows=((15, 0), (15, 0), NONE), kv_heads=1, scale=0.1,
    ),
    Model(
        "scale", "granite", 64, "bfloat16",
        _llama(2, 2, 64, hidden_size=128, attention_multiplier=0.3), scale=0.3,
    ),
    Model("alibi", "bloom", 64, "float16", {"hidden_size": 128, "n_head": 2, "n_layer": 1}, alibi=True),
    Model(
        "alibi-mqa", "falcon", 64, "bfloat16",
        {"hidden_size": 192, "num_attention_heads": 3, "num_hidden_layers": 1, "alibi": True,
         "multi_query": True, "parallel_attn": False, "new_decoder_architecture": False, "bias": True},
        heads=3, kv_heads=1, alibi=True,
    ),
    Model(
        "learned", "gpt2", 64, "float16",
        {"n_embd": 128, "n_head": 2, "n_layer": 1, "n_positions": 256},
    ),
    Model(
        "learned-offset", "opt", 64, "bfloat16",
        {"hidden_size": 128, "word_embed_proj_dim": 128, "ffn_dim": 64, "num_attention_heads": 2,
         "num_hidden_layers": 1, "max_position_embeddings": 256},
    ),
    Model(
        "sinks", "gpt_oss", 64, "bfloat16",
        _llama(4, 2, 64, num_hidden_layers=2, sliding_window=32, num_local_experts=4, num_experts_per_tok=2,
               layer_types=["sliding_attention", "full_attention"]),
        windows=((31, 0), NONE), heads=4, sinks=True,
    ),
)  # fmt: skip

# vLLM's CPU attention has no kernel for heads of 40.
NO_KERNEL = ("llama", _llama(2, 2, 40))
# vLLM knows gemma2 to overflow in float16.
NO_FLOAT16 = ("gemma2", _llama(2, 2, 64))
# Multi-head latent attention: one compressed vector a token instead of K and V per head.
LATENT = (
    "deepseek_v2",
    {"hidden_size": 64, "intermediate_size": 64, "moe_intermediate_size": 64, "num_hidden_layers": 2,
     "num_attention_heads": 2, "num_key_value_heads": 2, "kv_lora_rank": 512, "q_lora_rank": None,
     "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "first_k_dense_replace": 2,
     "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1, "n_group": 1, "topk_group": 1,
     "max_position_embeddings": 256},
)  # fmt: skip
# With "is_causal": False in its config.json its layers are an encoder's, without a KV cache.
BIDIRECTIONAL = ("qwen2", _llama(2, 2, 64, hidden_size=128, num_hidden_layers=2))
ENCODER = {
    "architectures": ["BertModel"], "model_type": "bert", "hidden_size": 64, "num_attention_heads": 2,
    "num_hidden_layers": 1, "max_position_embeddings": 128, "vocab_size": VOCABULARY,
}  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """A small model with layers that are not plain attention, and what a run of 70 tokens must say of it."""

    model_type: str
    options: dict[str, Any]
    layers: list[int]  # that are replayed
    note: str  # a regular expression
    config: dict[str, Any] = field(default_factory=dict)  # keys added to config.json
    unsupported: frozenset[str] = frozenset()  # arms of the whole prefill


KINDS = {
    "chunked": Kind(
        "llama4_text",
        _llama(2, 1, 64, num_hidden_layers=2, attention_chunk_size=32, num_local_experts=2,
               num_experts_per_tok=1, interleave_moe_layer_step=2, intermediate_size_mlp=64,
               no_rope_layers=[1, 0], layer_types=["chunked_attention", "full_attention"]),
        [1], "layer 0 left out: chunked local attention: .* 70 tokens into 3 virtual requests of 32$",
    ),
    "state": Kind(
        "falcon_h1",
        _llama(2, 1, 64, num_hidden_layers=2, mamba_d_ssm=64, mamba_n_heads=2, mamba_d_head=32,
               mamba_n_groups=1, mamba_d_state=16, mamba_d_conv=4, mamba_expand=1, mamba_chunk_size=64),
        [0, 1], r"^2 layers without attention \(MambaSpec\): .*, not replayed: ",
    ),
    "fp8": Kind(
        "llama", _llama(2, 1, 64), [0], "^the KV cache of 1 of 1 layer is fp8: whole prefills are timed",
        config={"quantization_config": {
            "quant_method": "compressed-tensors", "format": "int-quantized",
            "ignore": [], "config_groups": {},
            "kv_cache_scheme": {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "tensor"},
        }},
        unsupported=frozenset({"dense", "no_write", "compact"}),
    ),
}  # fmt: skip
# The last two layers read the K and V of the two before them.
SHARED = (
    "gemma3n_text",
    _llama(2, 1, 64, num_hidden_layers=4, num_kv_shared_layers=2, sliding_window=32,
           intermediate_size=[64] * 4, layer_types=["sliding_attention", "full_attention"] * 2,
           vocab_size_per_layer_input=VOCABULARY, hidden_size_per_layer_input=16, laurel_rank=8,
           altup_num_inputs=2, activation_sparsity_pattern=[0.0] * 4),
)  # fmt: skip


def save(
    model_type: str,
    options: dict[str, Any],
    path: Path,
    spread: float = 0.3,
    more: Mapping[str, Any] | None = None,
) -> Path:
    """Write a model with seeded random weights; larger ones than usual, so that attention is not uniform.

    Args:
        more: keys added to its config.json.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    tokens = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
    config = AutoConfig.for_model(model_type, initializer_range=spread, **tokens, **options)
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    if more:
        written = path / "config.json"
        written.write_text(json.dumps(json.loads(written.read_text()) | dict(more)))
    return path
