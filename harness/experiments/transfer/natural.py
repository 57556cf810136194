"""Layouts that traffic left, from files: the typical ones of each, cut to the request's blocks."""

from __future__ import annotations

from pathlib import Path

from harness.workloads.layouts import LayoutsError, pick_typical, read_layouts

SUFFIX = ".jsonl.gz"


def read(path: str, num_blocks: int, block_size: int) -> dict[str, tuple[int, ...]]:
    """Block ids in logical order, `num_blocks` each, by a name such as "layouts-stock-16-4096 p50".

    Raises LayoutsError, in one line without the path, where the file has none of these.
    """
    layouts = read_layouts(Path(path))
    if layouts.block_size != block_size:
        raise LayoutsError(f"of blocks of {layouts.block_size} tokens; set --block-size to that")
    typical = pick_typical(layouts, num_blocks)
    return {
        f"{name_of(path)} p{percentile:g}": request.block_ids[:num_blocks]
        for percentile, request in typical.items()
    }


def name_of(path: str) -> str:
    """The file's name without its ending."""
    return Path(path).name.removesuffix(SUFFIX)
