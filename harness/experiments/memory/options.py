"""Options of the experiment `memory`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from harness.config import checks, engine_options, fields
from harness.config.defaults import MIN_BATCHED_TOKENS, DeviceKind
from harness.config.engine import EngineSpec
from harness.config.errors import label, refuse
from harness.config.fields import Common, Count, Engine, Seconds
from harness.models import ModelSource
from harness.models.required import require_cache, require_own_positions, require_transformers_layout

OUTPUT_LEN = 2  # tokens that vLLM generates: its requests exist until the second
GROUPS: dict[str, list[str]] = {
    "inputs and model": ["lengths", *fields.MODEL_OPTIONS],
    **fields.ENGINE_GROUP,
    **fields.COMMON_GROUPS,
}


class MemoryConfig(Common, Engine):
    """Inputs of mixed length, in transformers and in vLLM. `resolve` fills in what is None."""

    experiment: ClassVar[str] = "memory"

    lengths: Annotated[list[Count], Field(min_length=2)] = Field(
        [13, 1003, 61, 507, 29, 251, 127, 761],  # multiples of 16 would fill a GPU's blocks and show no waste
        description="tokens of each input, two or more",
    )
    dtype: Literal["float16", "bfloat16", "float32"] = Field(
        "bfloat16", description="data type of weights and activations in both engines"
    )
    repeats: Count | None = Field(
        None, description="processes of each engine; intervals need 6 (default: as many as fit the time)"
    )
    max_seconds: Seconds | None = Field(
        60.0, description="time for all processes; each engine gets at least one, however long that takes"
    )
    precision: fields.Percent = Field(
        0.5,
        description="start no more processes once every figure's 95% interval is narrower than this, in "
        "percent of its median",
    )
    max_num_batched_tokens: Count | None = Field(
        None, description="at least all inputs together, as they are one step (default: just enough)"
    )

    def engine(self) -> EngineSpec:
        """vLLM's engine, which takes all inputs in one step; needs a resolved configuration."""
        tokens = sum(self.lengths)
        return EngineSpec.of(
            self,
            max_model_len=max(self.lengths) + OUTPUT_LEN,
            max_num_seqs=len(self.lengths),
            max_num_batched_tokens=self.max_num_batched_tokens or max(tokens + 1, MIN_BATCHED_TOKENS),
            cached_tokens=tokens,
        )


def resolve(config: MemoryConfig, device_kind: DeviceKind) -> MemoryConfig:
    """Fill in what depends on the device and check the result against it. Raises ConfigError."""
    name = f"memory-{fields.model_name(config)}"
    resolved = fields.resolve_common(config, device_kind, name)
    problems = fields.common_problems(resolved, device_kind)
    problems += checks.load_format_problems(resolved.load_format)
    problems += engine_options.problems_beside_transformers(resolved.engine_options)
    problems += checks.engine_problems(resolved.engine(), device_kind)
    in_all = sum(config.lengths)
    limit = f"{in_all}, the sum of --lengths, so that all inputs are one step"
    problems += checks.step_problems(config.max_num_batched_tokens, in_all, limit)
    if (ranks := config.tensor_parallel_size) > 1:
        option = label("tensor_parallel_size", ranks)
        problems.append(f"{option}: must be 1, as only one process's memory is read; leave it out")
    refuse(problems)
    return resolved


def find_model(config: MemoryConfig) -> ModelSource:
    """The model, if both can run the longest input with it; raises ModelError if not."""
    longest = max(config.lengths)
    source = config.inspect_model(longest + OUTPUT_LEN - 1)
    require_cache(source, per_head=True)
    require_transformers_layout(source)
    require_own_positions(source, label("lengths", longest))
    return source


def plan(config: MemoryConfig) -> list[str]:
    """What a resolved configuration measures, a line each."""
    repeats = config.repeats or "as many as fit the time"
    return [
        f"inputs: {', '.join(map(str, config.lengths))} tokens",
        f"processes of transformers and of vLLM: {repeats}, each read at every stage",
    ]
