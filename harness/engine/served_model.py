"""A model as `serving` takes it: vLLM's arguments, for any model that vLLM has, pooling ones too."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from harness import models
from harness.config.errors import ConfigError, label
from harness.config.fields import Engine
from harness.models import mistral_format
from harness.units import first_line
from harness.workloads import WorkError, read_work
from harness.workloads.tokens import token_ids

POSITIONS = 1024  # of a model that names no limit


@dataclass(frozen=True)
class ServedModel:
    """vLLM's arguments for a model, and what is known of it ahead of its start."""

    arguments: dict[str, Any]
    std: float | None  # of weights that are drawn in the engine; None: it loads its own
    weights: str
    vocabulary: int
    positions: int


def own_arguments(config: Engine) -> dict[str, Any]:
    """vLLM's arguments that stand in the options themselves."""
    own: dict[str, Any] = {
        "dtype": config.dtype,
        "enforce_eager": config.enforce_eager,
        "tensor_parallel_size": config.tensor_parallel_size,
        "trust_remote_code": config.trust_remote_code,
    }
    if config.flash_attn_version:
        own["attention_config"] = {"flash_attn_version": config.flash_attn_version}
    for name in ("block_size", "attention_backend", "distributed_executor_backend", "revision"):
        if value := getattr(config, name):
            own[name] = value
    return own | config.engine_options


def read(config: Engine, seed: int) -> ServedModel:
    """The model's files and configuration; takes seconds, starts nothing.

    Raises ModelError, or ConfigError if its config.json cannot be read.
    """
    arguments = own_arguments(config) | {"model": config.model, "load_format": config.load_format}
    arguments["seed"] = seed
    std, weights = None, config.load_format
    if config.model in models.BUILT_IN:
        found = models.inspect(config.model, length=1, load_format=config.load_format)
        source = models.materialise(found, seed)
        arguments |= {"model": str(source.path), "load_format": source.load_format}
        arguments["hf_overrides"] = source.hf_overrides
        weights = source.weights
        std = source.drawn_std
    directory = Path(str(arguments["model"]))
    # Prompts are token ids; but pooling models start only with a tokenizer.
    arguments["skip_tokenizer_init"] = directory.is_dir() and not any(
        (directory / name).is_file() for name in models.TOKENIZERS
    )
    return ServedModel(arguments, std, weights, *_sizes(config, str(directory)))


def read_prompts(
    config: Engine, model: ServedModel, path: Path, seed: int, most: int | None = None
) -> list[list[int]]:
    """The token ids of a file's requests, of the first `most` if given; texts alone need a tokenizer.

    Raises ConfigError.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            model.arguments["model"], revision=config.revision, trust_remote_code=config.trust_remote_code
        )
    except (OSError, ValueError):
        tokenizer = None
    encode = tokenizer and (lambda text: tokenizer(text)["input_ids"])
    try:
        return [*islice(token_ids(read_work(path), encode, model.vocabulary, seed), most)]
    except WorkError as error:
        raise ConfigError(f"{label('prompts', path)}: {error}") from error


def room_for(longest: int, asked: int | None) -> int:
    """The max_model_len for a prompt and its answer; raises ConfigError if the one asked for is too small."""
    room = asked or longest + 1
    if longest >= room:
        raise ConfigError(
            f"{label('max_model_len', room)}: a prompt has {longest} tokens; set it to at least {longest + 1}"
        )
    return room


def _sizes(config: Engine, path: str) -> tuple[int, int]:
    """A model's vocabulary and positions, of its config.json."""
    if mistral_format.is_layout_of(Path(path)):
        read = mistral_format.read_config(Path(path))
        read = read.get("text_config", read)
        return int(read["vocab_size"]), int(read["max_position_embeddings"])
    from transformers import AutoConfig

    try:
        found = AutoConfig.from_pretrained(
            path, revision=config.revision, trust_remote_code=config.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise ConfigError(f"{label('model', config.model)}: {first_line(error)}") from error
    text = found.get_text_config()
    return int(text.vocab_size), int(getattr(text, "max_position_embeddings", None) or POSITIONS)
