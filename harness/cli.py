"""The command line: a configuration's fields as options, checked before anything heavy is imported."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, get_args, get_origin

from pydantic import BaseModel

from harness import batch, device
from harness import config as configuration
from harness.batch import Request
from harness.calls import headers
from harness.config import ConfigError, RunConfig
from harness.config.errors import label
from harness.config.loading import item_type
from harness.experiments import Experiment
from harness.experiments.prefill.options import GROUPS
from harness.runs import resume
from harness.runs.store import Damaged, RunExists
from harness.stack import with_room

if TYPE_CHECKING:
    from harness.models import ModelSource

PROG = "run_vllm_prefill.py"
OK, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


class RunFailed(Exception):
    """A run that ended early, or measured nothing, for a reason that its message says in full."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are ConfigErrors, with the nearest option where one is unknown."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; --help lists what there is")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does, but an unknown argument is an error here already."""
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            options = [option for option in self._option_string_actions if option.startswith("--")]
            near = difflib.get_close_matches(unknown[0].partition("=")[0], options, 1, cutoff=0)
            hint = f"the nearest is {near[0]}" if unknown[0].startswith("-") else "options begin with --"
            raise ConfigError(f"{unknown[0]}: unknown argument; {hint}")
        return known, unknown


def add_options(
    parser: argparse.ArgumentParser, model: type[BaseModel], groups: Mapping[str, Sequence[str]]
) -> None:
    """--config and, in `groups` (title -> field names), an option for each field of the model."""
    parser.add_argument(
        "--config", type=Path, metavar="YAML", help="options from a file, e.g. configs/cpu-smoke.yaml"
    )
    for title, names in groups.items():
        group = parser.add_argument_group(title)
        for name in names:
            _add_option(group, model, name)


def add_version(parser: argparse.ArgumentParser) -> None:
    """--version, of the harness."""
    version = f"prefill-layout-harness {device.harness_version()}"
    parser.add_argument("--version", action="version", version=version, help="print the harness's version")


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Run the main job; the exit status. A failure nobody foresaw raises, which Python makes status 1."""
    parser = Parser(
        prog=prog,
        usage="%(prog)s [--config YAML] [options]",
        description="Run a real prefill in vLLM, keep its attention calls, and run them again under other "
        "layouts of the KV cache, to say what the paged KV cache costs and how much of it is layout.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    add_version(parser)
    add_options(parser, RunConfig, GROUPS)
    return guarded(prog, lambda: prefill(vars(parser.parse_args(argv))))


def guarded(prog: str, command: Callable[[], int]) -> int:
    """The command's exit status; one line on stderr for bad input (2), a failed run (1) or Ctrl-C (130)."""
    try:
        return command()
    except (ConfigError, Damaged, RunFailed) as error:
        print(f"{prog}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return FAILED if isinstance(error, RunFailed) else BAD_INPUT
    except KeyboardInterrupt:
        print(f"{prog}: interrupted", file=sys.stderr)
        return INTERRUPTED


@with_room
def prefill(options: dict[str, Any]) -> int:
    """Check `options` (a parsed namespace) against device, files and model, then run; the exit status.

    Raises ConfigError or, once the experiment is under way, RunFailed.
    """
    yaml_path = options.pop("config", None)
    config = _resolved(_typed(RunConfig, options), yaml_path, device.kind())
    if config.resume:
        resume.check(config)
    with _input_errors():
        return _run(config, None if config.from_captures else _model_source(config))


def check(options: dict[str, Any], kind: device.Kind) -> RunConfig:
    """The main job's configuration, checked as it is ahead of a run but for --resume; raises ConfigError.

    Args:
        options: values of RunConfig's fields.
        kind: of device that it is to run on.
    """
    config = _resolved(options, None, kind)
    with _input_errors():
        if config.from_captures is None:
            _model_source(config)
    return config


def _resolved(options: dict[str, Any], yaml_path: Path | None, kind: device.Kind) -> RunConfig:
    config = configuration.load(RunConfig, options, yaml_path)
    if config.from_captures is not None:
        config = like_captures(config, config.from_captures, options)
    return configuration.resolve(config, kind)


@with_room
def companion(experiment: Experiment, options: dict[str, Any]) -> int:
    """The same for a companion experiment."""
    yaml_path = options.pop("config", None)
    config = configuration.load(experiment.config, _typed(experiment.config, options), yaml_path)
    config = experiment.resolve(config, device.kind())
    if config.resume:
        resume.check(config)
    with _input_errors():
        if experiment.find_model:  # ahead of torch
            experiment.find_model(config)
        run = import_module(experiment.job).run
        with _known_failures():
            status: int = run(config)
            return status


@contextmanager
def _input_errors() -> Iterator[None]:
    """Turn what a model, a prompt or the output directory does not allow into ConfigError."""
    from harness import models, prompt

    try:
        yield
    except (models.ModelError, prompt.PromptError, RunExists) as error:
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


def like_captures(config: RunConfig, folder: Path, typed: dict[str, Any]) -> RunConfig:
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


def _run(config: RunConfig, source: ModelSource | None) -> int:
    """Run the main job, or without a model the replay of saved captures; the exit status."""
    # torch and vLLM
    from harness.engine.options import check_vllm
    from harness.experiments.prefill import measure as main_job
    from harness.experiments.prefill import saved

    with _known_failures():
        if source is None:
            return saved.run(config)
        check_vllm(source)  # ahead of the run's directory: a refusal leaves nothing behind
        return main_job.run(config, source)


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
    configuration.check_layers(config, source.num_layers)
    prompt.check(source, config.prompt_file)
    if config.prompt_file is not None and source.tokenizer is not None:
        lengths = [request.length for request in config.requests]
        prompt.token_ids(source, lengths, config.prompt_file, config.seed)
    return source


def _add_option(group: argparse._ArgumentGroup, model: type[BaseModel], name: str) -> None:
    field = model.model_fields[name]
    flag, text = "--" + name.replace("_", "-"), (field.description or "").replace("%", "%%")
    if field.annotation is bool:
        group.add_argument(flag, action=argparse.BooleanOptionalAction, help=text)
        return
    if field.default is not None:
        default = ",".join(map(str, field.default)) if isinstance(field.default, list) else field.default
        text += f" (default: {default})"
    group.add_argument(flag, metavar=_metavar(model, name), help=text)


def _metavar(model: type[BaseModel], name: str) -> str:
    words = {int: "N", float: "X", str: "NAME", Path: "PATH"}
    parts = []
    for kind in configuration.value_types(model, name):
        if get_origin(kind) is Literal:
            parts += [str(choice) for choice in get_args(kind)]
        else:
            listed = get_origin(kind) is list
            parts.append("{0},{0},...".format(words[item_type(kind)]) if listed else words[kind])
    return "|".join(parts)


def _typed(model: type[BaseModel], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options' values from what was typed."""
    return {name: _from_text(model, name, value) for name, value in options.items()}


def _from_text(model: type[BaseModel], name: str, text: Any) -> Any:
    """An option's value from what was typed; booleans are values already."""
    if not isinstance(text, str):
        return text
    if not text:  # as a path it would be the working directory
        said = f"--{name.replace('_', '-')} ''"
        raise ConfigError(
            f"{said}: must be {configuration.expects(model, name)}; leave it out for the default"
        )
    for kind in configuration.value_types(model, name):
        try:
            if get_origin(kind) is Literal:
                return next(choice for choice in get_args(kind) if str(choice) == text)
            if get_origin(kind) is list:
                return [item_type(kind)(part) for part in text.split(",")]
            return kind(text)
        except (ValueError, StopIteration):
            continue
    raise ConfigError(f"--{name.replace('_', '-')} {text}: must be {configuration.expects(model, name)}")
