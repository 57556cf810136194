"""What a run was made with and on, its doubts, and the command that makes it again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.analysis.rows import Row

MIB, GIB = 2**20, 2**30
SHOWN_RUN = (
    "status",
    "error",
    "started",
    "finished",
    "engine_start_s",
    "measuring_s",
    "sampling_s",
    "timer",
    "prompt",
)


@dataclass(frozen=True)
class Facts:
    """A titled list of names and values."""

    title: str
    values: list[tuple[str, str]]


def closing(record: Row, doubts: Sequence[str], in_full: str | None) -> Row:
    """The values of closing.html.j2, which ends every run's page."""
    return {
        "notices": record["notices"],
        "warnings": doubts,
        "environment": environment(record),
        "typed": record["command"] and shlex.join(record["command"]),
        "in_full": in_full,
        "commit": record["versions"].get("commit"),
    }


def environment(record: Row) -> list[Facts]:
    """Device, versions, model, engine, and how the run went; what the record lacks is left out."""
    run: Row = {name: record[name] for name in SHOWN_RUN if name in record}
    run |= {f"ceiling_{name}": value for name, value in (record.get("ceilings") or {}).items()}
    if peaks := record.get("peak_memory_bytes"):
        run["peak_memory_bytes"] = max(peaks.values())
    parts = {
        "Device": record.get("device"),
        "Versions": record.get("versions"),
        "Model": record.get("model"),
        "Engine": record.get("engine"),
        "Run": run,
    }
    return [Facts(title, _flat(values)) for title, values in parts.items() if values]


def _flat(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (name.removesuffix("_bytes").replace("_", " "), _shown(name, value)) for name, value in values.items()
    ]


def _shown(name: str, value: Any) -> str:
    if value is None:
        return "none"
    if name.endswith("_bytes"):
        return f"{value / GIB:.1f} GiB" if value >= GIB else f"{value / MIB:.1f} MiB"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_shown(key, item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(_shown(name, item) for item in value)
    return str(value)
