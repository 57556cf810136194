"""Models from other people: whatever their files hold, finding one ends in a shape or in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.models import ModelError, config_types, inspect, pooling
from tests.command_line import run_all
from tests.models.configs import LLAMA, TINY_GPT2
from tests.runs.test_handed import spoiled
from tests.test_files import PLAIN

READ = sorted({name for names, _, _ in config_types._EXPECTED for name in names})


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def write(directory: Path, config: str) -> str:
    (directory / "config.json").write_text(config)
    (directory / "model.safetensors").touch()
    return str(directory)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("[" * 100_000, r"config\.json: cannot be read as JSON: nested too deeply"),
        ('{"a": ' * 200 + "1" + "}" * 200, "nested too deeply"),
        ("[]", "must hold a JSON object"),
        ('"\xff"', "cannot be read as JSON"),
        (LLAMA | {"head_dim": "x"}, "has head_dim: 'x'; it must be a whole number"),
        (LLAMA | {"num_key_value_heads": "many"}, "num_key_value_heads: 'many'"),
        (LLAMA | {"hidden_size": 10**30}, "hidden_size: 1000000"),
        (LLAMA | {"hidden_size": [[1]]}, "hidden_size: "),
        (LLAMA | {"num_hidden_layers": 10**6}, "must be a whole number of at most 10000"),
        (LLAMA | {"num_attention_heads": True}, "num_attention_heads: True"),
        (LLAMA | {"rope_scaling": "yarn"}, "rope_scaling: 'yarn'; it must be an object"),
        (LLAMA | {"rope_scaling": {"type": "linear", "factor": "x"}}, "rope_scaling: .* factor: 'x'"),
        (LLAMA | {"rope_parameters": []}, r"rope_parameters: \[\]"),
        (LLAMA | {"rope_parameters": {"full_attention": {"factor": -1}}}, "full_attention: .*factor: -1"),
        (LLAMA | {"attn_config": "x"}, "attn_config: 'x'"),
        (LLAMA | {"text_config": {"vocab_size": 1e9}}, "text_config: .*vocab_size"),
        (LLAMA | {"architectures": "x"}, "architectures: 'x'; it must be a list of names"),
        (LLAMA | {"eos_token_id": {"a": 1}}, "eos_token_id"),
        (LLAMA | {"max_position_embeddings": "long"}, "max_position_embeddings: 'long'"),
    ],
)  # fmt: skip
def test_a_config_that_describes_no_model_is_one_line_with_the_key(
    config: Any, message: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_bytes(
        (config if isinstance(config, str) else json.dumps(config)).encode("latin-1")
    )
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ModelError, match=message) as error:
        inspect(str(tmp_path), length=8)
    assert "\n" not in str(error.value)


@pytest.mark.fuzz
@settings(max_examples=60)
@given(
    config=st.sampled_from([LLAMA, TINY_GPT2]).flatmap(spoiled),
    more=st.dictionaries(st.sampled_from(READ), PLAIN, max_size=2),
)
def test_any_config_is_a_shape_or_one_line(
    config: Any, more: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    told = ""
    try:
        name = write(tmp_path_factory.mktemp("model"), json.dumps(config | more))
        assert inspect(name, length=8, allow_long=True).num_layers > 0
    except ModelError as error:
        told = str(error)
    assert "\n" not in told


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ('{"weight_map": {"a": "model-0000', "index.json: .*download the model again"),
        ("[" * 100_000, "nested too deeply"),
        ("[]", "weight_map: must give a file for each weight"),
        ('{"weight_map": ["a"]}', "weight_map: must give a file"),
        ('{"weight_map": {"a": 1}}', "weight_map: must give a file"),
        (
            '{"weight_map": {"a": "../../../etc/passwd"}}',
            r"'\.\./\.\./\.\./etc/passwd' is no file of the model",
        ),
        ('{"weight_map": {"a": "/etc/passwd"}}', "'/etc/passwd' is no file of the model"),
    ],
)
def test_an_index_that_is_none_or_leads_outside_is_one_line(index: str, message: str, tmp_path: Path) -> None:
    write(tmp_path, json.dumps(LLAMA))
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ModelError, match=message) as error:
        inspect(str(tmp_path), length=8)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["x" * 5000, "\\ud800", "model-00001-of-00002.safetensors"])
def test_files_that_an_index_names_and_that_cannot_be_there_are_missing(name: str, tmp_path: Path) -> None:
    write(tmp_path, json.dumps(LLAMA))
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors.index.json").write_text(f'{{"weight_map": {{"a": "{name}"}}}}')
    with pytest.raises(ModelError, match="no complete weights"):
        inspect(str(tmp_path), length=8)


@pytest.mark.parametrize(
    "name",
    ["gpt2-", "-gpt2", "org/name.git", "org/a--b", "a..b", "x" * 97, "org/" + "x" * 300, "~nosuchuser/x",
     "/" + "x" * 300, "a\0b", "\ud800", "a b", "a/b/c", ""]
)  # fmt: skip
def test_a_name_that_no_model_can_have_is_one_line(name: str) -> None:
    with pytest.raises(ModelError, match="--model ") as error:
        inspect(name, length=8)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def test_sentence_transformers_modules_that_are_none_are_left_out(tmp_path: Path) -> None:
    for content in ("[" * 100_000, "{}", "[1]", '"\xff"'):
        (tmp_path / "modules.json").write_bytes(content.encode("latin-1"))
        pooling.refuse("m", LLAMA, tmp_path)


def test_bad_models_are_refused_on_the_command_line_before_torch(tmp_path: Path) -> None:
    model = write(tmp_path, json.dumps(LLAMA | {"head_dim": "x"}))
    names = [model, "org/name.git", "~nosuchuser/x", "x" * 300]
    for done in run_all([("main", ["prefill", "--model", name]) for name in names]):
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
        assert "torch" not in done.heavy
