"""Defaults that depend on the kind of device, as data, and how --help writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from harness import device

DeviceKind = device.Kind

DEVICES: dict[DeviceKind, str] = {"cuda": "on CUDA", "cpu": "on a CPU"}  # as in problems and --help
BLOCK_SIZE: dict[DeviceKind, int] = {"cuda": 16, "cpu": 128}
TIMERS: dict[DeviceKind, tuple[str, ...]] = {
    "cuda": ("auto", "events", "cupti"),
    "cpu": ("auto", "perf_counter"),
}
L2: dict[DeviceKind, Literal["warm"] | None] = {"cuda": "warm", "cpu": None}
MAX_SECONDS: dict[DeviceKind, float] = {"cuda": 45.0, "cpu": 60.0}
# The factor between values of spread_k; each takes two cores a minute for gpt2 at 4096 tokens.
SPREAD_FACTOR: dict[DeviceKind, int] = {"cuda": 2, "cpu": 8}
MIN_BATCHED_TOKENS = 2048  # tokens of an engine's step, if its prompts have fewer: vLLM's own default


def of(table: Mapping[DeviceKind, Mapping[str, Any]], name: str) -> dict[DeviceKind, Any]:
    """One option's default by device, from a table of all options' defaults."""
    return {kind: values[name] for kind, values in table.items()}


def describe(values: Mapping[DeviceKind, Any]) -> str:
    """Defaults in words: "16 on CUDA, 128 on a CPU", or the one value that all devices have."""
    if len({str(value) for value in values.values()}) == 1:
        return _format(next(iter(values.values())))
    return ", ".join(f"{_format(value)} {DEVICES[kind]}" for kind, value in values.items())


def _format(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
