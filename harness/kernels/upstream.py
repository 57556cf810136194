"""What the three functions of the upstream flash-attn package have in common."""

from __future__ import annotations

from importlib import metadata
from typing import Any

import torch

from harness.capture import AttentionCall
from harness.kernels.support import Feature, Package, Sizes, Support, load

PACKAGE = Package(
    "flash_attn",
    "pip install --no-build-isolation flash-attn==2.8.3 (after torch; takes minutes to over an hour)",
)
# Of flash-attn 2.8.3; a build may leave out more (FLASHATTENTION_DISABLE_*) and says so when called.
_LACKING = {Feature.PAGED, Feature.SINKS, Feature.RAGGED}
SUPPORT = Support(
    features=frozenset(set(Feature) - _LACKING),
    dtypes=("float16", "bfloat16"),
    head_sizes=Sizes(multiple_of=8, largest=256),
    package=PACKAGE,
    because={Feature.RAGGED: "requests of different lengths: this function takes equal ones only"},
)


def provider() -> str:
    """ "flash-attn" with its version, where it is installed."""
    try:
        return f"flash-attn {metadata.version('flash-attn')}"
    except metadata.PackageNotFoundError:
        return "flash-attn"


def function(name: str) -> Any:
    """flash_attn's function `name`; raises Unsupported if the package is missing or does not load."""
    return getattr(load(PACKAGE), name)


def arguments(call: AttentionCall) -> dict[str, Any]:
    """Keyword arguments that all three functions take."""
    return {
        "softmax_scale": call.scale,
        "causal": call.causal,
        "window_size": call.sliding_window,
        "softcap": call.softcap,
        "alibi_slopes": call.alibi_slopes,
    }


def by_request(call: AttentionCall, tensor: torch.Tensor) -> torch.Tensor:
    """[tokens, ...] of requests of equal lengths as a view [requests, tokens a request, ...]."""
    return tensor.unflatten(0, (call.num_requests, -1))
