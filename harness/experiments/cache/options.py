"""Options of the experiment `cache`."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field, field_validator

from harness.config import checks, fields
from harness.config.defaults import MIN_BATCHED_TOKENS, DeviceKind, describe
from harness.config.engine import EngineSpec
from harness.config.errors import refuse
from harness.config.fields import Common, Count, Engine
from harness.models import ModelSource
from harness.models.required import require_cache

LENGTH: dict[DeviceKind, int] = {"cuda": 4096, "cpu": 512}
# As on a server: the short rest of a mostly cached prompt can then run in a captured CUDA graph.
MAX_NUM_SEQS = 256
GROUPS: dict[str, list[str]] = {
    "prompts and model": ["length", "shares", "prompts", "output_len", *fields.MODEL_OPTIONS],
    **fields.ENGINE_GROUP,
    **fields.COMMON_GROUPS,
}


class CacheConfig(Common, Engine):
    """Prompts with a share of their tokens in the prefix cache. `resolve` fills in what is None."""

    experiment: ClassVar[str] = "cache"

    length: Count | None = Field(None, description=f"tokens in each prompt (default: {describe(LENGTH)})")
    shares: Annotated[list[Annotated[int, Field(ge=0, le=100)]], Field(min_length=1)] = Field(
        [0, 25, 50, 75, 100],
        description="shares of a prompt that the cache holds, in percent",
    )
    prompts: Count = Field(4, description="prompts in a batch; prompts are also measured one at a time")
    output_len: Count = Field(
        8, description="tokens to generate from each prompt with and without the cache, for display; untimed"
    )
    max_num_batched_tokens: Count | None = Field(
        None, description="at least --prompts times --length: a batch is one step (default: just enough)"
    )

    @property
    def longest(self) -> int:
        """Tokens of a prompt plus those generated from it except the last; needs a resolved configuration."""
        return (self.length or 0) + self.output_len - 1

    def engine(self) -> EngineSpec:
        """An engine with prefix caching that takes a whole batch in one step; needs a resolved
        configuration.
        """
        tokens = self.prompts * (self.length or 0)
        return EngineSpec.of(
            self,
            max_model_len=self.longest + 1,
            max_num_seqs=max(MAX_NUM_SEQS, self.prompts),
            max_num_batched_tokens=self.max_num_batched_tokens or max(tokens + 1, MIN_BATCHED_TOKENS),
            enable_prefix_caching=True,
            cached_tokens=tokens,
        )

    @field_validator("shares")
    @classmethod
    def _ascending(cls, value: Any) -> Any:
        return sorted(set(value)) if isinstance(value, list) else value


def resolve(config: CacheConfig, device_kind: DeviceKind) -> CacheConfig:
    """Fill in what depends on the device and check the result against it. Raises ConfigError."""
    config = fields.with_defaults(config, {"length": LENGTH[device_kind]})
    name = f"cache-{fields.model_name(config)}-{config.length}"
    resolved = fields.resolve_common(config, device_kind, name)
    problems = fields.common_problems(resolved, device_kind)
    problems += checks.load_format_problems(resolved.load_format)
    problems += checks.engine_problems(resolved.engine(), device_kind)
    of_batch = config.prompts * (config.length or 0)
    limit = (
        f"{of_batch} (--prompts {config.prompts} of --length {config.length}), so that a batch is one step"
    )
    refuse([*problems, *checks.step_problems(config.max_num_batched_tokens, of_batch, limit)])
    return resolved


def find_model(config: CacheConfig) -> ModelSource:
    """The model, if it takes the prompts and keeps a cache; raises ModelError if not."""
    source = config.inspect_model(config.longest)
    require_cache(source)
    return source


def plan(config: CacheConfig) -> list[str]:
    """What a resolved configuration measures, a line each."""
    shares = ", ".join(f"{share}%" for share in config.shares)
    return [
        f"prompts: {config.prompts} of {config.length} tokens, one at a time and as a batch",
        f"shares in the cache: {shares}, each against a reset cache",
    ]
