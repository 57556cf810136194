"""A model's attention according to its config.json: heads, layers and positions."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from harness.models import hf_config

Positions = Literal["learned", "rotary", "alibi", "none"]

# Learned position tables that patches/positions.py can repeat.
EXTENDABLE = ("gpt2", "opt")
_LEARNED = (*EXTENDABLE, "gpt_bigcode", "gpt_neo", "biogpt", "xglm", "ctrl")

# In the order in which vLLM reads them (transformers_utils/model_arch_config_convertor.py).
_LIMITS = (
    "max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length",
    "max_target_positions", "max_sequence_length", "max_seq_length", "seq_len",
)  # fmt: skip
_KV_HEADS = (
    "n_head_kv", "num_kv_heads", "num_key_value_heads", "multi_query_group_num", "num_attention_groups",
)  # fmt: skip
_SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id")
# Rotary positions by what vLLM's tables of them hold (model_executor/layers/rotary_embedding): as many as
# its limit says; `factor` times the original ones; or, of any other kind, no more than the model's limit.
_ANY_NUMBER = ("default", "linear", "dynamic", "llama3", "proportional")
_YARN = ("yarn", "deepseek_yarn", "deepseek_llama_scaling")
# Those whose limit vLLM does not multiply by `factor` (config/model.py: _get_and_verify_max_len).
_SCALED_LIMIT = (*_YARN, "su", "longrope", "llama3")


class ModelError(ValueError):
    """A model that cannot be used as requested: one line with the value, the limit and the way out."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A decoder-only model's attention, its number of positions and its vocabulary."""

    positions: Positions
    max_positions: int | None  # tokens that its configuration allows; None: no limit
    positions_key: tuple[str, ...]  # the setting with that limit, e.g. ("text_config", "n_positions"); or ()
    most_positions: int | None  # tokens that a larger limit can allow; None: any number
    num_layers: int
    num_heads: int  # query heads
    num_kv_heads: int  # where layers differ, the most
    head_dim: int  # where layers differ, the largest
    kv_values_per_token: int  # numbers that the KV cache holds of a token, in all layers
    vocab_size: int
    special_ids: frozenset[int]  # tokens that no text contains, as far as config.json names them
    causal: bool = True  # False: its layers are an encoder's, without a KV cache
    latent: bool = False  # multi-head latent attention (MLA): the cache is not K and V per head

    def kv_bytes_per_token(self, element_bytes: int) -> int:
        """Bytes that the KV cache holds of a token, in all layers."""
        return self.kv_values_per_token * element_bytes

    def room_per_token(self, element_bytes: int) -> int:
        """Bytes of KV cache that are enough for a token: vLLM may give every layer the largest layer's."""
        in_a_layer = self.head_dim if self.latent else 2 * self.num_kv_heads * self.head_dim
        return self.num_layers * in_a_layer * element_bytes


def read_shape(config: dict[str, Any], where: str, *, complete: bool = False, encoder: bool = False) -> Shape:
    """The shape that a config.json's content describes.

    Args:
        where: what to call the config in an error.
        complete: whether it names every setting, so that transformers, whose import takes seconds, is not
            needed for their defaults.
        encoder: whether encoder-only models will do as well.

    Raises:
        ModelError: it is not a decoder-only model, or the number of layers or heads, their size or the
            vocabulary's size is missing.
    """
    settings = hf_config.plain(config) if complete else hf_config.read(config)
    text = hf_config.language_model(settings)
    encoder_only = hf_config.is_encoder_only(text)
    _refuse_encoders(settings, text, where, encoder_only and not encoder)
    layers = _layers(text, where)
    latent = _is_latent(settings, text)
    sizes = [(_num_kv_heads(layer, where), _head_dim(layer, where, latent)) for layer in layers]
    own_kv = _with_own_kv(text, len(sizes))
    if len(own_kv) != len(sizes):
        layers_and_kinds = f"has {len(sizes)} layers and the kinds of {len(own_kv)}"
        raise ModelError(f"{where}: {layers_and_kinds} (layer_types); mend its config.json")
    cached = [size for size, kept in zip(sizes, own_kv, strict=True) if kept]
    limit = _limit(text)
    return Shape(
        positions=_positions(text),
        max_positions=int(getattr(text, limit) * _rope_factor(text)) if limit else None,
        positions_key=_path(limit, text, settings),
        most_positions=_most_positions(text, limit),
        num_layers=len(layers),
        num_heads=max(_number(layer, where, "num_attention_heads") for layer in layers),
        num_kv_heads=max(heads for heads, _ in sizes),
        head_dim=max(size for _, size in sizes),
        kv_values_per_token=sum(size if latent else 2 * heads * size for heads, size in cached),
        vocab_size=_number(text, where, "vocab_size"),
        special_ids=frozenset(_special_ids(settings, text)),
        causal=getattr(text, "is_causal", None) is not False and not encoder_only,
        latent=latent,
    )


def overrides(key: tuple[str, ...], value: int) -> dict[str, Any]:
    """vLLM's `hf_overrides` that give a setting another value.

    >>> overrides(("text_config", "n_positions"), 8)
    {'text_config': {'n_positions': 8}}
    """
    nested: Any = value
    for name in reversed(key):
        nested = {name: nested}
    return dict(nested)


def _refuse_encoders(settings: Any, text: Any, where: str, encoder_only: bool) -> None:
    both = any(getattr(part, "is_encoder_decoder", False) for part in (settings, text))
    if both or encoder_only:
        kind = "an encoder-decoder" if both else "an encoder-only"
        raise ModelError(
            f"{where}: {text.model_type} is {kind} model; there is no paged prefill to measure: "
            "give a decoder-only language model"
        )


def _number(settings: Any, where: str, name: str) -> int:
    value = getattr(settings, name, None)
    if isinstance(value, int) and value > 0:
        return value
    if objection := getattr(settings, "objection", None):
        raise ModelError(f"{where}: transformers does not accept its config.json: {objection}; correct that")
    raise ModelError(f"{where}: has no {name}; give a decoder-only language model with attention")


def _layers(text: Any, where: str) -> list[Any]:
    """Each layer's settings."""
    number = _number(text, where, "num_hidden_layers")
    if getattr(text, "is_heterogeneous", False):
        return [text.per_layer_config[index] for index in range(number)]
    return [text] * number


def _with_own_kv(text: Any, num_layers: int) -> list[bool]:
    """Which layers keep K and V of their own: not those of a hybrid without attention, nor those that share
    another's.
    """
    types = getattr(text, "layer_types", None) or getattr(text, "layers_block_type", None)
    kept = [_is_attention(str(kind)) for kind in types] if types else [True] * num_layers
    shared = getattr(text, "num_kv_shared_layers", None) or 0
    return [own and index < num_layers - shared for index, own in enumerate(kept[:num_layers])]


def _is_attention(kind: str) -> bool:
    return ("attention" in kind and kind != "linear_attention") or kind.startswith("hybrid")


def _num_kv_heads(layer: Any, where: str) -> int:
    # Falcon's multi_query counts only in its first architecture.
    if getattr(layer, "multi_query", False) and not getattr(layer, "new_decoder_architecture", False):
        return 1
    inside = _get(getattr(layer, "attn_config", None), "kv_n_heads")  # DBRX, MPT
    own = (getattr(layer, name, None) for name in _KV_HEADS)
    return int(inside or next(filter(None, own), None) or _number(layer, where, "num_attention_heads"))


def _head_dim(layer: Any, where: str, latent: bool) -> int:
    rank, nope, rope = (
        getattr(layer, name, None) or 0 for name in ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim")
    )
    if latent:
        return int(rank + rope)
    if rank and nope:  # compressed in the weights alone: vLLM pads V to the size of K (models/minicpm3.py)
        return int(nope + rope)
    named = ("head_dim", "hidden_size_per_head", "attention_head_dim")
    if own := next(filter(None, (getattr(layer, name, None) for name in named)), None):
        return int(own)
    return _number(layer, where, "hidden_size") // _number(layer, where, "num_attention_heads")


def _is_latent(settings: Any, text: Any) -> bool:
    """Whether vLLM takes a model with a compressed K and V as MLA; imports vLLM for such models alone."""
    if getattr(text, "kv_lora_rank", None) is None:
        return False
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # read as vllm is imported
    try:
        import vllm.config  # noqa: F401  (the next module cannot be imported first)
        from vllm.transformers_utils import model_arch_config_convertor as vllm_reads
    except ImportError:
        return True
    by_type = vllm_reads.MODEL_ARCH_CONFIG_CONVERTORS
    convertor = by_type.get(settings.model_type, vllm_reads.ModelArchConfigConvertorBase)
    return bool(convertor(settings, text).is_deepseek_mla())


def _limit(text: Any) -> str | None:
    """The setting with the limit on positions, if there is one."""
    if getattr(text, "model_max_length", None):  # Cohere
        return "model_max_length"
    present = [name for name in _LIMITS if isinstance(getattr(text, name, None), int)]
    return min(present, key=lambda name: int(getattr(text, name)), default=None)


def _path(limit: str | None, text: Any, settings: Any) -> tuple[str, ...]:
    if limit is None:
        return ()
    return (*(hf_config.path_to(text, settings) or ()), limit)


def _positions(text: Any) -> Positions:
    embedding, alibi = getattr(text, "position_embedding_type", None), getattr(text, "alibi", False)
    if text.model_type == "bloom" or embedding == "alibi" or alibi:
        return "alibi"
    if _get(getattr(text, "attn_config", None), "alibi"):
        return "alibi"
    if text.model_type == "jamba" or embedding == "nope":
        return "none"
    return "learned" if text.model_type in _LEARNED else "rotary"


def _ropes(text: Any) -> list[dict[str, Any]]:
    """The rotary parameters, one for each type of layer that has its own, with "type" as "rope_type"."""
    given = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    given = given if isinstance(given, dict) else {}
    nested = [rope for rope in given.values() if isinstance(rope, dict)]
    return [
        rope | {"rope_type": rope.get("rope_type", rope.get("type", "default"))} for rope in nested or [given]
    ]


def _rope_factor(text: Any) -> float:
    """What vLLM multiplies the limit on positions by."""
    if "gemma3" in text.model_type:
        return 1.0
    scaled = [
        rope["factor"]
        for rope in _ropes(text)
        if rope.get("factor") and rope["rope_type"] not in _SCALED_LIMIT
    ]
    return float(scaled[-1]) if scaled else 1.0


def _most_positions(text: Any, limit: str | None) -> int | None:
    if limit is None:
        return None
    own = int(getattr(text, limit))
    most = [_most_of(rope, own) for rope in _ropes(text)]
    return min((number for number in most if number is not None), default=None)


def _most_of(rope: dict[str, Any], limit: int) -> int | None:
    if rope["rope_type"] in _ANY_NUMBER:
        return None
    if rope["rope_type"] not in _YARN:
        return limit
    original = rope.get("original_max_position_embeddings") or limit
    return max(limit, math.floor(original * (rope.get("factor") or 1)))


def _special_ids(settings: Any, text: Any) -> Iterable[int]:
    for part in (settings, text):
        for name in _SPECIAL:
            ids = getattr(part, name, None)
            yield from ids if isinstance(ids, (list, tuple)) else () if ids is None else (ids,)


def _get(part: Any, name: str) -> Any:
    """A value of a part of the settings, which may be an object or a dictionary, or missing."""
    return part.get(name) if isinstance(part, dict) else getattr(part, name, None)
