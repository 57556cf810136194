"""Options of the experiment `backends`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field, field_validator

from harness import batch
from harness.config import checks, defaults, fields, vllm_names
from harness.config.defaults import DeviceKind, describe
from harness.config.engine import EngineSpec
from harness.config.errors import label, refuse
from harness.config.fields import Common, Count, Generation, NonEmpty
from harness.models import ModelSource
from harness.models.required import require_cache

SDPA = "sdpa.math"  # not one of vLLM's backends: attention alone
DEFAULTS: dict[DeviceKind, dict[str, Any]] = {
    "cuda": {
        "attention_backends": ["FLASH_ATTN", "TRITON_ATTN", "FLEX_ATTENTION", SDPA],
        "batch_sizes": [1, 2, 4, 8, 16, 32, 64],
        "input_lens": [512, 1024, 2048],
        "max_seconds": 60.0,
        "most_batched_tokens": 32768,
    },
    "cpu": {
        "attention_backends": ["CPU_ATTN", SDPA],
        "batch_sizes": [1, 2, 4],
        "input_lens": [64, 128, 256],
        "max_seconds": 60.0,
        "most_batched_tokens": 4096,
    },
}
GROUPS: dict[str, list[str]] = {
    "what is compared": ["attention_backends", "batch_sizes", "input_lens", "output_len"],
    "model": fields.MODEL_OPTIONS,
    "engines (vLLM's own names)": [*fields.ONE_GPU_ENGINE_OPTIONS, "num_gpu_blocks_override", "seed"],
    **fields.COMMON_GROUPS,
}


def _default(name: str) -> str:
    return describe(defaults.of(DEFAULTS, name))


Size = tuple[int, int]  # batch size, input length
Counts = Annotated[list[Count], Field(min_length=1)]


class BackendsConfig(Generation, Common):
    """Batches of prompts under several attention backends. `resolve` fills in what is None."""

    experiment: ClassVar[str] = "backends"

    attention_backends: Annotated[list[NonEmpty], Field(min_length=1)] | None = Field(
        None,
        description="vLLM's names, each in its own engine, and sdpa.math: PyTorch's attention alone, on "
        f"calls captured in an engine (default: {_default('attention_backends')})",
    )
    batch_sizes: Counts | None = Field(
        None, description=f"prompts at once (default: {_default('batch_sizes')})"
    )
    input_lens: Counts | None = Field(
        None, description=f"tokens in each prompt (default: {_default('input_lens')})"
    )
    output_len: Annotated[int, Field(ge=2)] | None = Field(
        None, description="measure decoding: tokens to generate from each prompt (default: only prefill)"
    )
    gpu_memory_utilization: float = Field(
        0.9, gt=0, le=1, description="share of the GPU's memory for an engine; one is up at a time"
    )
    num_gpu_blocks_override: Count | None = Field(
        None, description="blocks of KV cache (default: as many as memory allows; on a CPU just enough)"
    )
    max_num_batched_tokens: Count | None = Field(
        None,
        description="tokens of one step; a larger batch takes several "
        f"(default: the largest batch's, at most {_default('most_batched_tokens')})",
    )

    @field_validator("batch_sizes", "input_lens")
    @classmethod
    def _ascending(cls, value: Any) -> Any:
        return sorted(set(value)) if isinstance(value, list) else value

    @field_validator("attention_backends")
    @classmethod
    def _names(cls, value: Any) -> Any:
        """vLLM's names, capitalised and without duplicates."""
        if not isinstance(value, list):
            return value
        return list(dict.fromkeys(name.lower() if "." in name else name.upper() for name in value))

    @property
    def phase(self) -> str:
        """ "prefill" or "decode"."""
        return "decode" if self.output_len else "prefill"

    def engine_backends(self) -> list[str]:
        """The backends that run in an engine; needs a resolved configuration."""
        return [name for name in self.attention_backends or [] if name != SDPA]

    def cells(self) -> list[Size]:
        """Every cell; needs a resolved configuration."""
        return [(size, tokens) for size in self.batch_sizes or [] for tokens in self.input_lens or []]

    def longest(self, cells: Sequence[Size]) -> int:
        """Tokens of the longest prompt plus those generated from it; needs a resolved configuration."""
        out, per_step = self.output_len or 0, self.max_num_batched_tokens or 1
        waiting = max(batch.prefill_steps(size * tokens, per_step) for size, tokens in cells) if out else 0
        return max(tokens for _, tokens in cells) + out + waiting

    def engine(self, backend: str, cells: Sequence[Size]) -> EngineSpec:
        """A backend's engine with room for these cells; needs a resolved configuration."""
        return EngineSpec.of(
            self,
            attention_backend=backend,
            max_model_len=self.longest(cells) + 1,
            max_num_seqs=max(size for size, _ in cells),
        )


def resolve(config: BackendsConfig, device_kind: DeviceKind) -> BackendsConfig:
    """Fill in what depends on the device and check the result against it. Raises ConfigError."""
    defaults = dict(DEFAULTS[device_kind])
    most = defaults.pop("most_batched_tokens")
    config = fields.with_defaults(config, defaults)
    largest = max(size * tokens for size, tokens in config.cells())
    # vLLM requires a step to hold a token of every prompt.
    tokens = config.max_num_batched_tokens or max(min(largest, most), max(config.batch_sizes or []), 256)
    config = config.model_copy(update={"max_num_batched_tokens": tokens})
    name = f"backends-{fields.model_name(config)}-{config.phase}"
    resolved = fields.resolve_common(config, device_kind, name)
    problems = fields.common_problems(resolved, device_kind)
    problems += checks.load_format_problems(resolved.load_format)
    problems += _backend_problems(resolved, device_kind)
    most_prompts = max(config.batch_sizes or [])
    if most_prompts > batch.MOST_REQUESTS:
        problems.append(
            f"{label('batch_sizes', most_prompts)}: must be at most {batch.MOST_REQUESTS} prompts"
        )
    if (longest := max(config.input_lens or [])) > batch.LONGEST:
        problems.append(f"{label('input_lens', longest)}: {batch.LENGTH_LIMIT}")
    limit = f"{most_prompts}, the largest of --batch-sizes, so that a step holds a token of every prompt"
    problems += checks.step_problems(resolved.max_num_batched_tokens, most_prompts, limit)
    refuse(list(dict.fromkeys(problems)))
    return resolved


def find_model(config: BackendsConfig) -> ModelSource:
    """The model, if it takes the prompts and keeps a cache; raises ModelError if not."""
    source = config.inspect_model(config.longest(config.cells()))
    require_cache(source)
    return source


def _backend_problems(config: BackendsConfig, device_kind: DeviceKind) -> Iterable[str]:
    for name in config.engine_backends():
        if "." in name:
            yield (
                f"{label('attention_backends', name)}: the only attention of PyTorch's here is {SDPA}; "
                "choose it"
            )
        elif unknown := vllm_names.unknown_backend(label("attention_backends", name), name):
            yield unknown
        elif device_kind == "cpu" and name != "CPU_ATTN":
            yield (
                f"{label('attention_backends', name)}: on a CPU vLLM has only CPU_ATTN; choose it, or {SDPA}"
            )
        else:
            yield from checks.engine_problems(config.engine(name, config.cells()), device_kind)


def plan(config: BackendsConfig) -> list[str]:
    """What a resolved configuration measures, a line each."""
    cells = config.cells()
    return [
        f"backends: {', '.join(config.attention_backends or [])}, each in its own engine; one of them twice",
        f"{config.phase}: {', '.join(f'{size} x {tokens}' for size, tokens in cells)} tokens, "
        f"{len(cells)} cells a backend",
    ]
