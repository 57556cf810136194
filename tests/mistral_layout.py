"""A model in Mistral's own layout: params.json, consolidated weights and tekken.json."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

PARAMS = {  # of the weights' owner, by name in config.json
    "hidden_size": "dim", "num_hidden_layers": "n_layers", "head_dim": "head_dim",
    "intermediate_size": "hidden_dim", "num_attention_heads": "n_heads", "num_key_value_heads": "n_kv_heads",
    "rms_norm_eps": "norm_eps", "vocab_size": "vocab_size", "sliding_window": "sliding_window",
    "max_position_embeddings": "max_position_embeddings",
}  # fmt: skip
_NAMES = {
    "model.embed_tokens": "tok_embeddings", "model.norm": "norm", "lm_head": "output",
    "model.layers": "layers", "self_attn.q_proj": "attention.wq", "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv", "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1", "mlp.down_proj": "feed_forward.w2", "mlp.up_proj": "feed_forward.w3",
    "input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def save(model: Path, into: Path) -> Path:
    """Write a small mistral of transformers' in `model` into a new directory in the other layout."""
    from safetensors.torch import load_file, save_file

    into.mkdir()
    config = json.loads((model / "config.json").read_text())
    weights = {}
    for name, tensor in load_file(model / "model.safetensors").items():
        renamed = name
        for theirs, mistrals in _NAMES.items():
            renamed = renamed.replace(theirs, mistrals)
        weights[renamed] = _pairs_of_one_rotation_side_by_side(name, tensor, config["head_dim"])
    save_file(weights, into / "consolidated.safetensors")
    params = {PARAMS[name]: value for name, value in config.items() if name in PARAMS}
    (into / "params.json").write_text(json.dumps(params | {"rope_theta": 10000.0}))
    (into / "tekken.json").write_text(json.dumps(tekken()))
    return into


def _pairs_of_one_rotation_side_by_side(name: str, tensor: Any, head_dim: int) -> Any:
    if "q_proj" not in name and "k_proj" not in name:
        return tensor
    heads, width = tensor.shape[0] // head_dim, tensor.shape[1]
    halves = tensor.view(heads, 2, head_dim // 2, width)
    return halves.transpose(1, 2).reshape(tensor.shape).contiguous()


def tekken() -> dict[str, Any]:
    """A tokenizer of bytes."""
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer

    special = list(Tekkenizer.DEPRECATED_SPECIAL_TOKENS)
    sizes = {"default_vocab_size": 256 + len(special), "default_num_special_tokens": len(special)}
    vocab = [
        {"rank": byte, "token_bytes": base64.b64encode(bytes([byte])).decode(), "token_str": None}
        for byte in range(256)
    ]
    config = {"pattern": r"[^\s]+|\s+", "num_vocab_tokens": 256, "version": "v3", **sizes}
    return {"config": config, "vocab": vocab, "special_tokens": special}
