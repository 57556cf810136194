"""Variants of the main job's engine: engines that differ from it in one option that no arm can switch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from harness.runs.record import Result

BASELINE = "baseline"  # the main job's own configuration, in an engine like the variants'
AGAIN = "baseline again"

# Settings that follow from the option and so may differ between two engines.
FOLLOWS = {
    "block_size": {"num_blocks_in_pool", "kv_cache_bytes"},
    "flash_attn_version": {"num_blocks_in_pool", "kv_cache_bytes"},
    "attention_backend": {"num_blocks_in_pool", "kv_cache_bytes", "flash_attn_version"},
    "cudagraph_mode": {"num_blocks_in_pool", "kv_cache_bytes", "compilation_mode", "enforce_eager"},
}


@dataclass(frozen=True)
class Variant:
    """An engine whose `option` (a field of RunConfig) has this value and which is otherwise unchanged."""

    option: str
    value: int | str

    @property
    def name(self) -> str:
        """As in record.Cell.variant."""
        return f"{self.option}={self.value}"

    @classmethod
    def from_name(cls, name: str) -> Variant | None:
        """The variant of that name; None for the baseline's."""
        option, _, value = name.partition("=")
        return cls(option, int(value) if value.isdigit() else value) if value else None

    def objection(self, settings: Mapping[str, Any]) -> str | None:
        """Why an engine with these settings is not this variant, or None."""
        got = setting(settings, self.option)
        if got == self.value:
            return None
        return f"vLLM took {self.option} {got} in place of {self.value}"

    def also_differs(self, settings: Mapping[str, Any], baseline: Mapping[str, Any]) -> str | None:
        """What else vLLM chose differently from the baseline's engine; None: nothing."""
        allowed = FOLLOWS[self.option] | {self.option}
        other = [name for name in settings if name not in allowed and settings[name] != baseline.get(name)]
        differences = (f"{name} {settings[name]}, not {baseline.get(name)}" for name in other)
        return f"differs in {'; '.join(differences)} too" if other else None


def setting(settings: Mapping[str, Any], option: str) -> Any:
    """The value of an option in an engine's settings."""
    value = settings.get(option)
    if option == "cudagraph_mode" and settings.get("enforce_eager"):
        return "EAGER"
    return ", ".join(value) if isinstance(value, list) else value


def by_engine(results: Iterable[Result]) -> dict[str, dict[str, Result]]:
    """The series' results by engine ("baseline", "baseline again", "block_size=64", ...) and arm."""
    engines: dict[str, dict[str, Result]] = {}
    for result in results:
        if result.cell.variant is not None:
            engine = AGAIN if result.control else result.cell.variant
            engines.setdefault(engine, {})[result.cell.arm] = result
    return engines


def pairs(results: Iterable[Result]) -> list[tuple[Result, Result]]:
    """Baseline and treatment of each contrast: every engine against the baseline's, and in every engine the
    paging tax and the cache write."""
    engines = by_engine(results)
    first = engines.get(BASELINE, {}).get("engine")
    wanted = [(first, arms.get("engine")) for name, arms in engines.items() if name != BASELINE]
    for arms in engines.values():
        wanted += [(arms.get("dense"), arms.get("paged")), (arms.get("no_write"), arms.get("dense"))]
    return [(one, two) for one, two in wanted if one and two]
