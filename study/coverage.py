"""Which of the points in configs/study were measured on a device, which failed, and which are missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.sweep import plan
from study.points import Point

Row = dict[str, Any]
COMPARED = ("model", "length", "block_size")


@dataclass(frozen=True)
class Coverage:
    """One file of configs/study on one device."""

    file: str
    planned: int
    measured: int
    failed: int
    missing: list[str]


def coverage(folder: Path, points: Sequence[Point], failures: Sequence[Point]) -> list[Coverage]:
    """A row for each file, in order of name; the points are one device's."""
    rows = []
    for file in sorted(folder.glob("*.yaml")):
        planned = _planned(file)
        left = [options for options in planned if not any(_is(p, options) for p in points)]
        missing = [options for options in left if not any(_is(p, options) for p in failures)]
        counts = len(planned), len(planned) - len(left), len(left) - len(missing)
        rows.append(Coverage(file.name, *counts, [point_name(options) for options in missing]))
    return rows


def unplanned(folder: Path, points: Sequence[Point]) -> list[str]:
    """The points that no file plans."""
    planned = [options for file in folder.glob("*.yaml") for options in _planned(file)]
    others = [p for p in points if not any(_is(p, options) for options in planned)]
    return [point_name(p.record["config"] | _options(p)) for p in others]


def _planned(file: Path) -> list[Row]:
    return [dict(point.options) for point in plan.read(file).points]


def _options(point: Point) -> Row:
    """The options that a plan would give for the point, as far as its record's configuration tells."""
    version = _version(point)
    return {"model": point.model, "flash_attn_version": version, "spread_k": point.spreads, "gap": point.gap}


def _is(point: Point, options: Row) -> bool:
    """Whether these options plan the point."""
    config = point.record["config"] | {"model": point.model}
    if _version(point) != options["flash_attn_version"] or point.gap != options.get("gap", "shuffled"):
        return False
    planned, tried = options.get("spread_k"), point.record.get("spread_k", config.get("spread_k"))
    # A planned list may be a part of what was run; the default is the whole curve.
    same_runs = set(planned) <= set(tried or planned) if planned else config.get("spread_k") is None
    return same_runs and all(config[name] == options[name] for name in COMPARED)


def _version(point: Point) -> int | None:
    version: int | None = point.record["config"].get("flash_attn_version")
    if version is None and point.summary:  # vLLM chose
        version = int(point.attention[-1]) if point.attention[-1:].isdigit() else None
    return version


def point_name(options: Row) -> str:
    """A point's name, from the options of a sweep or a run."""
    spreads = options.get("spread_k")
    segments = ", ".join(map(str, spreads)) if spreads else "1, 2, 4, ..."
    gap = f" {options['gap']}" if options.get("gap", "shuffled") != "shuffled" else ""
    return (
        f"{options['model']} at {options['length']} tokens, block size {options['block_size']}, "
        f"FA{options['flash_attn_version']}, {segments} segments{gap}"
    )
