"""The main job's options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from harness import batch
from harness.batch import Batch
from harness.config import checks, fields
from harness.config.checks import label
from harness.config.fields import (
    AnyPath,
    Common,
    Count,
    DeviceKind,
    Engine,
    Index,
    KernelTiming,
    Model,
    NonEmpty,
    Sweep,
)
from harness.config.loading import ConfigError
from harness.units import counted

GROUPS: dict[str, list[str]] = {
    "prompt and model": ["length", "batch", "prompt_file", *fields.MODEL_OPTIONS],
    "engine (vLLM's own names)": [*fields.ENGINE_OPTIONS, "seed"],
    "other engines, timed beside the main job's own": [
        "block_sizes",
        "flash_attn_versions",
        "attention_backends",
    ],
    "layout sweep": fields.SWEEP_OPTIONS,
    "measuring": [
        "layers",
        *fields.SAMPLING_OPTIONS,
        *fields.KERNEL_TIMING_OPTIONS,
        "synthetic",
        "attribution",
        "from_captures",
    ],
    "output": ["save_captures", *fields.OUTPUT_OPTIONS],
}


class RunConfig(Common, Engine, Sweep, KernelTiming):
    """One run of the main job. What is None is chosen by `resolve` or while running."""

    experiment: ClassVar[str] = "prefill"

    length: Count = Field(4096, description="tokens in the prompt, exactly (with --batch: in the longest)")
    batch: str | None = Field(
        None,
        min_length=1,
        description="several prompts in one step instead: 4x1024, or 1x4096,8x512@4 (those 8 always in 4 "
        "runs), or a file with such a part on each line",
    )
    attention_backend: str | None = Field(
        None,
        min_length=1,
        description="vLLM's name (default: vLLM's choice); attention calls are captured and replayed of "
        "FLASH_ATTN and TRITON_ATTN, and on a CPU of CPU_ATTN",
    )
    prompt_file: AnyPath | None = Field(
        None,
        description="text to take the prompt from; without it, a bundled passage, or seeded token ids for "
        "a model without a tokenizer",
    )
    block_sizes: Annotated[list[Count], Field(min_length=1)] | None = Field(
        None, description="time engines with these block sizes beside the main job's own, e.g. 16,64,256"
    )
    flash_attn_versions: Annotated[list[Count], Field(min_length=1)] | None = Field(
        None, description="the same with these versions of flash attention inside vLLM, e.g. 2,3"
    )
    attention_backends: Annotated[list[NonEmpty], Field(min_length=1)] | None = Field(
        None, description="the same with these attention backends, e.g. FLASH_ATTN,TRITON_ATTN"
    )
    layers: Literal["all", "sample"] | Annotated[list[Index], Field(min_length=1)] | None = Field(
        None,
        description="layers to replay: all, sample, or indices (default: all where they fit the time, "
        "else a sample, and the output says so)",
    )
    synthetic: bool = Field(
        True,
        description="measure the kernels on random Q, K and V as well, beside the first captured call of "
        "every shape",
    )
    attribution: bool = Field(
        True,
        description="steer attention inside the engine too, and account for the prefill's latency with it",
    )
    from_captures: AnyPath | None = Field(
        None, description="replay the *.safetensors of this directory, without an engine"
    )
    save_captures: bool = Field(False, description="keep the captured attention calls as safetensors")

    @field_validator("layers", "block_sizes", "flash_attn_versions", "attention_backends")
    @classmethod
    def _lists_ascending(cls, value: Any) -> Any:
        return sorted(set(value)) if isinstance(value, list) else value

    @property
    def requests(self) -> Batch:
        """The prompts of one engine step, in order of arrival."""
        return batch.parse(self.batch) if self.batch else super().requests

    @property
    def one_token_each(self) -> bool:
        """Whether no prompt has a second token."""
        return all(request.length == 1 for request in self.requests)


def resolve(config: RunConfig, device_kind: DeviceKind) -> RunConfig:
    """The configuration with what depends on the device filled in, checked against device and files.

    With `from_captures`, lengths and block size must be the captures' own already. Raises ConfigError.
    """
    resolved = fields.resolve_common(config, device_kind, _name(config))
    if device_kind == "cuda" and config.one_token_each:  # else one CUDA graph, in which no call can be seen
        resolved = resolved.model_copy(update={"enforce_eager": True})
    problems = [*checks.prompt_problems(resolved), *checks.directory_problems(resolved)]
    problems += [*checks.capture_problems(resolved), *checks.timer_problems(resolved, device_kind)]
    problems += checks.variant_problems(resolved, device_kind)
    if config.from_captures is None:
        problems += checks.engine_problems(resolved, device_kind)
        problems += checks.one_step_problems(resolved)
    fields.refuse([*problems, *checks.spread_problems(resolved)])
    return resolved


def for_engine(config: Model, length: int) -> RunConfig:
    """The engine of another experiment's configuration, as harness.engine.options takes it.

    Args:
        config: resolved.
        length: tokens of the longest prompt.
    """
    shared = RunConfig.model_fields.keys() & type(config).model_fields.keys()
    return RunConfig.model_validate({name: getattr(config, name) for name in shared} | {"length": length})


def output_dir(config: RunConfig) -> Path:
    """Where the run is stored: as asked for, else a new name under runs/."""
    return config.output_dir or fields.new_output_dir(_name(config))


def _name(config: RunConfig) -> str:
    model = "captures" if config.from_captures else fields.model_name(config)
    length = f"{len(config.requests)}x{config.length}" if len(config.requests) > 1 else config.length
    return f"{model}-{length}"


def check_layers(config: RunConfig, num_layers: int) -> None:
    """Raise ConfigError if an index of `layers` is beyond the model's `num_layers`."""
    if isinstance(config.layers, list) and (beyond := [i for i in config.layers if i >= num_layers]):
        raise ConfigError(
            f"{label('layers', beyond)}: {config.model} has {counted(num_layers, 'layer')}; "
            f"must be within 0..{num_layers - 1}"
        )
