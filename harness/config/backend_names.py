"""The names of vLLM's attention backends, read from its source: importing vllm takes seconds."""

from __future__ import annotations

import ast
import difflib
import importlib.util
from pathlib import Path

REGISTRY = "v1/attention/backends/registry.py"  # inside the package
ENUM = "AttentionBackendEnum"


def known() -> tuple[str, ...]:
    """As vLLM lists them; none if it is not installed, or lists them elsewhere."""
    spec = importlib.util.find_spec("vllm")
    if spec is None or spec.origin is None:
        return ()
    try:
        tree = ast.parse((Path(spec.origin).parent / REGISTRY).read_text(encoding="utf-8"))
    except (OSError, SyntaxError):
        return ()
    members = [node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == ENUM]
    assigned = [line for body in members for line in body if isinstance(line, ast.Assign)]
    return tuple(target.id for line in assigned for target in line.targets if isinstance(target, ast.Name))


def problem(said: str, name: str) -> str | None:
    """A line on a name that vLLM does not know; None where it does, or what it knows cannot be found out.

    Args:
        said: the option with what was written, e.g. "--attention-backend flash_atn".
        name: in capitals, as vLLM has it.
    """
    listed = known()
    if not listed or name in listed:
        return None
    near = ", ".join(difflib.get_close_matches(name, listed, 3, cutoff=0))
    return f"{said}: vLLM has no such backend; take one of the nearest, {near}, or leave it out"
