"""Pooling models are refused by name, whatever layout their checkpoint has; generating ones are not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.models import ModelError, pooling

EMBEDDING = [
    {"type": "sentence_transformers.models.Transformer", "path": ""},
    {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"},
]


@pytest.mark.parametrize(
    "architecture", ["Qwen3ForSequenceClassification", "MistralModel", "Qwen2ForRewardModel", "Qwen3Model"]
)
def test_an_architecture_that_pools_is_refused(tmp_path: Path, architecture: str) -> None:
    with pytest.raises(ModelError, match=rf"^--model m: it is a pooling model \(architecture {architecture}"):
        pooling.refuse("m", {"architectures": [architecture]}, tmp_path)


@pytest.mark.parametrize(
    "architecture", ["Qwen3ForCausalLM", "GPT2LMHeadModel", "ChatGLMModel", "InternVLChatModel"]
)
def test_one_that_generates_is_not_unless_the_checkpoint_embeds(tmp_path: Path, architecture: str) -> None:
    config = {"architectures": [architecture]}
    pooling.refuse("m", config, tmp_path)
    (tmp_path / "modules.json").write_text(json.dumps(EMBEDDING))
    with pytest.raises(ModelError, match=r"pooling model \(sentence-transformers' modules\.json\)"):
        pooling.refuse("m", config, tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "[1]", '{"type": 1}', json.dumps(EMBEDDING[:1])])
def test_other_modules_say_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "modules.json").write_text(text)
    pooling.refuse("m", {}, tmp_path)
