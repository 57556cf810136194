"""Whether the installed vLLM has what this project relies on: symbols decide, not the version."""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass
from importlib import import_module

import patches
from harness.device import Kind
from harness.kernels import vllm_cpu, vllm_flash_attn, vllm_triton
from harness.units import first_line
from patches import TESTED, PatchError, Symbol


@dataclass(frozen=True)
class Reliance:
    """What one module relies on inside vLLM."""

    file: str
    feature: str | None  # that a vLLM without these symbols lacks; None: it cannot be used at all
    symbols: tuple[Symbol, ...]

    def problems(self) -> list[str]:
        """Symbols that moved or changed their parameters."""
        return patches.problems(self.symbols)


def reliances(kind: Kind) -> list[Reliance]:
    """All modules that rely on symbols of vLLM on this kind of device."""
    modules = [import_module(f"patches.{module.name}") for module in pkgutil.iter_modules(patches.__path__)]
    modules += [vllm_cpu] if kind == "cpu" else [vllm_flash_attn, vllm_triton]
    names = ("NEEDS", "NEEDS_ON_CUDA") if kind == "cuda" else ("NEEDS",)
    all_of_them = [
        Reliance(
            module.__name__.replace(".", "/") + ".py",
            getattr(module, "FEATURE", None),
            tuple(symbol for name in names for symbol in getattr(module, name, ())),
        )
        for module in modules
    ]
    return [reliance for reliance in all_of_them if reliance.symbols]


def why_not(kind: Kind, feature: str | None) -> str | None:
    """Why the installed vLLM lacks a feature (None: what every run needs), or None if it has it."""
    lacking = [
        problem
        for reliance in reliances(kind)
        if reliance.feature == feature
        for problem in reliance.problems()
    ]
    return "; ".join(dict.fromkeys(lacking)) or None


def require(kind: Kind, features: list[str]) -> None:
    """Raise PatchError if vLLM does not load, or lacks what every run or one of these features needs.

    Args:
        features: `FEATURE`s of the modules that the run goes through; the message names everything missing.
    """
    try:
        import_module("vllm")
    except Exception as error:  # a build against another PyTorch fails in many ways
        raise PatchError(
            f"vllm does not load ({first_line(error)}); python -m harness doctor says what to do"
        ) from error
    missing = {feature: reason for feature in (None, *features) if (reason := why_not(kind, feature))}
    if missing:
        version = patches.installed_vllm() or "this vllm"
        only = "" if None in missing else f" for {' and '.join(filter(None, missing))}"
        reasons = "; ".join(dict.fromkeys(missing.values()))
        raise PatchError(f"{version} is not supported{only}: {reasons}. Tested are {TESTED}")
