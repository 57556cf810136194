"""What the three functions of the upstream flash-attn package have in common."""

from __future__ import annotations

from importlib import import_module, metadata
from typing import Any

import torch

from harness.capture import AttentionCall
from harness.kernels import Unsupported

HOW_TO_GET = "pip install --no-build-isolation flash-attn==2.8.3 (after torch; takes minutes to over an hour)"


def provider() -> str:
    """ "flash-attn" with its version, where it is installed."""
    try:
        return f"flash-attn {metadata.version('flash-attn')}"
    except metadata.PackageNotFoundError:
        return "flash-attn"


def function(name: str) -> Any:
    """flash_attn's function `name`; raises Unsupported if the package is missing or does not load."""
    try:
        return getattr(import_module("flash_attn"), name)
    except Exception as error:  # a build against another torch fails with OSError or ImportError
        raise Unsupported(f"flash-attn cannot be loaded ({error}); to get it: {HOW_TO_GET}") from error


def arguments(call: AttentionCall) -> dict[str, Any]:
    """Keyword arguments all three functions take; raises Unsupported for what flash-attn 2 lacks."""
    if call.num_requests != 1:
        raise Unsupported(
            f"{call.num_requests} requests in one call: these functions take equal lengths only"
        )
    if call.query.dtype not in (torch.float16, torch.bfloat16):
        raise Unsupported(f"flash-attn takes float16 and bfloat16, not {call.query.dtype}")
    if call.sinks is not None:
        raise Unsupported("flash-attn 2 has no attention sinks")
    return {
        "softmax_scale": call.scale,
        "causal": call.causal,
        "window_size": call.sliding_window,
        "softcap": call.softcap,
        "alibi_slopes": call.alibi_slopes,
    }


def no_block_table(name: str) -> Unsupported:
    """The reason why a function can only run on a gathered copy."""
    return Unsupported(f"{name} takes no block table")
