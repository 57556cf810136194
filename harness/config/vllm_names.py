"""Names that vLLM knows, read from its source because importing vllm takes seconds."""

from __future__ import annotations

import ast
import difflib
import importlib.util
from functools import cache
from importlib import metadata
from pathlib import Path

BACKENDS = "v1/attention/backends/registry.py", "AttentionBackendEnum"
LOAD_FORMATS = "model_executor/model_loader/__init__.py", "LoadFormats"
ENGINE_ARGS = "engine/arg_utils.py", "EngineArgs"


def unknown_backend(asked: str, name: str) -> str | None:
    """One line about an attention backend that vLLM lacks; None if it exists or cannot be determined.

    Args:
        asked: the option with what was written, e.g. "--attention-backend flash_atn".
        name: in capitals, as vLLM has it.
    """
    return _unknown(asked, name, backends(), "backend")


def unknown_load_format(asked: str, name: str) -> str | None:
    """The same for a load format, in lower case; None also where a plugin of vLLM may provide it."""
    return None if _plugins() else _unknown(asked, name, load_formats(), "load format")


def backends() -> tuple[str, ...]:
    """Attention backends as vLLM lists them; none if vLLM is not installed or lists them elsewhere."""
    assigned = [line for line in _class_body(*BACKENDS) if isinstance(line, ast.Assign)]
    return tuple(target.id for line in assigned for target in line.targets if isinstance(target, ast.Name))


def load_formats() -> tuple[str, ...]:
    """Load formats, likewise."""
    return tuple(map(str, _literal(*LOAD_FORMATS)))


def engine_args() -> dict[str, str]:
    """The engine's options as vLLM has them: name -> annotation, e.g. "bool" or "CacheDType | None"; none
    likewise.
    """
    fields = [line for line in _class_body(*ENGINE_ARGS) if isinstance(line, ast.AnnAssign)]
    named = {ast.unparse(line.target): ast.unparse(line.annotation).strip("'\"") for line in fields}
    return {name: annotation for name, annotation in named.items() if not name.startswith("_")}


def engine_arg_choices(name: str) -> tuple[str | int, ...]:
    """What an option of the engine may be, where its annotation is one of vLLM's lists of values; else
    nothing.
    """
    alias = engine_args()[name].removesuffix(" | None")
    for node in _source(ENGINE_ARGS[0]):  # from vllm.config.cache import CacheDType, ...
        if isinstance(node, ast.ImportFrom) and alias in [each.name for each in node.names]:
            return _literal(str(node.module).removeprefix("vllm.").replace(".", "/") + ".py", alias)
    return ()


def _class_body(file: str, name: str) -> list[ast.stmt]:
    """The statements of a class in a module of vLLM's; none if it is not there."""
    bodies = [node.body for node in _source(file) if isinstance(node, ast.ClassDef) and node.name == name]
    return [line for body in bodies for line in body]


def _literal(file: str, name: str) -> tuple[str | int, ...]:
    """The values of `name = Literal["...", ...]` in a module of vLLM's; none if it is anything else."""
    for node in _source(file):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            if not (isinstance(node.value, ast.Subscript) and ast.unparse(node.value.value) == "Literal"):
                return ()
            inside = node.value.slice
            parts = inside.elts if isinstance(inside, ast.Tuple) else [inside]
            values = [part.value for part in parts if isinstance(part, ast.Constant)]
            plain = [value for value in values if isinstance(value, (str, int))]
            return tuple(plain) if len(plain) == len(parts) else ()
    return ()


@cache
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


def _unknown(asked: str, name: str, listed: tuple[str, ...], what: str) -> str | None:
    if not listed or name in listed:
        return None
    near = ", ".join(difflib.get_close_matches(name, listed, 3, cutoff=0))
    return f"{asked}: vLLM has no such {what}; take one of the nearest, {near}, or leave it out"
