"""The main job's options."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from harness import batch
from harness.batch import Batch
from harness.config import checks, fields
from harness.config.defaults import MIN_BATCHED_TOKENS, DeviceKind
from harness.config.engine import EngineSpec
from harness.config.errors import ConfigError, label, refuse
from harness.config.fields import (
    AnyPath,
    Common,
    Count,
    Engine,
    Index,
    KernelTiming,
    NonEmpty,
    Sweep,
)
from harness.units import counted

# On two CPU cores 4096 tokens take gpt2 four seconds: nine minutes for a run with an interval in every row.
LENGTH: dict[DeviceKind, int] = {"cuda": 4096, "cpu": 2048}

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

    length: Count = Field(
        LENGTH["cuda"],
        description="tokens in the prompt, exactly (with --batch: in the longest); "
        f"on a CPU {LENGTH['cpu']} unless given",
    )
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

    def prompts_label(self) -> str:
        """The option that says how long the prompts are, with its value."""
        if self.batch is None:
            return super().prompts_label()
        return label("batch", self.batch if len(self.batch) < 60 else batch.described(self.requests))

    def engine(self) -> EngineSpec:
        """The engine that takes all prompts whole in one step; needs a resolved configuration."""
        tokens = batch.num_tokens(self.requests)
        return EngineSpec.of(
            self,
            max_model_len=self.length + 1,
            max_num_seqs=len(self.requests),
            max_num_batched_tokens=self.max_num_batched_tokens or max(tokens + 1, MIN_BATCHED_TOKENS),
            cached_tokens=self.num_blocks() * (self.block_size or 1),
        )


def resolve(config: RunConfig, device_kind: DeviceKind) -> RunConfig:
    """The configuration with what depends on the device filled in, checked against device and files.

    With `from_captures`, lengths and block size must be the captures' own already. Raises ConfigError.
    """
    if config.from_captures is None and not {"length", "batch"} & config.model_fields_set:
        config = config.model_copy(update={"length": LENGTH[device_kind]})
    resolved = fields.resolve_common(config, device_kind, _name(config))
    if device_kind == "cuda" and config.one_token_each:  # else one CUDA graph, in which no call can be seen
        resolved = resolved.model_copy(update={"enforce_eager": True})
    problems = [*_prompt_problems(resolved), *fields.common_problems(resolved, device_kind)]
    problems += [*_capture_problems(resolved), *_variant_problems(resolved, device_kind)]
    if config.from_captures is None:
        problems += checks.load_format_problems(resolved.load_format)
        problems += checks.engine_problems(resolved.engine(), device_kind)
        backend = resolved.attention_backend or checks.DEFAULT_BACKEND[device_kind]
        problems += checks.block_size_problems("block_sizes", resolved.block_sizes or [], backend)
        problems += _one_step_problems(resolved)
    refuse([*problems, *resolved.spread_problems()])
    return resolved


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


def _prompt_problems(config: RunConfig) -> Iterable[str]:
    """A prompt that is too long, and a prompt file that is not there."""
    if config.length > batch.LONGEST:
        yield f"{label('length', config.length)}: {batch.LENGTH_LIMIT}"
    if config.prompt_file is not None and not config.prompt_file.is_file():
        yield f"{label('prompt_file', config.prompt_file)}: no such file; leave it out for a bundled passage"


def _capture_problems(config: RunConfig) -> Iterable[str]:
    """Options that --from-captures excludes."""
    if config.from_captures is None:
        return
    if config.save_captures:
        yield "--save-captures: nothing is captured with --from-captures; leave one out"
    if config.output_dir is not None and config.overwrite:
        inside = config.output_dir / "captures"
        if inside.resolve() == config.from_captures.resolve():
            yield (
                f"--overwrite: would remove the captures in {inside} that --from-captures reads; "
                "choose another --output-dir"
            )


def _variant_problems(config: RunConfig, device_kind: DeviceKind) -> Iterable[str]:
    """Lists of variants of the engine that cannot be run here, or hold nothing but the main job's own."""
    listed = {
        "block_sizes": config.block_size,
        "flash_attn_versions": config.flash_attn_version,
        "attention_backends": config.attention_backend,
    }
    for name, own in listed.items():
        values = getattr(config, name)
        if values is None:
            continue
        if config.from_captures is not None:
            yield f"{label(name, values)}: there is no engine with --from-captures; leave one out"
        elif config.tensor_parallel_size > 1:
            yield (
                f"{label(name, values)}: engines beside the main job's run on one GPU each; leave it out "
                f"or --tensor-parallel-size {config.tensor_parallel_size}"
            )
        elif device_kind == "cpu" and name != "block_sizes":
            only = (
                "flash attention needs CUDA" if name == "flash_attn_versions" else "a CPU has CPU_ATTN alone"
            )
            yield f"{label(name, values)}: {only}; leave it out"
        elif values == [own]:
            yield f"{label(name, values)}: is what the main job runs with itself; name another value"
    if unknown := set(config.flash_attn_versions or []) - {2, 3, 4}:
        yield f"{label('flash_attn_versions', sorted(unknown))}: vLLM has 2, 3 and 4"
    if config.flash_attn_versions and (config.attention_backend or "FLASH_ATTN").upper() != "FLASH_ATTN":
        yield (
            f"{label('flash_attn_versions', config.flash_attn_versions)}: --attention-backend "
            f"{config.attention_backend} has none; leave one out"
        )
    if device_kind == "cuda":
        yield from checks.backend_problems("attention_backends", config.attention_backends or [])


def _one_step_problems(config: RunConfig) -> Iterable[str]:
    """What would cut the prompts into several steps."""
    needed = batch.num_tokens(config.requests)
    of_all = f" ({counted(needed, 'token')})" if config.batch else ""
    limit = f"{config.prompts_label()}{of_all}, so that all of it stays in one step"
    yield from checks.step_problems(config.max_num_batched_tokens, needed, limit)
