"""Common to the three functions of the upstream flash-attn package."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib import metadata
from typing import Any

import torch

from harness.calls.capture import AttentionCall
from harness.kernels import reference
from harness.kernels.protocol import Unsupported
from harness.kernels.support import Feature, Package, Sizes, Support, load, unavailable
from harness.units import first_line

PACKAGE = Package(
    "flash_attn",
    "pip install --no-build-isolation flash-attn==2.8.3 (after torch; takes minutes to over an hour)",
)
_HEAD_SIZES = range(8, 257, 8)
# For flash-attn 2.8.3; `support` finds out what a build left out.
_LACKING = {Feature.PAGED, Feature.SINKS, Feature.RAGGED}
SUPPORT = Support(
    features=frozenset(set(Feature) - _LACKING),
    dtypes=("float16", "bfloat16"),
    head_sizes=Sizes(multiple_of=_HEAD_SIZES.step, largest=_HEAD_SIZES[-1]),
    package=PACKAGE,
    because={Feature.RAGGED: "requests of different lengths: this function needs equal lengths"},
)
# Features that builds can leave out (FLASHATTENTION_DISABLE_*), and arguments that use them.
_OPTIONS: dict[Feature, dict[str, Any]] = {
    Feature.SOFTCAP: {"softcap": 1.0},
    Feature.ALIBI: {"alibi_slopes": 0.5},
    Feature.WINDOW: {"causal": True, "window_size": (3, 0)},
    Feature.SYMMETRIC: {"window_size": (3, 3)},
    Feature.LOPSIDED: {"window_size": (3, 1)},
}
_PROBE_TOKENS = 300  # a few times what a kernel processes at once


@cache
def support() -> Support:
    """What the installed build supports, tested by small calls with known answers; everything without a GPU.

    The version is not enough: builds leave out features and head sizes to compile faster, and then refuse a
    call or silently ignore the feature.
    """
    if unavailable(SUPPORT, "cuda"):
        return SUPPORT
    try:
        attention = function("flash_attn_func")
    except Unsupported:
        return SUPPORT
    right = tuple(size for size in _HEAD_SIZES if _objection(attention, size) is None)
    if not right:  # it supports nothing; calling it raises
        return SUPPORT
    objections = {feature: _objection(attention, right[-1], **option) for feature, option in _OPTIONS.items()}
    left_out = {
        feature: f"{feature.value}: {provider()} was built without it ({objection})"
        for feature, objection in objections.items()
        if objection
    }
    return replace(
        SUPPORT,
        features=SUPPORT.features - left_out.keys(),
        head_sizes=SUPPORT.head_sizes if right == tuple(_HEAD_SIZES) else Sizes(only=right),
        because=SUPPORT.because | left_out,
    )


def _objection(
    attention: Callable[..., torch.Tensor],
    head_dim: int,
    *,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: float | None = None,
) -> str | None:
    """Why the build's answer to a small call with one head is missing or wrong, or None."""
    device, dtype = "cuda", torch.bfloat16
    generator = torch.Generator(device=device).manual_seed(0)
    shape = (3, 1, _PROBE_TOKENS, 1, head_dim)
    query, key, value = torch.randn(shape, generator=generator, device=device).to(dtype)
    slopes = None if alibi_slopes is None else torch.tensor([alibi_slopes], device=device)
    options = {"causal": causal, "window_size": window_size, "softcap": softcap, "alibi_slopes": slopes}
    try:
        output = attention(query, key, value, **options)
    except RuntimeError as error:
        return first_line(error)
    positions = torch.arange(_PROBE_TOKENS, device=device)
    hidden, distance = reference.mask(positions, _PROBE_TOKENS, causal, window_size)
    expected = reference.attend(
        query[0],
        key[0, :, 0],
        value[0, :, 0],
        hidden,
        distance,
        scale=head_dim**-0.5,
        softcap=softcap,
        slopes=slopes,
    )
    error_ratio = float((output[0].float() - expected).norm() / expected.norm())
    return None if error_ratio < reference.TOLERANCE[dtype] else "its output is wrong"


def provider() -> str:
    """ "flash-attn", with its version if it is installed."""
    try:
        return f"flash-attn {metadata.version('flash-attn')}"
    except metadata.PackageNotFoundError:
        return "flash-attn"


def function(name: str) -> Any:
    """flash_attn's function `name`; raises Unsupported if the package is missing or does not load."""
    return getattr(load(PACKAGE), name)


def arguments(call: AttentionCall) -> dict[str, Any]:
    """Keyword arguments common to all three functions."""
    return {
        "softmax_scale": call.scale,
        "causal": call.causal,
        "window_size": call.sliding_window,
        "softcap": call.softcap,
        "alibi_slopes": call.alibi_slopes,
    }


def by_request(call: AttentionCall, tensor: torch.Tensor) -> torch.Tensor:
    """[tokens, ...] of requests of equal lengths as a view [requests, tokens per request, ...]."""
    return tensor.unflatten(0, (call.num_requests, -1))
