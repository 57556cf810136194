"""What a run was made with and on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.runs.schema import RunRecord
from harness.units import GIB, MIB

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


def environment(record: RunRecord) -> list[Facts]:
    """Device, versions, model, engine, and how the run went, without what the record lacks."""
    known = record.to_json()
    run = {name: known[name] for name in SHOWN_RUN if name in known}
    run |= {f"ceiling_{name}": value for name, value in known.get("ceilings", {}).items()}
    if peaks := record.peak_memory_bytes:
        run["peak_memory_bytes"] = max(peaks.values())
    parts = {title: known.get(title.lower()) for title in ("Device", "Versions", "Model", "Engine")}
    return [Facts(title, _flat(values)) for title, values in {**parts, "Run": run}.items() if values]


def _flat(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (name.removesuffix("_bytes").replace("_", " "), _format_value(name, value))
        for name, value in values.items()
    ]


def _format_value(name: str, value: Any) -> str:
    if value is None:
        return "none"
    if name.endswith("_bytes"):
        return f"{value / GIB:.1f} GiB" if value >= GIB else f"{value / MIB:.1f} MiB"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_format_value(key, item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(_format_value(name, item) for item in value)
    return str(value)
