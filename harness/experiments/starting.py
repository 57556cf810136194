"""Run an experiment from its options: checked before anything heavy is imported, and then done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import batch, device
from harness import config as configuration
from harness.batch import Request
from harness.calls import headers
from harness.config import Common, ConfigError
from harness.config.errors import label
from harness.experiments import EXPERIMENTS
from harness.experiments.prefill.options import RunConfig, check_layers, resolve
from harness.runs import resume
from harness.stack import with_room

if TYPE_CHECKING:
    from harness.models import ModelSource


class RunFailed(Exception):
    """A run that ended early, or measured nothing, for a reason that its message says in full."""


@with_room
def run(name: str, options: Mapping[str, Any], config_file: Path | None = None) -> Path:
    """Check an experiment's options against device, files and model, then run it; the run's directory.

    Args:
        name: "prefill", or one of EXPERIMENTS.
        options: values of its configuration's fields, which go before those of the file.

    Raises:
        ConfigError: they are not as they must be; nothing was run.
        RunFailed: it ended early, or measured nothing; what was measured is in the directory.
        Interrupted: Ctrl-C or a signal ended it; likewise.
    """
    config = _resolved(name, options, config_file)
    if config.resume:
        resume.check(config)
    with _input_errors():
        source = _find_model(config)  # ahead of torch
        job = import_module(_job(config)).run
        with _known_failures():
            job(config, source)
    assert config.output_dir is not None
    return config.output_dir


def check(options: Mapping[str, Any], kind: device.Kind) -> RunConfig:
    """The main job's configuration, checked as it is ahead of a run but for --resume; raises ConfigError.

    Args:
        options: values of RunConfig's fields.
        kind: of device that it is to run on.
    """
    config = _main_job(options, None, kind)
    with _input_errors():
        _find_model(config)
    return config


def _resolved(name: str, options: Mapping[str, Any], config_file: Path | None) -> Common:
    if name == RunConfig.experiment:
        return _main_job(options, config_file, device.kind())
    experiment = EXPERIMENTS[name]
    config = configuration.load(experiment.config, options, config_file)
    return experiment.resolve(config, device.kind())


def _main_job(options: Mapping[str, Any], config_file: Path | None, kind: device.Kind) -> RunConfig:
    config = configuration.load(RunConfig, options, config_file)
    if config.from_captures is not None:
        config = like_captures(config, config.from_captures, options)
    return resolve(config, kind)


def _job(config: Common) -> str:
    """The module whose run(config, source) does it."""
    if not isinstance(config, RunConfig):
        return EXPERIMENTS[config.experiment].job
    return "harness.experiments.prefill." + ("saved" if config.from_captures else "measure")


def _find_model(config: Common) -> ModelSource | None:
    if isinstance(config, RunConfig):
        return None if config.from_captures else _model_source(config)
    find = EXPERIMENTS[config.experiment].find_model
    return find(config) if find else None


@contextmanager
def _input_errors() -> Iterator[None]:
    """Turn what a model or a prompt does not allow into ConfigError."""
    from harness import models, prompt

    try:
        yield
    except (models.ModelError, prompt.PromptError) as error:
        raise ConfigError(str(error)) from error


@contextmanager
def _known_failures() -> Iterator[None]:
    """Turn failures whose message says all there is to say into RunFailed; imports torch."""
    from harness.calls.capture import CaptureError
    from harness.engine.options import EngineError
    from harness.engine.ranks import RankDied
    from harness.layout import LayoutError
    from harness.running.recorder import NothingMeasured
    from patches import PatchError

    try:
        yield
    except (CaptureError, EngineError, LayoutError, NothingMeasured, PatchError, RankDied) as error:
        raise RunFailed(str(error)) from error


def like_captures(config: RunConfig, folder: Path, typed: Mapping[str, Any]) -> RunConfig:
    """The configuration with the captures' lengths and block size; what was typed may not contradict them."""
    found = headers.read_shapes(folder)
    captured = batch.written(tuple(Request(length) for length in found.lengths))
    prompts = captured if len(found.lengths) > 1 else str(max(found.lengths))
    same = tuple(request.length for request in config.requests) == found.lengths
    contradicted = {
        "length": None if same else prompts,
        "batch": None if same else prompts,
        "block_size": None if config.block_size == found.block_size else found.block_size,
    }
    for name, value in contradicted.items():
        if value and name in typed:
            raise ConfigError(
                f"{label(name, typed[name])}: the captures in {folder} have {value}; leave it out"
            )
    if isinstance(config.layers, list) and (missing := set(config.layers) - set(found.layers)):
        have = ",".join(map(str, found.layers))
        raise ConfigError(
            f"{label('layers', sorted(missing))}: not among the captures in {folder}; take from {have}"
        )
    shape: dict[str, Any] = {"block_size": found.block_size}
    if not same:  # else the batch that was asked for may say more: a spread_k of its own
        shape |= {"length": max(found.lengths), "batch": captured if len(found.lengths) > 1 else None}
    return config.model_copy(update=shape)


def _model_source(config: RunConfig) -> ModelSource:
    """The model, once it is known to have the layers and, where that is cheap to see, to take the prompt."""
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
    if config.prompt_file is not None and source.tokenizer is not None:
        lengths = [request.length for request in config.requests]
        prompt.token_ids(source, lengths, config.prompt_file, config.seed)
    return source
