"""Options of the experiment `cache`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field, field_validator

from harness.config import checks, fields
from harness.config.checks import label
from harness.config.fields import Common, Count, DeviceKind, Engine

LENGTH = {"cuda": 4096, "cpu": 512}
GROUPS: dict[str, list[str]] = {
    "prompts and model": ["length", "shares", "prompts", "output_len", *fields.MODEL_OPTIONS],
    "engine (vLLM's own names)": [*fields.ENGINE_OPTIONS, "seed"],
    "measuring": fields.SAMPLING_OPTIONS,
    "output": fields.OUTPUT_OPTIONS,
}


class CacheConfig(Common, Engine):
    """Prompts of which a share is in the prefix cache. What is None is chosen by `resolve`."""

    experiment: ClassVar[str] = "cache"

    length: Count | None = Field(
        None, description="tokens in each prompt (default: 4096 on CUDA, 512 on a CPU)"
    )
    shares: Annotated[list[Annotated[int, Field(ge=0, le=100)]], Field(min_length=1)] = Field(
        [0, 25, 50, 75, 100],
        description="how much of a prompt is the beginning of one that the cache holds, in percent",
    )
    prompts: Count = Field(4, description="prompts of a batch; each prompt is also measured alone")
    output_len: Count = Field(
        8, description="tokens to generate once per prompt, with the cache and without, to be shown; untimed"
    )
    max_num_batched_tokens: Count | None = Field(
        None, description="at least --prompts times --length: a batch is one step (default: what it takes)"
    )

    @field_validator("shares")
    @classmethod
    def _ascending(cls, value: Any) -> Any:
        return sorted(set(value)) if isinstance(value, list) else value


def resolve(config: CacheConfig, device_kind: DeviceKind) -> CacheConfig:
    """The configuration with what depends on the device filled in, checked against it. Raises ConfigError."""
    config = fields.with_defaults(config, {"length": LENGTH[device_kind]})
    name = f"cache-{Path(config.model).resolve().name}-{config.length}"
    resolved = fields.resolve_common(config, device_kind, name)
    problems = [*checks.directory_problems(resolved), *checks.engine_problems(resolved, device_kind)]
    fields.refuse([*problems, *_step_problems(resolved)])
    return resolved


def _step_problems(config: CacheConfig) -> Iterable[str]:
    tokens, needed = config.max_num_batched_tokens, config.prompts * (config.length or 0)
    if tokens is not None and tokens < needed:
        yield (
            f"{label('max_num_batched_tokens', tokens)}: must be at least {needed} (--prompts "
            f"{config.prompts} of --length {config.length}), so that a batch is one step; leave it out"
        )
