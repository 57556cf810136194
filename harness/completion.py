"""Completion of commands, options and their values in a shell: a script made from the parsers."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

SCRIPT = """\
# bash: eval "$({prog} completion)"; zsh: autoload -U bashcompinit && bashcompinit first
_prefill_layout_harness() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}"
  local command="${{COMP_WORDS[1]}}" words=""
  (( COMP_CWORD == 1 )) && command=""
  case "$command $before" in
{values}
    *) case "$command" in
{options}
      *) words="{commands}" ;;
    esac ;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "$current"))
  (( ${{#COMPREPLY[@]}} )) || COMPREPLY=($(compgen -f -- "$current"))
}}
complete -o filenames -F _prefill_layout_harness {prog}
"""


def script(prog: str, commands: Mapping[str, argparse.ArgumentParser]) -> str:
    """A script for bash, and for zsh with its bashcompinit."""
    values = [
        f'    "{name} {flag}") words="{" ".join(_choices(action))}" ;;'
        for name, parser in commands.items()
        for action in parser._actions
        if _choices(action)
        for flag in action.option_strings
    ]
    options = [
        f'      {name}) words="{" ".join(_flags(parser))}" ;;'
        for name, parser in commands.items()
        if _flags(parser)
    ]
    parts = {"values": "\n".join(values), "options": "\n".join(options)}
    return SCRIPT.format(prog=prog, commands=" ".join(commands), **parts)


def _flags(parser: argparse.ArgumentParser) -> list[str]:
    shown = [action for action in parser._actions if action.help != argparse.SUPPRESS]
    return [flag for action in shown for flag in action.option_strings if flag.startswith("--")]


def _choices(action: argparse.Action) -> list[str]:
    """The values that an option can have, where they are few."""
    if action.choices:
        return [str(choice) for choice in action.choices]
    parts = action.metavar.split("|") if isinstance(action.metavar, str) else []
    return [] if len(parts) < 2 else [part for part in parts if not part.isupper()]
