"""Mistral's own layout of a checkpoint, which has no config.json: params.json, consolidated weights, and
tekken.json or tokenizer.model, read as vLLM reads them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from harness import files
from harness.models.shape import ModelError
from harness.units import type_and_line
from patches import PatchError, Symbol

NAME = "mistral"  # of the format in vLLM's config_format, load_format and tokenizer_mode
PARAMS = "params.json"
ADAPT = Symbol("vllm.transformers_utils.configs.mistral:adapt_config_dict", ("config_dict", "defaults"))
DEFAULT_POSITIONS = 128_000  # vLLM's (transformers_utils/config.py) where params.json names no limit
GET_TOKENIZER = Symbol("vllm.tokenizers:get_tokenizer")


def is_layout_of(directory: Path) -> bool:
    """Whether a model's directory is in this layout alone."""
    return (directory / PARAMS).is_file() and not (directory / "config.json").is_file()


def find_tokenizer(directory: Path) -> Path | None:
    """A sentencepiece tokenizer under a name with a version, as tokenizer.model.v3, if there is one."""
    return next(iter(sorted(directory.glob("tokenizer*.model.v*"))), None)


def read_config(directory: Path) -> dict[str, Any]:
    """The settings of params.json under the names of a config.json; takes seconds, as it imports vLLM.

    Raises:
        ModelError: the file cannot be read, or vLLM cannot make a model's settings of it.
    """
    path = directory / PARAMS
    try:
        given = files.parse_json(files.read_text(path))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(given, dict):
        raise ModelError(f"{path}: must hold a JSON object")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # read as vllm is imported
    try:
        settings = ADAPT.resolve()({"max_position_embeddings": DEFAULT_POSITIONS} | given, defaults={})
    except PatchError as error:
        raise ModelError(f"{path}: Mistral's own format is read by vLLM: {error}") from error
    except Exception as error:  # assertions and whatever a missing or odd setting raises
        why = files.shorten(type_and_line(error))
        raise ModelError(f"{path}: vLLM cannot read it ({why}); correct it") from error
    # A generic class has no model type of its own, so its dictionary has none.
    return dict(settings.to_dict()) | {"model_type": str(settings.model_type)}


def load_tokenizer(directory: Path) -> Any:
    """vLLM's tokenizer of the directory, that of mistral_common; raises whatever that raises."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    return GET_TOKENIZER.resolve()(str(directory), tokenizer_mode=NAME)
