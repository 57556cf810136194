"""Run an experiment from its options, which are checked before heavy imports."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from harness import config as configuration
from harness import device, interrupts
from harness.config import Common, ConfigError, checks
from harness.config.fields import Model
from harness.experiments import EXPERIMENTS, Experiment
from harness.models import ModelSource
from harness.runs import lock, resume
from harness.runs.command import format_command
from harness.runs.store import RunDirectory
from harness.runs.writing import explain_os_error
from harness.stack import with_room
from harness.terminal import show


class RunFailed(Exception):
    """A run ended early or measured nothing; the message gives the full reason."""


@with_room
def run(name: str, options: Mapping[str, Any], config_file: Path | None = None) -> Path:
    """Check an experiment's options against device, files and model, run it, and return the run's directory.

    Args:
        name: of EXPERIMENTS.
        options: values of its configuration's fields; they override the file's.

    Raises:
        ConfigError: they are invalid; nothing was run.
        RunFailed: it ended early or measured nothing; what was measured is in the directory.
        Interrupted: Ctrl-C or a signal ended it; what was measured is in the directory.
    """
    experiment = EXPERIMENTS[name]
    config = _resolve(experiment, options, config_file, device.kind())
    assert config.output_dir is not None
    lock.refuse_if_held(config.output_dir)
    if config.resume:
        resume.check(config)
        if resume.lacks_only_its_report(RunDirectory(config.output_dir)):
            return _report(config)
    else:
        RunDirectory(config.output_dir).removable(config.overwrite)  # refuses others' files
    with interrupts.caught(), _input_errors():
        source = _find_model(experiment, config, device.kind())  # before importing vllm
        with interrupts.deferred():
            job = import_module(experiment.job).run
        interrupts.check()
        with _known_failures():
            if configuration.load(experiment.config, options, config_file).output_dir is None:
                config = config.model_copy(update={"output_dir": claim(config.output_dir)})
            job(config, source)
    assert config.output_dir is not None
    return config.output_dir


def claim(path: Path) -> Path:
    """Make a directory that nothing has yet: of this name, or with -2, -3, ... after it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        mine = path if number == 1 else path.with_name(f"{path.name}-{number}")
        try:
            mine.mkdir()
        except FileExistsError:
            continue
        return mine
    raise AssertionError


def _report(config: Common) -> Path:
    """Write the report of a run that was ended while it wrote it."""
    from harness.experiments import views
    from harness.report.screen import Screen

    assert config.output_dir is not None
    run = RunDirectory(config.output_dir)
    show(Screen(config.tables, config.print_json, config.quiet).format(views.write(run), run))
    return run.path


def check(
    name: str, options: Mapping[str, Any], kind: device.Kind, config_file: Path | None = None
) -> Common:
    """An experiment's configuration, checked as for a run, except for --resume; raises ConfigError.

    Args:
        name: of EXPERIMENTS.
        options: values of its configuration's fields; they override the file's.
        kind: of the device to run on.
    """
    experiment = EXPERIMENTS[name]
    config = _resolve(experiment, options, config_file, kind)
    with _input_errors():
        _find_model(experiment, config, kind)
    return config


def plan(name: str, options: Mapping[str, Any], config_file: Path | None = None) -> str:
    """What a run with these options would measure, where, and for how long; nothing heavy is imported.

    Raises ConfigError as `run` does.
    """
    experiment, kind = EXPERIMENTS[name], device.kind()
    config = check(name, options, kind, config_file)
    assert config.max_seconds is not None
    time = f"{config.repeats} rounds" if config.repeats else f"{config.max_seconds:g} s (--max-seconds)"
    if experiment.limits_starts:
        time += ", the starts of engines included"
    elif isinstance(config, Model):
        time += "; each engine takes about a minute more to start and to be checked"
    lines = [
        f"{name}: {experiment.question}",
        f"device: {device.describe()['name']}",
        *([f"model: {config.model}"] if isinstance(config, Model) else []),
        *experiment.plan(config),
        f"sampling: {time}",
        f"output: {config.output_dir}",
        "command: " + format_command(["python", "-m", "harness", name], config.model_dump(), type(config)),
    ]
    return "\n".join(lines)


def _resolve(
    experiment: Experiment, options: Mapping[str, Any], config_file: Path | None, kind: device.Kind
) -> Common:
    config = configuration.load(experiment.config, options, config_file)
    return experiment.resolve(experiment.adapt(config, options) if experiment.adapt else config, kind)


def _find_model(experiment: Experiment, config: Common, kind: device.Kind) -> ModelSource | None:
    source = experiment.find_model(config) if experiment.find_model else None
    if source:
        checks.require_head_size(source, kind)
    return source


@contextmanager
def _input_errors() -> Iterator[None]:
    """Turn errors about models and prompts into ConfigErrors."""
    from harness import models, prompt

    try:
        yield
    except (models.ModelError, prompt.PromptError) as error:
        raise ConfigError(str(error)) from error


@contextmanager
def _known_failures() -> Iterator[None]:
    """Turn failures whose message is sufficient into RunFailed; imports torch."""
    from harness.calls.capture import CaptureError
    from harness.engine.options import EngineError
    from harness.engine.ranks import RankDied
    from harness.layout import LayoutError
    from harness.running.recorder import NothingMeasured, ReportFailed
    from patches import PatchError

    try:
        yield
    except (
        CaptureError,
        EngineError,
        LayoutError,
        NothingMeasured,
        PatchError,
        RankDied,
        ReportFailed,
    ) as error:
        raise RunFailed(str(error)) from error
    except OSError as error:
        if (text := explain_os_error(error)) is None:
            raise
        raise RunFailed(f"{text}; what was measured before is kept") from error
