"""A model's attention according to its config.json: heads, layers and positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from harness.units import kv_bytes_per_token

Positions = Literal["learned", "rotary", "alibi", "none"]

# Learned position tables that patches/positions.py can repeat.
EXTENDABLE = ("gpt2", "opt")
# These neither generate tokens nor keep a KV cache.
_ENCODERS = ("bert", "electra", "mpnet", "t5encoder")
_LEARNED = (*EXTENDABLE, "gpt_bigcode", "gpt_neo", "biogpt", "xglm", "ctrl")

# In the order in which vLLM reads them (transformers_utils/model_arch_config_convertor.py).
_LIMIT_KEYS = (
    "max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length",
    "max_target_positions", "max_sequence_length", "max_seq_length", "seq_len",
)  # fmt: skip
_PLAIN_ROPE = ("default", "linear", "dynamic", "llama3")


class ModelError(ValueError):
    """A model that cannot be used as requested: one line with the value, the limit and the way out."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A decoder-only model's attention, and its number of positions."""

    positions: Positions
    max_positions: int | None  # tokens that its configuration allows; None: no limit
    num_layers: int
    num_heads: int  # query heads
    num_kv_heads: int
    head_dim: int
    causal: bool = True  # False: its layers are an encoder's, without a KV cache
    latent: bool = False  # multi-head latent attention (MLA): the cache is not K and V per head

    def kv_bytes_per_token(self, element_bytes: int) -> int:
        """Bytes of K and V of a token, in all layers."""
        return kv_bytes_per_token(self.num_layers, self.num_kv_heads, self.head_dim, element_bytes)


def text_config(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a config.json that describes the language model: all of it, or its "text_config"."""
    nested = config.get("text_config")
    return nested if isinstance(nested, dict) else config


def read_shape(config: dict[str, Any], where: str) -> Shape:
    """The shape that a config.json's content describes.

    Args:
        where: what to call the config in an error.

    Raises:
        ModelError: it is not a decoder-only model, or the number of layers or heads or their size is missing.
    """
    text = text_config(config)
    _refuse_encoders(text, where)
    num_heads = _number(text, where, "num_attention_heads", "n_head", "n_heads", "num_heads")
    width = _number(text, where, "hidden_size", "n_embd", "d_model")
    key = limit_key(config)
    return Shape(
        positions=_positions(text),
        max_positions=int(text[key] * _rope_factor(text)) if key else None,
        num_layers=_number(text, where, "num_hidden_layers", "n_layer", "n_layers", "num_layers"),
        num_heads=num_heads,
        num_kv_heads=_num_kv_heads(text, num_heads),
        head_dim=text.get("head_dim") or width // num_heads,
        causal=text.get("is_causal") is not False,
        latent=bool(text.get("kv_lora_rank")),
    )


def limit_key(config: dict[str, Any]) -> str | None:
    """The key in a config.json's text part with the tightest limit on positions; None if there is none."""
    text = text_config(config)
    present = [key for key in _LIMIT_KEYS if isinstance(text.get(key), int)]
    return min(present, key=lambda key: int(text[key]), default=None)


def with_positions(config: dict[str, Any], num_positions: int) -> dict[str, Any]:
    """The `hf_overrides` that let vLLM build a model with `num_positions` positions from this config.

    Raises:
        ModelError: its kind of positions cannot be extended by a larger limit.
    """
    rope_type = _rope(text_config(config)).get("rope_type", "default")
    if rope_type not in _PLAIN_ROPE:
        raise ModelError(f"positions of the kind {rope_type!r} cannot be extended: use shorter prompts")
    key = limit_key(config)
    overrides = {key: num_positions} if key else {}
    return {"text_config": overrides} if text_config(config) is not config else overrides


def _refuse_encoders(text: dict[str, Any], where: str) -> None:
    model_type = str(text.get("model_type"))
    if text.get("is_encoder_decoder") or any(name in model_type for name in _ENCODERS):
        kind = "an encoder-decoder" if text.get("is_encoder_decoder") else "an encoder-only"
        raise ModelError(
            f"{where}: {model_type} is {kind} model; there is no paged prefill to measure: "
            "give a decoder-only language model"
        )


def _number(config: dict[str, Any], where: str, *keys: str) -> int:
    for key in keys:
        if isinstance(config.get(key), int) and config[key] > 0:
            return int(config[key])
    raise ModelError(f"{where}: has no {keys[0]}; give a decoder-only language model")


def _num_kv_heads(text: dict[str, Any], num_heads: int) -> int:
    # Falcon has a multi_query flag besides num_kv_heads, which counts only in the new architecture.
    if text.get("multi_query") and not text.get("new_decoder_architecture"):
        return 1
    for key in ("n_head_kv", "num_kv_heads", "num_key_value_heads", "multi_query_group_num"):
        if text.get(key):
            return int(text[key])
    return num_heads


def _positions(text: dict[str, Any]) -> Positions:
    model_type, embedding = text.get("model_type"), text.get("position_embedding_type")
    attention = text.get("attn_config") or {}
    if model_type == "bloom" or embedding == "alibi" or text.get("alibi") or attention.get("alibi"):
        return "alibi"
    if model_type == "jamba" or embedding == "nope":
        return "none"
    return "learned" if model_type in _LEARNED else "rotary"


def _rope(text: dict[str, Any]) -> dict[str, Any]:
    """The rotary parameters under either of their names, with "type" read as "rope_type"."""
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    return rope | {"rope_type": rope.get("rope_type", rope.get("type", "default"))}


def _rope_factor(text: dict[str, Any]) -> float:
    # As in vLLM: for other kinds the limit is already scaled.
    rope = _rope(text)
    scaled = rope["rope_type"] in ("linear", "dynamic") and "gemma3" not in str(text.get("model_type"))
    return float(rope.get("factor") or 1.0) if scaled else 1.0
