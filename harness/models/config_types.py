"""The settings of a config.json that the harness reads have the types and sizes of settings, or one line."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from harness import files
from harness.models.hf_config import OWN_NAMES
from harness.models.shape import ModelError

MOST_LAYERS, MOST_VOCABULARY, MOST = 10_000, 1 << 24, 2**31 - 1
_LAYERS = ("num_hidden_layers", *OWN_NAMES["num_hidden_layers"], "num_kv_shared_layers")
_VOCABULARY = ("vocab_size", *OWN_NAMES["vocab_size"])
_SIZES = (
    *(name for usual in ("num_attention_heads", "num_key_value_heads", "hidden_size")
      for name in (usual, *OWN_NAMES[usual])),
    "head_dim", "hidden_size_per_head", "attention_head_dim", "kv_lora_rank", "qk_nope_head_dim",
    "qk_rope_head_dim", "kv_n_heads",
)  # fmt: skip
_LIMITS = (
    "max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length",
    "max_target_positions", "max_sequence_length", "max_seq_length", "seq_len",
    "original_max_position_embeddings",
)  # fmt: skip
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id")
_ROPES = ("rope_scaling", "rope_parameters")
_INNER = ("text_config", "llm_config", "attn_config", *_ROPES)


def check(config: dict[str, Any], where: str) -> None:
    """Raise ModelError, with the key, if a setting that is read has another type or an impossible size.

    Args:
        where: what to call the config in an error.
    """
    for name, value in config.items():
        told = _problem(name, value)
        if told:
            shown = files.shorten(repr(value), 40)
            raise ModelError(f"{where}: its config.json has {name}: {shown}; it must be {told}")
        if name in _INNER and isinstance(value, dict):
            check(value, f"{where}: {name}")
            if name in _ROPES:  # a layer type's own, by its name
                for kind, inner in value.items():
                    if isinstance(inner, dict):
                        check(inner, f"{where}: {name}: {files.shorten(kind, 40)}")


def _problem(name: str, value: Any) -> str | None:
    """What a setting must be and is not."""
    if value is None:
        return None
    for names, expected, fits in _EXPECTED:
        if name in names:
            return None if fits(value) else expected
    return None


def _whole(most: int, least: int = 0) -> Callable[[Any], bool]:
    """Whether a value is a whole number, or a list of them for each layer, within bounds."""

    def fits(value: Any) -> bool:
        numbers = value if isinstance(value, list) else [value]
        return len(numbers) <= MOST_LAYERS and all(
            number is None or (type(number) is int and least <= number <= most) for number in numbers
        )

    return fits


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= MOST


def _limit(value: Any) -> bool:
    """Some configs have 1e30 for no limit."""
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and value >= 0
        and not math.isnan(value)
    )


def _names(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= MOST_LAYERS and all(isinstance(n, str) for n in value)


_EXPECTED: tuple[tuple[tuple[str, ...], str, Callable[[Any], bool]], ...] = (
    (_LAYERS, f"a whole number of at most {MOST_LAYERS}", _whole(MOST_LAYERS)),
    (_VOCABULARY, f"a whole number of at most {MOST_VOCABULARY}", _whole(MOST_VOCABULARY)),
    (_SIZES, f"a whole number of at most {MOST}", _whole(MOST)),
    (_LIMITS, "a number of tokens", _limit),
    (_TOKENS, "a token's id, or a list of them", _whole(MOST, least=-MOST)),
    (("factor",), "a positive number", _number),
    (
        ("model_type", "type", "rope_type", "position_embedding_type"),
        "text",
        lambda value: isinstance(value, str),
    ),
    (("architectures", "layer_types", "layers_block_type"), "a list of names", _names),
    (_INNER, "an object", lambda value: isinstance(value, dict)),
)
