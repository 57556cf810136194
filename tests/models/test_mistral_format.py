"""Mistral's own layout, params.json without a config.json, is read as the same model in transformers'."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from harness import prompt
from harness.engine import prefills
from harness.engine.engine import Engine
from harness.models import ModelError, inspect, mistral_format
from harness.models.required import require_transformers_layout
from harness.prompt import PASSAGE, PromptError, token_ids
from tests import mistral_layout
from tests.engines import inputs
from tests.feature_models import save

IDS = [[(7 * n + n * n) % 256 for n in range(70)]]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same model in transformers' layout and in Mistral's."""
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 64, "hidden_size": 128}
    more = {"intermediate_size": 64, "num_hidden_layers": 2, "max_position_embeddings": 128}
    folder = tmp_path_factory.mktemp("both")
    usual = save("mistral", {**heads, **more, "sliding_window": None}, folder / "usual")
    return usual, mistral_layout.save(usual, folder / "mistrals")


def test_params_are_read_as_the_config_of_the_same_model(both: tuple[Path, Path]) -> None:
    usual, mistrals = (inspect(str(path), length=100) for path in both)
    same = ("positions", "max_positions", "positions_key", "most_positions", "num_layers", "num_heads",
            "num_kv_heads", "head_dim", "kv_values_per_token", "vocab_size", "causal", "latent")  # fmt: skip
    assert {name: getattr(mistrals, name) for name in same} == {name: getattr(usual, name) for name in same}
    assert (usual.in_mistral_format, mistrals.in_mistral_format) == (False, True)
    assert (mistrals.origin, mistrals.weights) == ("directory", "pretrained")
    with pytest.raises(ModelError, match="128 positions; take at most 127, or --allow-long-max-model-len"):
        inspect(str(both[1]), length=128)
    with pytest.raises(
        ModelError, match=r"Mistral's params\.json, which vLLM loads and transformers does not"
    ):
        require_transformers_layout(mistrals)


@pytest.mark.engine
def test_an_engine_computes_the_same_from_either_layout(both: tuple[Path, Path]) -> None:
    found = []
    for path in both:
        spec, source = inputs(path, length=70, block_size=32, layers="all", dtype="bfloat16")
        with torch.inference_mode(), Engine(spec, source) as engine:
            done = engine.prefill(IDS, [engine.free_block_ids()[:3]])
            prefills.capture(engine, IDS, [engine.free_block_ids()[:3]], None)
            calls = engine.ranks.only.captured.calls.values()
            found.append((done.first_tokens, [call.output for call in calls]))
    (usual_tokens, usual), (tokens, outputs) = found
    assert tokens == usual_tokens
    assert len(outputs) == 2
    assert all(map(torch.equal, outputs, usual))


def test_the_prompt_comes_from_the_tokenizer_that_vllm_takes(both: tuple[Path, Path], tmp_path: Path) -> None:
    source = inspect(str(both[1]), length=8)
    (ids,), description = token_ids(source, [20], None, seed=0)
    assert description.startswith("bundled passage")
    special = len(mistral_layout.tekken()["special_tokens"])
    assert ids == [1, *(special + byte for byte in PASSAGE.read_bytes()[:19])]
    assert prompt.decode(source, ids) == PASSAGE.read_text()[:19]
    broken = Path(shutil.copytree(both[1], tmp_path / "broken"))
    (broken / "tekken.json").write_text("{}")
    (ids,), description = token_ids(inspect(str(broken), length=8), [20], None, seed=0)
    assert "random token ids, seed 0" in description
    assert "vLLM cannot load it" in description
    with pytest.raises(PromptError, match="vLLM cannot load it"):
        token_ids(inspect(str(broken), length=8), [20], PASSAGE, seed=0)


def test_a_sentencepiece_tokenizer_with_a_version_in_its_name(
    both: tuple[Path, Path], tmp_path: Path
) -> None:
    import sentencepiece

    model = Path(shutil.copytree(both[1], tmp_path / "model"))
    (model / "tekken.json").unlink()
    assert not inspect(str(model), length=8).has_tokenizer
    sentencepiece.SentencePieceTrainer.train(
        input=str(PASSAGE), model_prefix=str(tmp_path / "trained"), vocab_size=400, model_type="bpe",
        byte_fallback=True, minloglevel=5, control_symbols=["[INST]", "[/INST]"],
    )  # fmt: skip
    shutil.move(tmp_path / "trained.model", model / "tokenizer.model.v1")
    source = inspect(str(model), length=8)
    assert source.tokenizer == model / "tokenizer.model.v1"
    (ids,), description = token_ids(source, [200], None, seed=0)
    assert description.startswith("bundled passage")
    assert (prompt.decode(source, ids) or "").split()[3:9] == PASSAGE.read_text().split()[3:9]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"params\.json: cannot be read as JSON"),
        ("[1]", r"params\.json: must hold a JSON object"),
        (
            '{"dim": 64, "sliding_window": "x"}',
            r"params\.json: vLLM cannot read it \(.*sliding_window.*\); corr",
        ),
        ('{"dim": 64, "n_layers": "two"}', "has num_hidden_layers: 'two'; it must be a whole number"),
        ('{"dim": 64}', "has no num_hidden_layers"),
    ],
)
def test_what_params_do_not_say(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "params.json").write_text(content)
    with pytest.raises(ModelError, match=message):
        inspect(str(tmp_path), length=8, load_format="dummy")


def test_a_directory_with_both_is_read_by_its_config(both: tuple[Path, Path], tmp_path: Path) -> None:
    model = Path(shutil.copytree(both[1], tmp_path / "model"))
    config = json.loads((both[0] / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 64}))
    assert not mistral_format.is_layout_of(model)
    assert inspect(str(model), length=8).max_positions == 64
