"""The main job's inputs: a model, or attention calls captured earlier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from harness import batch
from harness.batch import Request
from harness.calls import headers
from harness.config.errors import ConfigError, label
from harness.experiments.prefill.options import RunConfig, check_layers

if TYPE_CHECKING:
    from harness.models import ModelSource


def adapt(config: RunConfig, typed: Mapping[str, Any]) -> RunConfig:
    """With --from-captures, take lengths and block size from the captures; options typed must not contradict
    them.
    """
    if (folder := config.from_captures) is None:
        return config
    shapes = headers.read_shapes(folder)
    captured = batch.format_batch(tuple(Request(length) for length in shapes.lengths))
    prompts = captured if len(shapes.lengths) > 1 else str(max(shapes.lengths))
    same = tuple(request.length for request in config.requests) == shapes.lengths
    contradicted = {
        "length": None if same else prompts,
        "batch": None if same else prompts,
        "block_size": None if config.block_size == shapes.block_size else shapes.block_size,
    }
    for name, value in contradicted.items():
        if value and name in typed:
            raise ConfigError(
                f"{label(name, typed[name])}: the captures in {folder} have {value}; leave it out"
            )
    if isinstance(config.layers, list) and (missing := set(config.layers) - set(shapes.layers)):
        have = ",".join(map(str, shapes.layers))
        raise ConfigError(
            f"{label('layers', sorted(missing))}: not among the captures in {folder}; take from {have}"
        )
    shape: dict[str, Any] = {"block_size": shapes.block_size}
    if not same:  # else the batch given may say more: a request's own spread_k
        shape |= {"length": max(shapes.lengths), "batch": captured if len(shapes.lengths) > 1 else None}
    return config.model_copy(update=shape)


def find_model(config: RunConfig) -> ModelSource | None:
    """The model, after checking that it has the layers and, where cheap to check, takes the prompt.

    None with --from-captures, where no model runs.
    """
    if config.from_captures is not None:
        return None
    from harness import prompt

    source = config.inspect_model(config.length)
    if source.num_heads % config.tensor_parallel_size:
        divisors = [n for n in range(1, source.num_heads + 1) if source.num_heads % n == 0]
        raise ConfigError(
            f"--tensor-parallel-size {config.tensor_parallel_size}: {source.name} has {source.num_heads} "
            f"query heads, which must be divisible by it; take one of {', '.join(map(str, divisors))}"
        )
    check_layers(config, source.num_layers)
    prompt.check(source, config.prompt_file)
    if config.prompt_file is not None and source.tokenizer and source.tokenizer.name == "tokenizer.json":
        lengths = [request.length for request in config.requests]
        prompt.token_ids(source, lengths, config.prompt_file, config.seed)
    return source
