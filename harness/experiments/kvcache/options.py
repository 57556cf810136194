"""Options of the experiment `kvcache`."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from harness import batch, models
from harness.config import checks, fields
from harness.config.checks import label
from harness.config.fields import Common, Count, DeviceKind, Generation
from harness.experiments.prefill.options import for_engine
from harness.models import ModelSource
from harness.models.required import require_cache, require_own_positions

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

    @property
    def per_step(self) -> int:
        """Tokens of one step in vLLM; needs a resolved configuration."""
        return self.max_num_batched_tokens or max((self.input_len or 1) + 1, 2048)

    @property
    def longest(self) -> int:
        """Tokens that vLLM's engine must have room for: generation is cut off after the last that counts."""
        return self.length + batch.prefill_steps(self.input_len or 1, self.per_step)


def resolve(config: KVCacheConfig, device_kind: DeviceKind) -> KVCacheConfig:
    """The configuration with what depends on the device filled in, checked against it. Raises ConfigError."""
    config = fields.with_defaults(config, DEFAULTS[device_kind])
    name = f"kvcache-{fields.model_name(config)}-{config.input_len}-{config.output_len}"
    resolved = fields.resolve_common(config, device_kind, name)
    problems = [*checks.directory_problems(resolved)]
    problems += checks.engine_problems(for_engine(resolved, resolved.length), device_kind)
    fields.refuse(problems)
    return resolved


def find_model(config: KVCacheConfig) -> ModelSource:
    """The model, if transformers and vLLM can generate so much with it; raises ModelError if not."""
    source = models.asked_for(config, config.longest)
    require_cache(source, per_head=True)
    require_own_positions(
        source, f"{label('input_len', config.input_len)} {label('output_len', config.output_len)}"
    )
    return source
