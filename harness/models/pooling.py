"""Pooling models, which embed or score a text instead of continuing it; only `workload` measures them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness import files
from harness.models.shape import ModelError

# As in vLLM (config/model.py), which takes the runner from an architecture's ending.
_POOLING = (
    "ForTextEncoding", "ForSequenceClassification", "ForTokenClassification", "ClassificationModel",
    "ForRewardModeling", "ForRetrieval", "ForMaskedLM", "Model",
)  # fmt: skip
_GENERATING = (  # though they end in Model
    "ChatModel", "LMHeadModel", "LMModel", "ChatGLMModel", "OmniModel", "AudioModel", "UltravoxModel",
)  # fmt: skip
_HEADS = (".Pooling", ".CrossEncoder", ".LogitScore")  # classes in sentence-transformers' modules.json


def refuse(name: str, config: dict[str, Any], directory: Path) -> None:
    """Raise ModelError if a model pools.

    vLLM's generating runner loads some of them, without their pooling, and most not at all.

    Args:
        name: as asked for.
        config: the content of its config.json.
        directory: where that lies.
    """
    why = _architecture(config) or _modules(directory)
    if why:
        raise ModelError(
            f"--model {name}: it is a pooling model ({why}), which python -m harness workload --task embed, "
            "classify or score measures; give one that generates text"
        )


def _architecture(config: dict[str, Any]) -> str | None:
    """An architecture that pools, as config.json has it; None if there is none."""
    for architecture in map(str, config.get("architectures") or []):
        if architecture.endswith(_POOLING) and not architecture.endswith(_GENERATING):
            return f"architecture {architecture}"
    return None


def _modules(directory: Path) -> str | None:
    """The module of sentence-transformers that pools; None if there is none.

    A checkpoint that embeds may name a causal language model's architecture.
    """
    try:
        modules = files.parse_json(files.read_text(directory / "modules.json"))
        types = [str(module["type"]) for module in modules]
    except (OSError, ValueError, TypeError, KeyError):
        types = []
    if any(each.endswith(_HEADS) for each in types):
        return "sentence-transformers' modules.json"
    return "1_Pooling" if (directory / "1_Pooling").is_dir() else None
