"""Options that had another name, which older commands, YAML files and stored runs still use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NAMES = {"run_sizes": "segment_sizes"}  # former -> now


def rename(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options (field name -> value) under the names that they have now."""
    return {NAMES.get(name, name): value for name, value in options.items()}


def of(name: str) -> list[str]:
    """The former names of an option."""
    return [former for former, now in NAMES.items() if now == name]
