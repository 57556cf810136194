"""The command that started a run, in a form to type again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from harness.config import engine_options
from harness.shipped import ROOT

CONSOLE_SCRIPT = "prefill-layout-harness"
# Options that change no figure.
NOT_REPRODUCED = ("output_dir", "overwrite", "resume", "tables", "print_json", "quiet")
MODULE, SCRIPT = ROOT / "harness" / "__main__.py", ROOT / "run_vllm_prefill.py"


def from_argv(argv: Sequence[str]) -> list[str] | None:
    """The words of the command, from `sys.argv`; None if the harness was called from Python."""
    program, *arguments = argv
    if Path(program).name == CONSOLE_SCRIPT:
        return [CONSOLE_SCRIPT, *arguments]
    if Path(program).resolve() == MODULE:
        return ["python", "-m", "harness", *arguments]
    if Path(program).resolve() == SCRIPT:
        return ["python", SCRIPT.name, *arguments]
    return None


def format_command(words: Sequence[str], options: Mapping[str, Any], model: type[BaseModel]) -> str:
    """A command with every non-default option, including those from a YAML file.

    Args:
        words: the beginning of the command.
        options: field name -> value.
        model: whose fields they are.
    """
    command = [*words]
    for name, value in options.items():
        field = model.model_fields.get(name)
        is_default = (
            field and value == field.default and name != "length"
        )  # its default depends on the device
        if value is None or name in NOT_REPRODUCED or is_default:
            continue
        if name == "length" and options.get("batch"):  # the batch implies it
            continue
        option = "--" + name.replace("_", "-")
        if isinstance(value, dict):
            command += [word for each in value.items() for word in engine_options.words(*each)]
        elif isinstance(value, bool):
            command.append(option if value else "--no-" + option[2:])
        else:
            command += [option, ",".join(map(_word, value if isinstance(value, list) else [value]))]
    return shlex.join(command)


def _word(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
