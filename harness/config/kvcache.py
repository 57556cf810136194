"""Options of the experiment `kvcache`."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from harness.config import checks, fields
from harness.config.fields import Common, Count, DeviceKind, Generation
from harness.config.prefill import for_engine

DEFAULTS: dict[DeviceKind, dict[str, Any]] = {
    "cuda": {"input_len": 512, "output_len": 256, "max_seconds": 60.0},
    "cpu": {"input_len": 64, "output_len": 32, "max_seconds": 60.0},
}
GROUPS: dict[str, list[str]] = {
    "what is generated": ["input_len", "output_len"],
    "model": fields.MODEL_OPTIONS,
    "engines (vLLM's own names)": [*fields.ONE_GPU_ENGINE_OPTIONS, "seed"],
    **fields.COMMON_GROUPS,
}


class KVCacheConfig(Generation, Common):
    """One prompt and what is generated from it. What is None is chosen by `resolve`."""

    experiment: ClassVar[str] = "kvcache"

    input_len: Count | None = Field(
        None, description="tokens in the prompt (default: 512 on CUDA, 64 on a CPU)"
    )
    output_len: Annotated[int, Field(ge=2)] | None = Field(
        None, description="tokens to generate (default: 256 on CUDA, 32 on a CPU)"
    )

    @property
    def length(self) -> int:
        """Tokens in all; needs a resolved configuration."""
        return (self.input_len or 0) + (self.output_len or 0)


def resolve(config: KVCacheConfig, device_kind: DeviceKind) -> KVCacheConfig:
    """The configuration with what depends on the device filled in, checked against it. Raises ConfigError."""
    config = fields.with_defaults(config, DEFAULTS[device_kind])
    name = f"kvcache-{fields.model_name(config)}-{config.input_len}-{config.output_len}"
    resolved = fields.resolve_common(config, device_kind, name)
    problems = [*checks.directory_problems(resolved)]
    problems += checks.engine_problems(for_engine(resolved, resolved.length), device_kind)
    fields.refuse(problems)
    return resolved
