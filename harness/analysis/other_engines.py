"""Variants of the main job's engine: others that differ from it in one option, which no arm can switch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness import batch
from harness.runs.record import Result
from harness.units import ELEMENT_BYTES

if TYPE_CHECKING:
    from harness.config import RunConfig
    from harness.models import ModelSource

BASELINE = "baseline"  # the main job's own configuration, in an engine like the variants'
AGAIN = "baseline again"

# The option that lists a variant's values, and the option that it changes.
LISTED_BY = {
    "block_sizes": "block_size",
    "flash_attn_versions": "flash_attn_version",
    "attention_backends": "attention_backend",
}
# What may differ between two engines' settings besides the option itself: it follows from it.
FOLLOWS = {
    "block_size": {"num_blocks_in_pool", "kv_cache_bytes"},
    "flash_attn_version": {"num_blocks_in_pool", "kv_cache_bytes"},
    "attention_backend": {"num_blocks_in_pool", "kv_cache_bytes", "flash_attn_version"},
}


@dataclass(frozen=True)
class Variant:
    """An engine whose `option` (a field of RunConfig) has this value, and nothing else is changed."""

    option: str
    value: int | str

    @property
    def name(self) -> str:
        """As in record.Cell.variant."""
        return f"{self.option}={self.value}"

    @classmethod
    def named(cls, name: str) -> Variant | None:
        """The variant of that name; None of the baseline's."""
        option, _, value = name.partition("=")
        return cls(option, int(value) if value.isdigit() else value) if value else None

    def config(self, baseline: RunConfig) -> RunConfig:
        """The baseline's configuration with the one option changed."""
        return baseline.model_copy(update={self.option: self.value})

    def objection(self, settings: Mapping[str, Any]) -> str | None:
        """Why an engine with these settings is not this variant, or None."""
        got = setting(settings, self.option)
        if got == self.value:
            return None
        return f"vLLM took {self.option} {got} in place of {self.value}"

    def also_differs(self, settings: Mapping[str, Any], baseline: Mapping[str, Any]) -> str | None:
        """What else vLLM chose otherwise than in the baseline's engine, in words; None: nothing."""
        allowed = FOLLOWS[self.option] | {self.option}
        other = [name for name in settings if name not in allowed and settings[name] != baseline.get(name)]
        differences = (f"{name} {settings[name]}, not {baseline.get(name)}" for name in other)
        return f"differs in {'; '.join(differences)} too" if other else None


def setting(settings: Mapping[str, Any], option: str) -> Any:
    """The value of an option in an engine's settings."""
    value = settings.get(option)
    return ", ".join(value) if isinstance(value, list) else value


def asked_for(config: RunConfig, settings: Mapping[str, Any]) -> list[Variant]:
    """The variants that the configuration lists, without the values that the main job's engine has itself.

    Args:
        settings: of the main job's engine, for what was left to vLLM's choice.
    """
    listed = [
        Variant(option, value.upper() if isinstance(value, str) else value)
        for name, option in LISTED_BY.items()
        for value in getattr(config, name) or []
    ]
    return [variant for variant in listed if variant.value != setting(settings, variant.option)]


def kv_cache_bytes(config: RunConfig, source: ModelSource, dtype: str, largest_block: int) -> int:
    """Bytes of KV cache that hold the prompts twice, in blocks of any of the variants' sizes."""
    # Any request's last block may be a token full.
    tokens = batch.num_tokens(config.requests) + (len(config.requests) + 1) * largest_block
    return 2 * tokens * source.kv_bytes_per_token(ELEMENT_BYTES.get(dtype, 2))


def by_engine(results: Iterable[Result]) -> dict[str, dict[str, Result]]:
    """The series' results by engine ("baseline", "baseline again", "block_size=64", ...) and arm."""
    found: dict[str, dict[str, Result]] = {}
    for result in results:
        if result.cell.variant is not None:
            engine = AGAIN if result.control else result.cell.variant
            found.setdefault(engine, {})[result.cell.arm] = result
    return found


def pairs(results: Iterable[Result]) -> list[tuple[Result, Result]]:
    """Baseline and treatment of each contrast: every engine against the baseline's, and in every engine the
    paging tax and the cache write."""
    engines = by_engine(results)
    first = engines.get(BASELINE, {}).get("engine")
    wanted = [(first, arms.get("engine")) for name, arms in engines.items() if name != BASELINE]
    for arms in engines.values():
        wanted += [(arms.get("dense"), arms.get("paged")), (arms.get("no_write"), arms.get("dense"))]
    return [(one, two) for one, two in wanted if one and two]
