"""Options of the experiment `kvcache`."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from harness import batch
from harness.config import checks, defaults, engine_options, fields
from harness.config.defaults import MIN_BATCHED_TOKENS, DeviceKind, describe
from harness.config.engine import EngineSpec
from harness.config.errors import label, refuse
from harness.config.fields import Common, Count, Generation
from harness.models import ModelSource
from harness.models.required import require_cache, require_own_positions, require_transformers_layout

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
    """One prompt and the tokens generated from it. `resolve` fills in what is None."""

    experiment: ClassVar[str] = "kvcache"

    input_len: Count | None = Field(
        None, description=f"tokens in the prompt (default: {describe(defaults.of(DEFAULTS, 'input_len'))})"
    )
    output_len: Annotated[int, Field(ge=2)] | None = Field(
        None, description=f"tokens to generate (default: {describe(defaults.of(DEFAULTS, 'output_len'))})"
    )

    @property
    def length(self) -> int:
        """Total tokens; needs a resolved configuration."""
        return (self.input_len or 0) + (self.output_len or 0)

    @property
    def per_step(self) -> int:
        """Tokens of one step in vLLM; needs a resolved configuration."""
        return self.max_num_batched_tokens or max((self.input_len or 1) + 1, MIN_BATCHED_TOKENS)

    @property
    def longest(self) -> int:
        """Tokens that vLLM's engine needs room for: generation stops after the last measured one."""
        return self.length + batch.prefill_steps(self.input_len or 1, self.per_step)

    def engine(self) -> EngineSpec:
        """vLLM's engine, without the size of its KV cache; needs a resolved configuration."""
        return EngineSpec.of(
            self, max_model_len=self.longest + 1, max_num_seqs=1, max_num_batched_tokens=self.per_step
        )


def resolve(config: KVCacheConfig, device_kind: DeviceKind) -> KVCacheConfig:
    """Fill in what depends on the device and check the result against it. Raises ConfigError."""
    config = fields.with_defaults(config, DEFAULTS[device_kind])
    name = f"kvcache-{fields.model_name(config)}-{config.input_len}-{config.output_len}"
    resolved = fields.resolve_common(config, device_kind, name)
    problems = fields.common_problems(resolved, device_kind)
    problems += checks.load_format_problems(resolved.load_format)
    problems += engine_options.problems_beside_transformers(resolved.engine_options)
    refuse([*problems, *checks.engine_problems(resolved.engine(), device_kind)])
    return resolved


def find_model(config: KVCacheConfig) -> ModelSource:
    """The model, if transformers and vLLM can generate that much with it; raises ModelError if not."""
    source = config.inspect_model(config.longest)
    require_cache(source, per_head=True)
    require_transformers_layout(source)
    require_own_positions(
        source, f"{label('input_len', config.input_len)} {label('output_len', config.output_len)}"
    )
    return source


def plan(config: KVCacheConfig) -> list[str]:
    """What a resolved configuration measures, a line each."""
    return [
        f"generation: {config.output_len} tokens from {config.input_len}",
        "modes: transformers without a cache, with one (twice), and vLLM, each in its own process",
    ]
