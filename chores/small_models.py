"""The families of docs/support.md's table: for each a small model of random weights."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

VOCABULARY = 512


@dataclass(frozen=True)
class Family:
    """A model type with its options. If it has no weights of its own, vLLM fills in dummies."""

    kind: str  # of its layers
    model_type: str
    options: dict[str, Any]
    config: dict[str, Any] = field(default_factory=dict)  # keys added to config.json
    weights: bool = True

    def save(self, path: Path) -> None:
        """Write config.json and weights; without a class in transformers, config.json is all of `options`."""
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        torch.manual_seed(0)
        tokens = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
        path.mkdir(parents=True, exist_ok=True)
        written = path / "config.json"
        if "architectures" in self.options:
            written.write_text(json.dumps(self.options | {"model_type": self.model_type}))
        else:
            config = AutoConfig.for_model(self.model_type, **tokens | self.options)
            if self.weights:
                AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(path)
            else:
                config.architectures = [AutoModelForCausalLM._model_mapping[type(config)].__name__]
                config.save_pretrained(path)
        added = {"dtype": "bfloat16"} | self.config
        written.write_text(json.dumps(json.loads(written.read_text()) | added))


def _llama(**more: Any) -> dict[str, Any]:
    """Options that most families have in common."""
    return {
        "hidden_size": 256,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "max_position_embeddings": 1024,
        **more,
    }


def _without(name: str, options: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key != name}


def _int4(method: str, **more: Any) -> dict[str, Any]:
    return {"quantization_config": {"quant_method": method, "bits": 4, "group_size": 128, **more}}


def _compressed(kind: str | None, kv_cache: bool = False) -> dict[str, Any]:
    """compressed-tensors: 8-bit weights of a kind per channel, activations per token, maybe an fp8 cache."""
    eight = {"num_bits": 8, "type": kind, "symmetric": True}
    linear = {
        "targets": ["Linear"],
        "weights": eight | {"strategy": "channel", "dynamic": False},
        "input_activations": eight | {"strategy": "token", "dynamic": True},
    }
    return {
        "quantization_config": {
            "quant_method": "compressed-tensors",
            "format": f"{kind or 'int'}-quantized",
            "ignore": ["lm_head"],
            "config_groups": {"group_0": linear} if kind else {},
            "kv_cache_scheme": {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "tensor"}
            if kv_cache
            else None,
        }
    }


WINDOW_FULL = {"sliding_window": 32, "layer_types": ["sliding_attention", "full_attention"]}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 128}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256, "rope_theta": 1e4}

FAMILIES = {
    "Llama": Family("full", "llama", _llama()),
    "Qwen2": Family("full", "qwen2", _llama()),
    "Qwen3": Family("full", "qwen3", _llama()),
    "Mistral": Family("window", "mistral", _llama(sliding_window=32)),
    "Gemma 2": Family("window and full, soft-cap", "gemma2", _llama(**WINDOW_FULL)),
    "Gemma 3": Family("window and full", "gemma3_text", _llama(**WINDOW_FULL)),
    "Gemma 3n": Family(
        "window and full, the last two share K and V", "gemma3n_text",
        _llama(num_hidden_layers=4, num_kv_shared_layers=2, sliding_window=32, intermediate_size=[256] * 4,
               layer_types=["sliding_attention", "full_attention"] * 2, laurel_rank=16,
               vocab_size_per_layer_input=VOCABULARY, hidden_size_per_layer_input=16,
               activation_sparsity_pattern=[0.0] * 4),
    ),
    "Gemma 4": Family(
        "window and full, heads of two sizes", "gemma4_text",
        _llama(**WINDOW_FULL, num_global_key_value_heads=1, global_head_dim=128,
               vocab_size_per_layer_input=VOCABULARY, hidden_size_per_layer_input=16),
    ),
    "gpt2": Family(
        "full", "gpt2", {"n_embd": 256, "n_head": 4, "n_layer": 2, "n_positions": 1024},
    ),
    "OPT": Family(
        "full", "opt",
        {"hidden_size": 256, "word_embed_proj_dim": 256, "ffn_dim": 256, "num_attention_heads": 4,
         "num_hidden_layers": 2, "max_position_embeddings": 1024},
    ),
    "Bloom": Family("full, ALiBi", "bloom", {"hidden_size": 256, "n_head": 4, "n_layer": 2}),
    "Phi": Family("full", "phi", _without("head_dim", _llama(num_key_value_heads=4))),
    "ChatGLM": Family(
        "full", "chatglm",
        {"architectures": ["ChatGLMModel"], "num_layers": 2, "hidden_size": 256, "ffn_hidden_size": 256,
         "kv_channels": 64, "num_attention_heads": 4, "multi_query_attention": True,
         "multi_query_group_num": 2, "padded_vocab_size": VOCABULARY, "seq_length": 1024, "rmsnorm": True,
         "layernorm_epsilon": 1e-5, "post_layer_norm": True, "add_bias_linear": False, "add_qkv_bias": True,
         "apply_residual_connection_post_layernorm": False, "original_rope": True,
         "tie_word_embeddings": False, "eos_token_id": 2, "pad_token_id": 0},
        weights=False,
    ),
    "Llama 4": Family(
        "chunks of 32 and full", "llama4_text",
        _llama(attention_chunk_size=32, num_local_experts=2, num_experts_per_tok=1,
               interleave_moe_layer_step=2, intermediate_size_mlp=256, no_rope_layers=[1, 0],
               layer_types=["chunked_attention", "full_attention"]),
    ),
    "Mixtral": Family("full, experts", "mixtral", _llama(num_local_experts=4)),
    "Qwen3-MoE": Family("full, experts", "qwen3_moe", _llama(**EXPERTS)),
    "gpt-oss": Family(
        "window and full, sinks, experts", "gpt_oss",
        _llama(**WINDOW_FULL, num_local_experts=4, num_experts_per_tok=2),
    ),
    "Falcon-H1": Family(
        "full and Mamba 2 in each layer", "falcon_h1",
        _llama(mamba_d_ssm=256, mamba_n_heads=4, mamba_d_head=64, mamba_n_groups=1, mamba_d_state=32,
               mamba_d_conv=4, mamba_expand=1, mamba_chunk_size=64),
    ),
    "LFM2": Family(
        "full, short convolutions", "lfm2",
        _without("head_dim", _llama(layer_types=["conv", "full_attention"], conv_L_cache=3)),
        config={"conv_dim": 256, "conv_dim_out": 256, "block_dim": 256, "block_ff_dim": 256,
                "block_multiple_of": 64, "block_auto_adjust_ff_dim": False, "block_ffn_dim_multiplier": 1.0},
    ),
    "Jamba": Family(
        "full, Mamba, experts", "jamba",
        _without("head_dim", _llama(num_hidden_layers=4, attn_layer_period=2, attn_layer_offset=1,
                                    num_experts=2, mamba_d_state=16, mamba_dt_rank=16)),
    ),
    "Qwen3-Next": Family(
        "full, gated delta nets, experts", "qwen3_next",
        _llama(**EXPERTS, layer_types=["linear_attention", "full_attention"], linear_num_key_heads=2,
               linear_num_value_heads=4, linear_key_head_dim=64, linear_value_head_dim=64,
               shared_expert_intermediate_size=128),
    ),
    "DeepSeek-V2": Family(
        "latent (MLA), experts", "deepseek_v2",
        {"hidden_size": 256, "intermediate_size": 256, "moe_intermediate_size": 128, "num_hidden_layers": 2,
         "num_attention_heads": 2, "num_key_value_heads": 2, "kv_lora_rank": 512, "q_lora_rank": None,
         "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "first_k_dense_replace": 1,
         "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1, "n_group": 1,
         "topk_group": 1, "max_position_embeddings": 1024},
    ),
    "Llama, YaRN": Family("full", "llama", _llama(rope_parameters=YARN)),
    "Llama, GPTQ": Family("full", "llama", _llama(), _int4("gptq", desc_act=False, sym=True), weights=False),
    "Llama, AWQ": Family(
        "full", "llama", _llama(), _int4("awq", zero_point=True, version="gemm"), weights=False
    ),
    "Llama, W8A8": Family(
        "full", "llama", _llama(), _compressed("int"), weights=False
    ),
    "Llama, FP8": Family(
        "full", "llama", _llama(), _compressed("float"), weights=False
    ),
    "Llama, fp8 cache": Family("full, fp8 cache", "llama", _llama(), _compressed(None, kv_cache=True)),
}  # fmt: skip
