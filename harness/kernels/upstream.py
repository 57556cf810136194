"""What the three functions of the upstream flash-attn package have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib import metadata
from typing import Any

import torch

from harness.capture import AttentionCall
from harness.kernels.protocol import Unsupported
from harness.kernels.support import Feature, Package, Sizes, Support, load, unavailable

PACKAGE = Package(
    "flash_attn",
    "pip install --no-build-isolation flash-attn==2.8.3 (after torch; takes minutes to over an hour)",
)
# Of flash-attn 2.8.3; `support` says what a build has left out.
_LACKING = {Feature.PAGED, Feature.SINKS, Feature.RAGGED}
SUPPORT = Support(
    features=frozenset(set(Feature) - _LACKING),
    dtypes=("float16", "bfloat16"),
    head_sizes=Sizes(multiple_of=8, largest=256),
    package=PACKAGE,
    because={Feature.RAGGED: "requests of different lengths: this function takes equal ones only"},
)
# What builds can be made without (FLASHATTENTION_DISABLE_*), and how to ask for it.
_OPTIONS: dict[Feature, dict[str, Any]] = {
    Feature.SOFTCAP: {"softcap": 1.0},
    Feature.ALIBI: {"alibi": True},
    Feature.WINDOW: {"window_size": (0, 0)},
    Feature.SYMMETRIC: {"window_size": (0, 0)},
    Feature.LOPSIDED: {"window_size": (0, 0)},
}
_KERNEL_SIZES = (32, 64, 96, 128, 192, 256)  # head sizes that kernels are compiled for; others are padded


@cache
def support() -> Support:
    """What the installed build takes, as calls with one token tell; the package's own list without a GPU.

    A version does not tell: builds leave out features and head sizes to compile in less time.
    """
    if unavailable(SUPPORT, "cuda"):
        return SUPPORT
    try:
        attention = function("flash_attn_func")
    except Unsupported:
        return SUPPORT
    largest = max((size for size in _KERNEL_SIZES if _refusal(attention, size) is None), default=0)
    if not largest:  # it takes nothing: whoever calls it is told so
        return SUPPORT
    padded = _refusal(attention, largest - 8) is None
    refused = {feature: _refusal(attention, largest, **option) for feature, option in _OPTIONS.items()}
    left_out = {
        feature: f"{feature.value}: {provider()} was built without it ({reason})"
        for feature, reason in refused.items()
        if reason
    }
    return replace(
        SUPPORT,
        features=SUPPORT.features - left_out.keys(),
        head_sizes=Sizes(multiple_of=8 if padded else 32, largest=largest),
        because=SUPPORT.because | left_out,
    )


def _refusal(
    attention: Callable[..., torch.Tensor], head_dim: int, alibi: bool = False, **option: Any
) -> str | None:
    """Why the build does not attend one token to itself, which gives V whatever the options; or None."""
    query, key, value = torch.randn(3, 1, 1, 1, head_dim, dtype=torch.bfloat16, device="cuda")
    if alibi:
        option["alibi_slopes"] = torch.ones(1, device="cuda")
    try:
        output = attention(query, key, value, **option)
    except RuntimeError as error:
        return (str(error).strip().splitlines() or ["it fails"])[0]
    return None if torch.equal(output, value) else "its output is wrong"


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
