"""How much work a call is: its floating-point operations and its least memory traffic."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from harness.runs.schema import RunRecord
from harness.units import ELEMENT_BYTES

NO_WINDOW = (-1, -1)
GATHERED_TENSORS = {"flash_attn_func": 2, "flash_attn_qkvpacked_func": 3}  # see gather_bytes


def attention_flops(
    query_lens: Sequence[int],
    kv_lens: Sequence[int],
    num_heads: int,
    head_dim: int,
    causal: bool = True,
    sliding_window: tuple[int, int] = NO_WINDOW,
) -> float:
    """Floating-point operations of attention: 4 * num_heads * head_dim for each query and key it sees.

    Q K^T takes head_dim multiplications and as many additions a pair, P V the same again; the softmax is not
    counted, as is usual. A request's queries are its last tokens: query i is at p = keys - queries + i. It
    sees the keys within sliding_window = (left, right) of it, p - left .. p + right, where -1 is no limit;
    causal means right = 0. Without a window, one request of n tokens has n (n + 1) / 2 causal pairs.

    Args:
        query_lens, kv_lens: tokens of each request.
    """
    left, right = sliding_window
    pairs = sum(
        _visible_pairs(queries, keys, left, 0 if causal else right)
        for queries, keys in zip(query_lens, kv_lens, strict=True)
    )
    return 4.0 * num_heads * head_dim * pairs


@lru_cache(maxsize=256)
def _visible_pairs(queries: int, keys: int, left: int, right: int) -> int:
    positions = np.arange(keys - queries, keys, dtype=np.int64)
    first = np.maximum(positions - left, 0) if left >= 0 else np.zeros_like(positions)
    last = np.minimum(positions + right, keys - 1) if right >= 0 else np.full_like(positions, keys - 1)
    return int(np.maximum(last - first + 1, 0).sum())


def attention_bytes(
    query_lens: Sequence[int],
    kv_lens: Sequence[int],
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    element_bytes: int,
) -> float:
    """The least memory traffic of attention: Q, K and V read once, the output written once.

    element_bytes * head_dim * (2 * queries * num_heads + 2 * keys * num_kv_heads), over all requests. A cache
    too small for K and V increases it; a window whose keys no query sees reduces it.
    """
    values = 2 * sum(query_lens) * num_heads + 2 * sum(kv_lens) * num_kv_heads
    return float(values * head_dim * element_bytes)


def gather_bytes(
    kv_lens: Sequence[int], num_kv_heads: int, head_dim: int, element_bytes: int, tensors: int = 2
) -> float:
    """Memory traffic of a gather: each value read once and written once.

    2 * tensors * tokens * num_kv_heads * head_dim * element_bytes.

    Args:
        tensors: 2 for K and V; 3 where Q, of as many heads, is packed with them.
    """
    return float(2 * tensors * sum(kv_lens) * num_kv_heads * head_dim * element_bytes)


def gather_gbps(record: RunRecord, kernel: str, microseconds: float | None) -> float | None:
    """The bandwidth of the gather that a kernel needs, over all prompts; None: not measured or known."""
    shape = _Shape.of(record)
    if not microseconds or shape is None or kernel not in GATHERED_TENSORS:
        return None
    moved = gather_bytes(
        shape.lengths, shape.num_kv_heads, shape.head_dim, shape.element_bytes, GATHERED_TENSORS[kernel]
    )
    return moved / microseconds / 1e3


@dataclass(frozen=True)
class _Shape:
    """What attention works on."""

    lengths: list[int]  # tokens of each prompt
    num_heads: int
    num_kv_heads: int
    head_dim: int
    element_bytes: int

    @classmethod
    def of(cls, record: RunRecord) -> _Shape | None:
        """A run's; None if its record does not have all of it."""
        model, lengths = record.model, [request.length for request in record.prompts]
        size = ELEMENT_BYTES.get(str(model.dtype).removeprefix("torch."))
        if not (lengths and size and model.num_heads and model.num_kv_heads and model.head_dim):
            return None
        return cls(lengths, model.num_heads, model.num_kv_heads, model.head_dim, size)


def rates(
    record: RunRecord, layers: Iterable[object], microseconds: float | None, clock_mhz: float | None
) -> dict[str, Any]:
    """tflops, gbps, share_of_ceiling_pct and ceiling_scaled of an attention call over all prompts.

    The share is of the device's measured ceiling that the call is nearer to; that of operations
    counts for 16-bit types only, as it is measured in bfloat16. It rises with the SM clock, so it is scaled
    to the call's; the memory has a clock of its own. null: not measured, or not known.

    Args:
        record: of the run: "model", "config", and if known "causal" (default: true), "layer_windows"
            and "ceilings".
        clock_mhz: SM clock at which the call ran; None: not known, and nothing is scaled.
        layers: whose times were averaged; their work is averaged too.
        microseconds: the average.
    """
    names = ("tflops", "gbps", "share_of_ceiling_pct", "ceiling_scaled")
    figures: dict[str, Any] = dict.fromkeys(names)
    shape = _Shape.of(record)
    if not microseconds or shape is None:
        return figures
    lengths, heads, dim = shape.lengths, shape.num_heads, shape.head_dim
    windows = record.layer_windows or {}
    causal = record.causal is not False
    flops = [
        attention_flops(lengths, lengths, heads, dim, causal, windows.get(str(layer), NO_WINDOW))
        for layer in layers
    ]
    if not flops:
        return figures
    moved = attention_bytes(lengths, lengths, heads, shape.num_kv_heads, dim, shape.element_bytes)
    figures["tflops"] = sum(flops) / len(flops) / microseconds / 1e6
    figures["gbps"] = moved / microseconds / 1e3
    ceilings = record.ceilings
    if ceilings and ceilings.gbps and ceilings.tflops:
        scale = clock_mhz / ceilings.clock_mhz if clock_mhz and ceilings.clock_mhz else None
        shares = [figures["gbps"] / ceilings.gbps]
        if shape.element_bytes == 2:
            shares.append(figures["tflops"] / (ceilings.tflops * (scale or 1.0)))
        figures["share_of_ceiling_pct"] = 100 * max(shares)
        figures["ceiling_scaled"] = scale is not None
    return figures
