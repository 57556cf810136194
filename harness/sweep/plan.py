"""A sweep's YAML file: options common to all points, and lists of values whose product is run."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from harness.config import ConfigError, engine_options, former_options
from harness.config.yaml_file import read_mapping
from harness.experiments.prefill.options import RunConfig
from harness.files import shorten
from harness.units import pluralise

Options = dict[str, Any]

KEYS = ("base", "grid", "processes")
OWN = ("output_dir", "overwrite", "resume", "tables", "print_json", "quiet")  # the sweep sets these itself
LONGEST_NAME = 120
MOST_PROCESSES = 100
MOST_POINTS = 1000  # each is a process of its own, of a minute or more


@dataclass(frozen=True)
class Point:
    """One run of the main job."""

    name: str  # its directory inside the sweep's
    options: Options  # fields of RunConfig, as in a YAML file of the main job


@dataclass(frozen=True)
class Plan:
    """The points in the order of the file."""

    path: Path
    points: tuple[Point, ...]
    varies: tuple[str, ...]  # the options that differ between points

    def values(self, point: Point) -> Options:
        """The point's values of the varying options; None where it leaves one to the main job."""
        return {name: point.options.get(name) for name in self.varies}


def read(path: Path) -> Plan:
    """Read a sweep's YAML file, without checking the options' values; raises ConfigError.

    `base` maps options of the main job to values. `grid` maps options to lists of values, every combination
    of which is a point, the last option varying fastest; it may also be a list of such grids, run one
    after another. `processes: N` repeats all of that N times, each time with the next seed.
    """
    file = read_mapping(path, str(path))
    for key in file:
        if key not in KEYS:
            raise ConfigError(
                f"{path}: {shorten(str(key), 40)}: unknown key; a sweep has {' and '.join(KEYS)}"
            )
    base = _options(path, "base", file.get("base") or {})
    grids, processes = file.get("grid"), file.get("processes", 1)
    grids = grids if isinstance(grids, list) and grids else [grids]
    alone = processes != 1 and grids == [None]  # the same point several times
    combinations = [base] if alone else [base | point for grid in grids for point in _product(path, grid)]
    return of_options(path, repeat(combinations, processes, f"{path}: processes"))


def repeat(combinations: Sequence[Options], processes: object, where: str) -> list[Options]:
    """Every point once per process, each process with the next seed.

    Raises ConfigError, beginning with `where`, if `processes` is not a valid number.
    """
    if not isinstance(processes, int) or isinstance(processes, bool) or not 1 <= processes <= MOST_PROCESSES:
        raise ConfigError(f"{where} {processes}: must be a number from 1 to {MOST_PROCESSES}")
    if processes == 1:
        return list(combinations)
    seeds = [options.get("seed") or 0 for options in combinations]
    if len(set(map(repr, seeds))) > 1 or not isinstance(seeds[0], int):
        shown = shorten(", ".join(dict.fromkeys(map(repr, seeds))))
        raise ConfigError(f"{where} {processes}: take seeds from one number on, not from {shown}")
    return [options | {"seed": seeds[0] + n} for n in range(processes) for options in combinations]


def of_options(path: Path, combinations: Sequence[Options]) -> Plan:
    """The plan of these points; raises ConfigError if one is there twice.

    Args:
        path: of the file, or what to call the plan.
    """
    if len(combinations) > MOST_POINTS:
        raise ConfigError(f"{path}: {len(combinations)} points; a sweep has at most {MOST_POINTS}")
    varies = _varying(combinations)
    twice = next((one for n, one in enumerate(combinations) if one in combinations[:n]), None)
    if twice is not None:
        shown = ", ".join(f"{name} {twice[name]}" for name in varies if name in twice)
        same = shorten(shown) or "all its options"
        raise ConfigError(f"{path}: grid: the same point twice ({same}); leave one out")
    points = [
        Point(_name(number, len(combinations), options, varies), options)
        for number, options in enumerate(combinations, start=1)
    ]
    return Plan(path, tuple(points), varies)


def check(plan: Plan, problem_of: Callable[[Options], str | None]) -> None:
    """Raise ConfigError, in one line, with the problems of all points, each once."""
    problems: dict[str, int] = {}
    for point in plan.points:
        if problem := problem_of(point.options):
            problems[problem] = problems.get(problem, 0) + 1
    if problems:
        count = len(plan.points)
        texts = [
            f"{problem} ({points} of {pluralise(count, 'point')})" for problem, points in problems.items()
        ]
        raise ConfigError(f"{plan.path}: {'; '.join(texts)}")


def _product(path: Path, grid: Any) -> Iterable[Options]:
    values = _options(path, "grid", grid)
    for name, listed in values.items():
        if not isinstance(listed, list) or not listed:
            raise ConfigError(
                f"{path}: grid: {name}: {shorten(str(listed))}: must be a list of values, e.g. length: "
                "[1024, 4096]; options common to all points belong in base"
            )
    if (count := prod(map(len, values.values()))) > MOST_POINTS:
        raise ConfigError(f"{path}: grid: {count} points; a sweep has at most {MOST_POINTS}")
    for combination in itertools.product(*values.values()):
        yield dict(zip(values, combination, strict=True))


def _options(path: Path, where: str, values: Any) -> Options:
    """Check that a mapping holds only options that a point may have."""
    if not isinstance(values, dict) or (where == "grid" and not values):
        raise ConfigError(
            f"{path}: {where}: must hold options, e.g. length; configs/sweep.yaml is an example"
        )
    for name in values:
        if name in OWN:
            raise ConfigError(f"{path}: {where}: {name}: the sweep sets this itself; leave it out")
        if former_options.field_of(name, RunConfig.model_fields) not in RunConfig.model_fields:
            hint = engine_options.suggestion(name, RunConfig.model_fields)
            raise ConfigError(f"{path}: {where}: {shorten(str(name), 40)}: unknown option; {hint}")
    return dict(values)


def _varying(points: Sequence[Options]) -> tuple[str, ...]:
    names = dict.fromkeys(name for options in points for name in options)
    return tuple(name for name in names if len({repr(options.get(name)) for options in points}) > 1)


def _name(number: int, count: int, options: Mapping[str, Any], varies: Iterable[str]) -> str:
    """A directory name; the number makes it unique and sortable."""
    parts = [
        ("" if name == "model" else name.replace("_", "-") + "-") + _in_name(options[name])
        for name in varies
        if options.get(name) is not None
    ]
    return "_".join([f"{number:0{len(str(count))}}", *parts])[:LONGEST_NAME]


def _in_name(value: Any) -> str:
    text = Path(value).name if isinstance(value, str) else str(value)
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-")
