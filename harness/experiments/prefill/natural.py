"""Layouts that traffic made, as further points of the main job's layout axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import layout
from harness.config.errors import ConfigError, label
from harness.workloads.layouts import LayoutsError, RequestLayout, fit_pool, pick_typical, read_layouts


@dataclass(frozen=True)
class Natural:
    """One request's layout, cut to the prompt's blocks."""

    percentiles: tuple[float, ...]  # of segments over the requests that have enough blocks, at which it lies
    source: str
    block_ids: Sequence[int]  # of the pool that it is from

    def plan(self, free_ids: Sequence[int]) -> list[list[int]]:
        """The one prompt's block ids among free ones; raises layout.LayoutError."""
        return [fit_pool(self.block_ids, free_ids)]


def read(path: Path | None, num_blocks: int, block_size: int) -> dict[int, Natural]:
    """The typical layouts of --layouts by their spread_k, without those in one segment; none without a file.

    Args:
        num_blocks: of the prompt.

    Raises:
        ConfigError: the file cannot be read, is of another block size, or has no request of so many blocks.
    """
    if path is None:
        return {}
    try:
        layouts = read_layouts(path)
        if layouts.block_size != block_size:
            raise LayoutsError(
                f"made with blocks of {layouts.block_size} tokens, not {block_size}; add --block-size "
                f"{layouts.block_size}, or make layouts with --block-size {block_size}"
            )
        typical = pick_typical(layouts, num_blocks)
    except LayoutsError as error:
        raise ConfigError(f"{label('layouts', path)}: {error}") from error
    by_spread: dict[int, list[tuple[float, RequestLayout]]] = {}
    for percentile, request in typical.items():
        spread_k = layout.spread_k(request.block_ids[:num_blocks])
        by_spread.setdefault(spread_k, []).append((percentile, request))
    return {
        k: Natural(tuple(p for p, _ in at), layouts.source, at[0][1].block_ids[:num_blocks])
        for k, at in by_spread.items()
        if k > 1
    }
