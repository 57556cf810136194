"""layouts.jsonl.gz: which blocks each request of some work got, so that its layouts can be replayed.

The first line says of what pool: block_size, num_blocks, source. Then there is a line for each request, in
the order in which their prefills ended.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from harness import files, layout
from harness.units import GIB

NAME = "layouts.jsonl.gz"  # in a run's directory
VERSION = 1
MOST_BYTES = GIB  # unpacked
MOST_BLOCKS = 2**24  # of a pool
PERCENTILES = (10, 50, 90)  # of segments per block: the layouts that are typical of the work


class LayoutsError(ValueError):
    """A file of layouts that cannot be read: one line with what is wrong, and where."""


@dataclass(frozen=True)
class RequestLayout:
    """Where one request's K and V lay once its prompt was prefilled."""

    arrival_s: float | None  # since the first request
    tokens: int
    block_ids: tuple[int, ...]  # physical ids, in logical order
    hit_blocks: int = 0  # the first of them, found in the prefix cache

    @cached_property
    def segments(self) -> int:
        """How many segments its blocks lie in."""
        return layout.spread_k(self.block_ids)

    @property
    def segments_per_block(self) -> float:
        """1: no two neighbours are joined; 1 / number of blocks: all are."""
        return self.segments / len(self.block_ids)


@dataclass(frozen=True)
class Layouts:
    """The layouts that some work made in one pool."""

    block_size: int  # tokens
    num_blocks: int  # of the pool, with vLLM's null block 0
    source: str  # what made them, e.g. a trace and an order of allocation
    requests: tuple[RequestLayout, ...] = ()


def write_layouts(path: Path, layouts: Layouts) -> None:
    """Write a file of layouts; the same layouts give the same bytes. Raises OSError."""
    about = {"layouts": VERSION, "block_size": layouts.block_size, "num_blocks": layouts.num_blocks}
    with path.open("wb") as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) as file:
        for record in ({**about, "source": layouts.source}, *map(_to_record, layouts.requests)):
            file.write(json.dumps(record, separators=(",", ":")).encode() + b"\n")


def read_layouts(path: Path) -> Layouts:
    """The inverse of `write_layouts`. Raises LayoutsError, with the line."""
    about: Layouts | None = None
    requests: list[RequestLayout] = []
    try:
        with files.open_regular(path) as raw, gzip.GzipFile(fileobj=raw) as file:
            lines = _lines(file)
            about = _parse_about(next(lines, b""))
            for line in lines:
                requests.append(_parse(line, about))
    except OSError as error:  # gzip's own among them
        raise LayoutsError(f"cannot be read: {error.strerror or error}") from None
    except (EOFError, zlib.error):
        raise LayoutsError("is cut short or damaged") from None
    except ValueError as error:
        raise LayoutsError(f"line {len(requests) + (2 if about else 1)}: {error}") from None
    if not requests:
        raise LayoutsError("holds no request's layout")
    return Layouts(about.block_size, about.num_blocks, about.source, tuple(requests))


def pick_typical(
    layouts: Layouts, num_blocks: int, percentiles: Sequence[float] = PERCENTILES
) -> dict[float, RequestLayout]:
    """By percentile of segments per block, the request that lies there: among those with enough blocks, and
    of equal ones the first.

    Raises:
        LayoutsError: no request has `num_blocks` blocks.
    """
    able = [each for each in layouts.requests if len(each.block_ids) >= num_blocks]
    if not able:
        most = max(len(each.block_ids) for each in layouts.requests)
        raise LayoutsError(
            f"no request has {num_blocks} blocks of {layouts.block_size} tokens, the largest has {most}; "
            "choose a shorter prompt or layouts of longer ones"
        )
    spreads = np.array([layout.spread_k(each.block_ids[:num_blocks]) for each in able])
    at = np.percentile(spreads, percentiles, method="nearest")
    return {p: able[int(np.flatnonzero(spreads == k)[0])] for p, k in zip(percentiles, at, strict=True)}


def fit_pool(block_ids: Sequence[int], free_ids: Sequence[int]) -> list[int]:
    """A layout moved onto free blocks of another pool: the same segments in the same order of addresses.

    Gaps between segments stay as they are if the longest stretch of free blocks has room, and shrink to the
    same share of the room there is otherwise, to no less than one block.

    Raises:
        layout.LayoutError: not even then.
    """
    stretch = max(layout.segments(sorted(free_ids)), key=lambda segment: segment.length)
    ids = np.asarray(block_ids, dtype=np.int64)
    by_address = np.sort(ids)
    gaps = np.diff(by_address) - 1
    spare = stretch.length - ids.size
    least = int(np.count_nonzero(gaps))
    if spare < least:
        raise layout.LayoutError(
            f"{ids.size} blocks with {least} gaps need {ids.size + least} free blocks in a row; the pool has "
            f"{stretch.length}; give the engine more memory, or choose a shorter prompt"
        )
    if (extra := int(gaps.sum()) - least) > spare - least:
        gaps = np.where(gaps > 0, 1 + (gaps - 1) * (spare - least) // extra, 0)
    places = stretch.first_id + np.concatenate([[0], np.cumsum(gaps + 1)])
    moved: list[int] = places[np.searchsorted(by_address, ids)].tolist()
    return moved


def _to_record(request: RequestLayout) -> dict[str, Any]:
    return {
        "arrival_s": request.arrival_s,
        "tokens": request.tokens,
        "block_ids": layout.to_ranges(request.block_ids),
        "segments": request.segments,
        "hit_blocks": request.hit_blocks,
    }


def _lines(file: gzip.GzipFile) -> Iterator[bytes]:
    left = MOST_BYTES
    while line := file.readline(min(left, files.LONGEST_LINE) + 1):
        left -= len(line)
        if left < 0 or len(line) > files.LONGEST_LINE:
            raise ValueError("too long")
        yield line


def _parse_about(line: bytes) -> Layouts:
    record = _object(line)
    if record.get("layouts") != VERSION:
        raise ValueError(f"must say layouts: {VERSION}, as {NAME} of a run does")
    source = record.get("source")
    if not isinstance(source, str):
        raise ValueError("source: must be a text")
    return Layouts(_whole(record, "block_size", 1), _whole(record, "num_blocks", 1, MOST_BLOCKS), source)


def _parse(line: bytes, about: Layouts) -> RequestLayout:
    record = _object(line)
    tokens = _whole(record, "tokens", 1)
    needed = layout.num_blocks(tokens, about.block_size)
    arrival_s = record.get("arrival_s")
    if arrival_s is not None and (isinstance(arrival_s, bool) or not isinstance(arrival_s, (int, float))):
        raise ValueError("arrival_s: must be a number or null")
    ids = _ids(record.get("block_ids"), needed)
    if len(ids) != needed or len({*ids}) != needed or not all(0 <= each < about.num_blocks for each in ids):
        raise ValueError(f"block_ids: must be {needed} different blocks of 0..{about.num_blocks - 1}")
    return RequestLayout(arrival_s, tokens, tuple(ids), _whole(record, "hit_blocks", 0, needed))


def _ids(text: object, most: int) -> list[int]:
    """Of ranges as `layout.to_ranges` writes them; no more than one beyond `most`."""
    if not isinstance(text, str):
        raise ValueError("block_ids: must be ranges, e.g. 257-384,7")
    ids: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        if not (first.isdecimal() and (last or first).isdecimal() and len(part) < 40):
            raise ValueError(f"block_ids: {files.shorten(part, 20)!r}: must be ranges, e.g. 257-384,7")
        ids += range(int(first), min(int(last or first), int(first) + most) + 1)
        if len(ids) > most:
            break
    return ids


def _object(line: bytes) -> dict[str, Any]:
    record = files.parse_json(line)
    if not isinstance(record, dict):
        raise ValueError("must be an object")
    return record


def _whole(record: dict[str, Any], name: str, least: int, most: int = 2**31) -> int:
    value = record.get(name)
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{name}: must be a whole number, {least}..{most}")
    return value
