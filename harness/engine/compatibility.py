"""Whether the installed vLLM has everything that this project relies on: symbols decide, not the version."""

from __future__ import annotations

import pkgutil
from importlib import import_module

import patches
from harness.device import Kind
from harness.kernels import vllm_cpu, vllm_flash_attn, vllm_triton
from harness.units import first_line
from patches import TESTED, PatchError, Symbol


def needs(kind: Kind) -> dict[str, tuple[Symbol, ...]]:
    """The symbols needed in vLLM on this kind of device, by the module that needs them."""
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
    """Raise PatchError if vLLM does not load or lacks something; the message names everything missing.

    Args:
        longer_positions: whether the model's learned positions will be extended.
    """
    try:
        import_module("vllm")
    except Exception as error:  # a build against another PyTorch fails in many ways
        raise PatchError(
            f"vllm does not load ({first_line(error)}); python -m harness doctor says what to do"
        ) from error
    lacking = [
        problem
        for file, symbols in needs(kind).items()
        if longer_positions or file != "patches/positions.py"
        for problem in patches.problems(symbols)
    ]
    if lacking:
        listed = "; ".join(dict.fromkeys(lacking))
        version = patches.installed_vllm() or "this vllm"
        raise PatchError(f"{version} is not supported: {listed}. Tested are {TESTED}")
