"""Whether the installed vLLM has all that this project relies on: its symbols decide, not its version."""

from __future__ import annotations

import pkgutil
from importlib import import_module, metadata

import patches
from harness.device import Kind
from harness.kernels import vllm_cpu, vllm_flash_attn, vllm_triton
from patches import TESTED_VERSIONS, PatchError, Symbol

TESTED = "; ".join(f"{name} {', '.join(versions)}" for name, versions in TESTED_VERSIONS.items())


def needs(kind: Kind) -> dict[str, tuple[Symbol, ...]]:
    """What is needed inside vLLM on this kind of device, by the file that needs it."""
    modules = [import_module(f"patches.{module.name}") for module in pkgutil.iter_modules(patches.__path__)]
    modules += [vllm_cpu] if kind == "cpu" else [vllm_flash_attn, vllm_triton]
    names = ("NEEDS", "NEEDS_ON_CUDA") if kind == "cuda" else ("NEEDS",)
    found = {
        module.__name__.replace(".", "/") + ".py": tuple(
            symbol for name in names for symbol in getattr(module, name, ())
        )
        for module in modules
    }
    return {file: symbols for file, symbols in found.items() if symbols}


def require(kind: Kind, *, longer_positions: bool) -> None:
    """Raise PatchError if vLLM does not load, or with all that it lacks.

    Args:
        longer_positions: the model's learned positions are to be extended.
    """
    try:
        import_module("vllm")
    except Exception as error:  # a build against another PyTorch fails in many ways
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise PatchError(f"vllm does not load ({first}); python -m harness doctor says what to do") from error
    lacking = [
        problem
        for file, symbols in needs(kind).items()
        if longer_positions or file != "patches/positions.py"
        for problem in patches.problems(symbols)
    ]
    if lacking:
        listed = "; ".join(dict.fromkeys(lacking))
        raise PatchError(f"{installed()} is not supported: {listed}. Tested are {TESTED}")


def installed() -> str:
    """Distribution and version of the installed vLLM, e.g. "vllm-cpu 0.32.0"."""
    for name in TESTED_VERSIONS:
        try:
            return f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            continue
    return "this vllm"


def untested() -> str | None:
    """A remark on a version that nobody ran this with, or None."""
    name, _, version = installed().partition(" ")
    if version.partition("+")[0] in TESTED_VERSIONS.get(name, ()):
        return None
    return f"{installed()} has every symbol that is needed, but is untested; tested are {TESTED}"
