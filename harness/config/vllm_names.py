"""Names that vLLM knows, read from its source because importing vllm takes seconds."""

from __future__ import annotations

import ast
import difflib
import importlib.util
from importlib import metadata
from pathlib import Path

BACKENDS = "v1/attention/backends/registry.py", "AttentionBackendEnum"
LOAD_FORMATS = "model_executor/model_loader/__init__.py", "LoadFormats"


def unknown_backend(said: str, name: str) -> str | None:
    """One line about an attention backend that vLLM lacks; None if it exists or cannot be determined.

    Args:
        said: the option with what was written, e.g. "--attention-backend flash_atn".
        name: in capitals, as vLLM has it.
    """
    return _unknown(said, name, backends(), "backend")


def unknown_load_format(said: str, name: str) -> str | None:
    """The same for a load format, in lower case; None also where a plugin of vLLM may provide it."""
    return None if _plugins() else _unknown(said, name, load_formats(), "load format")


def backends() -> tuple[str, ...]:
    """Attention backends as vLLM lists them; none if vLLM is not installed or lists them elsewhere."""
    file, enum = BACKENDS
    members = [node.body for node in _source(file) if isinstance(node, ast.ClassDef) and node.name == enum]
    assigned = [line for body in members for line in body if isinstance(line, ast.Assign)]
    return tuple(target.id for line in assigned for target in line.targets if isinstance(target, ast.Name))


def load_formats() -> tuple[str, ...]:
    """Load formats, likewise."""
    file, listed = LOAD_FORMATS
    for node in _source(file):  # LoadFormats = Literal["auto", ...]
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == listed:
            strings = [part.value for part in ast.walk(node.value) if isinstance(part, ast.Constant)]
            return tuple(map(str, strings))
    return ()


def _source(file: str) -> list[ast.stmt]:
    """The statements of a module of vLLM's; none if it is not there."""
    spec = importlib.util.find_spec("vllm")
    if spec is None or spec.origin is None:
        return []
    try:
        return ast.parse((Path(spec.origin).parent / file).read_text(encoding="utf-8")).body
    except (OSError, SyntaxError):
        return []


def _plugins() -> bool:
    """Whether vLLM loads plugins from other packages, which may register more names."""
    plugins = metadata.entry_points(group="vllm.general_plugins")
    return any(not plugin.module.startswith("vllm.") for plugin in plugins)


def _unknown(said: str, name: str, listed: tuple[str, ...], what: str) -> str | None:
    if not listed or name in listed:
        return None
    near = ", ".join(difflib.get_close_matches(name, listed, 3, cutoff=0))
    return f"{said}: vLLM has no such {what}; take one of the nearest, {near}, or leave it out"
