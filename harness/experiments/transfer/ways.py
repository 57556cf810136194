"""The ways of moving blocks, by name; without importing torch. How each copies is in `copying`."""

from __future__ import annotations

from dataclasses import dataclass

from harness.report.charts.spec import INK

Look = tuple[str, str]  # a colour of `Key`, and a marker of harness.report.charts.svg.MARKERS

YARDSTICK = "contiguous"
GATHER = "gather_copy"
PREFILL = "prefill"  # the series, and the kernel, of a stored run's latency
PLANNED = "planned"  # the layout of a chosen spread_k; all others are from files
DIRECTIONS = ("to_host", "to_gpu", "to_peer")
KV_LAYOUTS = ("interleaved", "stacked")
LAYER_TENSORS = ("apart", "together")


@dataclass(frozen=True)
class Way:
    """A way of moving a request's blocks."""

    name: str
    about: str
    look: Look


WAYS = (
    Way(YARDSTICK, "one copy of as many contiguous bytes, the yardstick", (INK, "diamond")),
    Way("copy_blocks", "one copy a block", ("#D55E00", "square")),
    Way("copy_rising", "one copy for neighbours whose ids rise", ("#E69F00", "triangle")),
    Way("copy_merged", "one copy for neighbours whose ids rise or fall", ("#009E73", "triangle down")),
    Way("swap_blocks", "vLLM's swap_blocks, one copy a block", ("#CC79A7", "triangle left")),
    Way("swap_batch", "vLLM's swap_blocks_batch, one descriptor a block", ("#56B4E9", "triangle right")),
    Way("swap_batch_merged", "the same with neighbours merged, rising or falling", ("#0072B2", "circle")),
    Way("swap_triton", "vLLM's Triton copy, one descriptor a block", ("#B0476B", "plus")),
    Way(GATHER, "a gather into contiguous memory, and one copy (to_gpu: one copy, and a scatter)",
        ("#7B68EE", "star")),
    Way("gather_nccl", "a gather, and NCCL to the next GPU", ("#999933", "x")),
)  # fmt: skip
NAMES = tuple(way.name for way in WAYS)
LOOKS = {way.name: way.look for way in WAYS}


def regions(num_layers: int, kv_layout: str, layer_tensors: str) -> int:
    """In how many pieces a block's bytes lie: the descriptors that it takes."""
    return (num_layers if layer_tensors == "apart" else 1) * (2 if kv_layout == "stacked" else 1)
