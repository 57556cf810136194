"""KV caches of 8-bit floats, into which the cache write converts: what vLLM calls them and stores."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from harness.calls.capture import AttentionCall
from harness.kernels.protocol import Unsupported

CACHE_DTYPE = torch.uint8  # vLLM's caches of 8-bit floats are bytes


@dataclass(frozen=True)
class Float8:
    """One of vLLM's cache types, with one scale for the whole of K and one for V."""

    dtype: torch.dtype
    step: float  # of its mantissa: no value is off by more, whether it was rounded or cut off


FLOAT8 = {
    "fp8": Float8(torch.float8_e4m3fn, 2**-3),
    "fp8_e4m3": Float8(torch.float8_e4m3fn, 2**-3),
    "fp8_e5m2": Float8(torch.float8_e5m2, 2**-2),
}


def of_call(call: AttentionCall) -> Float8:
    """The type of the call's cache. Raises Unsupported if that is none of FLOAT8."""
    if call.kv_cache_dtype not in FLOAT8:
        raise Unsupported(
            f"the cache write of a {call.kv_cache_dtype} cache ({call.cache_dtype}) is not replayed; "
            f"those of {', '.join(FLOAT8)} are"
        )
    return FLOAT8[call.kv_cache_dtype]


def writer_dtype(call: AttentionCall, cache: torch.Tensor) -> str:
    """What vLLM's writers are told to store in `cache`: "auto" for K and V as they are."""
    return "auto" if cache.dtype == call.key.dtype else call.kv_cache_dtype
