"""The command line: a configuration's fields as options, checked before anything heavy is imported."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin

from pydantic import BaseModel

from harness import config as configuration
from harness import device
from harness.config import ConfigError, engine_options, former_options
from harness.config.errors import nearest
from harness.config.loading import item_type

OK, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
PASSED_ON = "any other engine option of vLLM's, e.g. --kv-cache-dtype fp8, is passed on to it"


class Parser(argparse.ArgumentParser):
    """An argument parser that raises ConfigErrors and suggests the nearest option for an unknown one.

    Where `passes_on`, vLLM's own engine options are known, too, and collected into `engine_options`.
    """

    passes_on = False

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; --help lists the options")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Like argparse's, but an unknown argument is an error right away."""
        known, unknown = super().parse_known_args(args, namespace)
        options = [option for option in self._option_string_actions if option.startswith("--")]
        if unknown and self.passes_on:
            known.engine_options = engine_options.parse(unknown, options)
        elif unknown:
            near = nearest(unknown[0].partition("=")[0], options)
            hint = near if unknown[0].startswith("-") else "options begin with --"
            raise ConfigError(f"{unknown[0]}: unknown argument; {hint}")
        return known, []


def add_options(parser: Parser, model: type[BaseModel], groups: Mapping[str, Sequence[str]]) -> None:
    """Add --config and, in `groups` (title -> field names), an option for each field of the model.

    `engine_options` has none: vLLM's own options are its keys.
    """
    parser.passes_on = "engine_options" in model.model_fields
    parser.add_argument(
        "--config", type=Path, metavar="YAML", help="options from a file, e.g. configs/cpu-smoke.yaml"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print what would be measured, and for how long, and end"
    )
    for title, names in groups.items():
        group = parser.add_argument_group(title, PASSED_ON if "vLLM's" in title else None)
        for name in names:
            _add_option(group, model, name)


def add_version(parser: argparse.ArgumentParser) -> None:
    """Add --version, which prints the harness's."""
    version = f"prefill-layout-harness {device.harness_version()}"
    parser.add_argument("--version", action="version", version=version, help="print the harness's version")


def add_explain(parser: argparse.ArgumentParser) -> None:
    """Add --explain, of every command that prints verdicts."""
    parser.add_argument(
        "--explain",
        action="store_true",
        help="print why each verdict: a reason code, the figures it rests on, and what would decide it",
    )


def _add_option(group: argparse._ArgumentGroup, model: type[BaseModel], name: str) -> None:
    field = model.model_fields[name]
    flags, text = former_options.flags(name), (field.description or "").replace("%", "%%")
    if field.annotation is bool:
        text += f" (default: {'yes' if field.default else 'no'})"
        group.add_argument(*flags, dest=name, action=argparse.BooleanOptionalAction, help=text)
        return
    if field.default is not None:
        default = ",".join(map(str, field.default)) if isinstance(field.default, list) else field.default
        text += f" (default: {default})"
    elif "(default: " not in text:
        text += " (default: none)"
    group.add_argument(*flags, dest=name, metavar=_metavar(model, name), help=text)
    if former := former_options.former_flags(name):
        group.add_argument(*former, dest=name, help=argparse.SUPPRESS)


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


def parse_options(model: type[BaseModel], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options' values, parsed from their text."""
    return {name: _from_text(model, name, value) for name, value in options.items()}


def _from_text(model: type[BaseModel], name: str, text: Any) -> Any:
    """An option's value, parsed from its text; booleans are values already."""
    if not isinstance(text, str):
        return text
    if not text:  # as a path it would be the working directory
        option = f"--{name.replace('_', '-')} ''"
        raise ConfigError(
            f"{option}: must be {configuration.expects(model, name)}; leave it out for the default"
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
