"""Other names of options: former ones, which older commands, YAML files and stored runs use, and vLLM's."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

NAMES = {"run_sizes": "segment_sizes"}  # former -> now
# Shown by --help; vLLM's benchmarks have --input-len.
ALSO = {"input_len": "length", "json": "print_json", "try": "candidates"}


def rename(options: Mapping[str, Any]) -> dict[str, Any]:
    """A stored run's options (field name -> value) under the names that they have now."""
    return {NAMES.get(name, name): value for name, value in options.items()}


def field_of(name: str, fields: Collection[str]) -> str:
    """The field that an option sets, if it is one of `fields` under any of its names."""
    return name if name in fields else (NAMES | ALSO).get(name, name)


def flags(field: str) -> list[str]:
    """A field's options as --help lists them."""
    also = [other for other, now in ALSO.items() if now == field]
    names = also if field == "print_json" else [field, *also]
    return ["--" + name.replace("_", "-") for name in names]


def former_flags(field: str) -> list[str]:
    """Its former options."""
    return ["--" + former.replace("_", "-") for former, now in NAMES.items() if now == field]
