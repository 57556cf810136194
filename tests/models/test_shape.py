"""Shapes read from config.json, held against vLLM's own reading of the same file."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.models import BUILT_IN, CONFIGS, ModelError, hf_config
from harness.models.shape import Shape, overrides, read_shape
from tests.models.configs import LLAMA, TINY_GPT2

# vLLM counts decoder layers here, each of which has two layers of attention.
TWICE_THE_LAYERS = "longcat_flash"
# vLLM's own configurations, for models that transformers does not know.
FROM_VLLM = ("chatglm", "RefinedWeb", "kimi_k2", "step3_text", "dots3_note")


def saved(model_type: str, **settings: Any) -> dict[str, Any]:
    """What config.json holds of a model of this type."""
    from transformers import AutoConfig

    return dict(hf_config.parse(AutoConfig.for_model(model_type, **settings).to_json_string()))


def vllm_reads(config: Any) -> tuple[Any, ...]:
    import vllm.config  # noqa: F401  (the next module cannot be imported first)
    from vllm.transformers_utils import model_arch_config_convertor as convertors
    from vllm.transformers_utils.config import get_hf_text_config

    text = get_hf_text_config(config)
    base = convertors.ModelArchConfigConvertorBase
    convertor = convertors.MODEL_ARCH_CONFIG_CONVERTORS.get(config.model_type, base)(config, text)
    whole = convertor.convert()
    latent, head_dim = whole.is_deepseek_mla, whole.head_size
    if getattr(text, "kv_lora_rank", None) and not latent:  # models/minicpm3.py has heads of this size
        head_dim = text.qk_nope_head_dim + text.qk_rope_head_dim
    limit = whole.derived_max_model_len_and_key[0]
    layers = whole.total_num_hidden_layers * (2 if config.model_type == TWICE_THE_LAYERS else 1)
    return (
        layers, whole.total_num_attention_heads, whole.total_num_kv_heads, head_dim, latent,
        None if math.isinf(limit) else int(limit),
    )  # fmt: skip


def harness_reads(shape: Shape) -> tuple[Any, ...]:
    return (
        shape.num_layers, shape.num_heads, shape.num_kv_heads, shape.head_dim, shape.latent,
        shape.max_positions,
    )  # fmt: skip


def test_every_causal_model_of_transformers_is_read_as_vllm_reads_it() -> None:
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    compared, different = 0, {}
    for model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        try:
            config = AutoConfig.for_model(model_type)
            expected = vllm_reads(config)
        except (StrictDataclassError, ValueError):  # no such configuration without arguments, or not for vLLM
            continue
        try:
            read = harness_reads(read_shape(hf_config.parse(config.to_json_string()), model_type))
        except ModelError as error:
            no_decoder = "encoder" in str(error) or 0 in expected[:4]
            read = expected if no_decoder else (str(error),)
        compared += 1
        if read != expected:
            different[model_type] = (read, expected)
    assert not different
    assert compared > 150


@pytest.mark.parametrize("model_type", FROM_VLLM)
def test_types_that_transformers_does_not_know_are_read_as_json(model_type: str) -> None:
    from transformers import CONFIG_MAPPING
    from vllm.transformers_utils.config import _CONFIG_REGISTRY

    assert model_type not in CONFIG_MAPPING
    config = _CONFIG_REGISTRY[model_type]()
    config.model_type = model_type
    written = hf_config.parse(config.to_json_string()) | {"model_type": model_type}
    assert harness_reads(read_shape(written, model_type)) == vllm_reads(config)


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_built_in_models_need_no_defaults(name: str) -> None:
    config = hf_config.parse((CONFIGS / name / "config.json").read_text())
    shape = read_shape(config, name, complete=True)
    assert shape == replace(read_shape(config, name), positions_key=shape.positions_key)


@pytest.mark.parametrize(
    ("model_type", "settings", "values"),
    [
        # Sliding layers have 4 heads of 256, and the one that does not slide has 2 heads of 512.
        ("gemma4_text", {"layer_types": ["sliding_attention"] * 2 + ["full_attention"],
                         "num_key_value_heads": 4, "num_global_key_value_heads": 2, "head_dim": 256,
                         "global_head_dim": 512, "attention_k_eq_v": True}, 2 * (2 * 4 * 256 + 2 * 512)),
        # The last two layers read the K and V of others.
        ("gemma3n_text", {"layer_types": ["full_attention"] * 6, "num_kv_shared_layers": 2,
                          "intermediate_size": 64, "num_key_value_heads": 2, "head_dim": 64}, 4 * 2 * 2 * 64),
        # Two of four layers are convolutions.
        ("lfm2", {"layer_types": ["conv", "full_attention"] * 2, "num_key_value_heads": 2,
                  "num_attention_heads": 4, "hidden_size": 256}, 2 * 2 * 2 * 64),
        # A vector of 512 and a rotary part of 64 for all heads.
        ("deepseek_v3", {}, 576 * 3),
        # Compressed in the weights, cached as 4 heads of 64 + 32.
        ("minicpm3", {"num_attention_heads": 4, "num_key_value_heads": 4}, 3 * 2 * 4 * 96),
    ],
)  # fmt: skip
def test_the_cache_of_a_token_in_models_whose_layers_differ(
    model_type: str, settings: dict[str, Any], values: int
) -> None:
    layers = len(settings.get("layer_types", [None] * 3))
    shape = read_shape(saved(model_type, num_hidden_layers=layers, **settings), model_type)
    assert shape.kv_bytes_per_token(2) == 2 * values
    assert shape.room_per_token(2) >= 2 * values


@pytest.mark.parametrize(
    ("config", "positions"),
    [
        (LLAMA, "rotary"),
        (TINY_GPT2, "learned"),
        (TINY_GPT2 | {"position_embedding_type": "alibi"}, "alibi"),
        ({"model_type": "bloom"}, "alibi"),
        ({"model_type": "falcon", "alibi": True}, "alibi"),
        ({"model_type": "mpt", "attn_config": {"alibi": True}}, "alibi"),
        (LLAMA | {"model_type": "unknown", "attn_config": {"alibi": True}}, "alibi"),
        (LLAMA | {"position_embedding_type": "nope"}, "none"),
    ],
)
def test_kinds_of_positions(config: dict[str, Any], positions: str) -> None:
    assert read_shape(config, "config").positions == positions


@given(
    limit=st.integers(1, 10**6), factor=st.integers(1, 64), needed=st.integers(1, 10**7), nested=st.booleans()
)
def test_overrides_make_room(limit: int, factor: int, needed: int, nested: bool) -> None:
    text = LLAMA | {"max_position_embeddings": limit, "rope_scaling": {"type": "linear", "factor": factor}}
    config = {"model_type": "llava", "text_config": text} if nested else text
    shape = read_shape(config, "config")
    assert (shape.max_positions, shape.most_positions) == (limit * factor, None)
    changed = overrides(shape.positions_key, needed)
    longer = config | {"text_config": text | changed["text_config"]} if nested else config | changed
    max_positions = read_shape(longer, "config").max_positions
    assert max_positions is not None
    assert max_positions >= needed


def test_kv_heads_of_multi_query_models() -> None:
    falcon = {"model_type": "falcon", "hidden_size": 64, "num_attention_heads": 8, "multi_query": True}
    falcon |= {"num_kv_heads": 4}
    assert read_shape(falcon, "config").num_kv_heads == 1
    assert read_shape(falcon | {"new_decoder_architecture": True}, "config").num_kv_heads == 4


@pytest.mark.parametrize(
    ("rope", "max_positions", "most_positions"),
    [
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}, 32, 128),
        ({"type": "yarn", "factor": 4.0}, 32, 128),
        ({"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8,
          "original_max_position_embeddings": 8}, 32, 32),
        ({"rope_type": "dynamic", "factor": 2.0}, 64, None),
        ({"rope_type": "llama3", "factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 16}, 32, None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("model_type", ["llama", "unknown"])
def test_how_far_rotary_positions_go(
    model_type: str, rope: dict[str, Any], max_positions: int, most_positions: int | None
) -> None:
    config = LLAMA | {"model_type": model_type, "rope_scaling": rope}
    shape = read_shape(config, "config")
    assert (shape.max_positions, shape.most_positions) == (max_positions, most_positions)


def test_where_the_limit_on_positions_is() -> None:
    for model_type, key in (
        ("gemma3", ("text_config",)),
        ("qwen2_5_omni", ("thinker_config", "text_config")),
    ):
        shape = read_shape({"model_type": model_type}, "config")
        assert shape.positions_key == (*key, "max_position_embeddings")


def test_what_transformers_does_not_accept_is_said() -> None:
    with pytest.raises(
        ModelError, match=r"^config: transformers does not accept its config.json: .*'hidden_size'"
    ):
        read_shape({"model_type": "llama", "hidden_size": "wide"}, "config")


def test_kinds_for_other_layers_than_there_are_is_one_line() -> None:
    config = {"model_type": "x", "num_hidden_layers": 4, "hidden_size": 64, "num_attention_heads": 2}
    config |= {"vocab_size": 9, "layer_types": ["full_attention"] * 2}
    with pytest.raises(ModelError, match=r"^config: has 4 layers and the kinds of 2 \(layer_types\)"):
        read_shape(config, "config")


@pytest.mark.parametrize("model_type", ["bert", "xlm-roberta", "bart"])
def test_encoders_are_refused(model_type: str) -> None:
    with pytest.raises(ModelError, match=rf"{model_type} is an encoder-.* give a decoder-only"):
        read_shape(saved(model_type), "config")
