"""The main job's options."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

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
from harness.units import pluralise

# On two CPU cores gpt2 takes four seconds for 4096 tokens: nine minutes for a run with every interval.
LENGTH: dict[DeviceKind, int] = {"cuda": 4096, "cpu": 2048}

GraphMode = Literal["EAGER", "NONE", "PIECEWISE", "FULL"]
ENGINE_LISTS = ("block_sizes", "flash_attn_versions", "attention_backends", "cudagraph_modes")
NOT_ON_A_CPU = {
    "flash_attn_versions": "flash attention needs CUDA",
    "attention_backends": "a CPU has only CPU_ATTN",
    "cudagraph_modes": "CUDA graphs need a GPU",
}

GROUPS: dict[str, list[str]] = {
    "prompt and model": ["length", "batch", "prompt_file", *fields.MODEL_OPTIONS],
    "engine (vLLM's own names)": [*fields.ENGINE_OPTIONS, "cudagraph_mode", "seed"],
    "other engines, timed beside the main engine": [
        *ENGINE_LISTS,
    ],
    "layout sweep": [*fields.SWEEP_OPTIONS, "layouts"],
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
    """One run of the main job. What is None is filled in by `resolve` or during the run."""

    experiment: ClassVar[str] = "prefill"

    length: Count = Field(
        LENGTH["cuda"],
        description="exact number of tokens in the prompt (with --batch: in the longest); "
        f"on a CPU {LENGTH['cpu']} unless given",
    )
    batch: str | None = Field(
        None,
        min_length=1,
        description="several prompts in one step instead: 4x1024, or 1x4096,8x512@4 (those 8 always in 4 "
        "segments), or a file with one such part per line",
    )
    attention_backend: str | None = Field(
        None,
        min_length=1,
        description="vLLM's name (default: vLLM's choice); attention calls can be captured and replayed "
        "with FLASH_ATTN and TRITON_ATTN, and on a CPU with CPU_ATTN",
    )
    cudagraph_mode: GraphMode | None = Field(
        None,
        description="CUDA graphs captured for the step's number of tokens: NONE or PIECEWISE; EAGER: no "
        "compilation either (default: vLLM's own sizes, up to 512 tokens)",
    )
    prompt_file: AnyPath | None = Field(
        None,
        description="file for the prompt, a text or prompts as JSON (default: a bundled passage, or seeded "
        "token ids for a model without a tokenizer)",
    )
    layouts: AnyPath | None = Field(
        None,
        description="also layouts that traffic made: a file of a run of allocate, whose requests at the "
        "10th, 50th and 90th percentile of segments are taken",
    )
    block_sizes: Annotated[list[Count], Field(min_length=1)] | None = Field(
        None, description="also time engines with these block sizes, e.g. 16,64,256"
    )
    flash_attn_versions: Annotated[list[Count], Field(min_length=1)] | None = Field(
        None, description="also time engines with these versions of flash attention inside vLLM, e.g. 2,3"
    )
    attention_backends: Annotated[list[NonEmpty], Field(min_length=1)] | None = Field(
        None, description="also time engines with these attention backends, e.g. FLASH_ATTN,TRITON_ATTN"
    )
    cudagraph_modes: Annotated[list[NonEmpty], Field(min_length=1)] | None = Field(
        None,
        description="also time engines with these CUDA graphs, captured for the step's number of tokens: "
        "EAGER, NONE, PIECEWISE, FULL",
    )
    layers: Literal["all", "sample"] | Annotated[list[Index], Field(min_length=1)] | None = Field(
        None,
        description="layers to replay: all, sample, or indices (default: all if they fit the time, else a "
        "sample, with a notice)",
    )
    synthetic: bool = Field(
        True,
        description="also measure the kernels on random Q, K and V, beside the first captured call of every "
        "shape",
    )
    attribution: bool = Field(
        True,
        description="also override attention inside the engine, and break down the prefill's latency",
    )
    from_captures: AnyPath | None = Field(
        None, description="replay the *.safetensors of this directory, without an engine"
    )
    save_captures: bool = Field(False, description="save the captured attention calls as safetensors")

    @field_validator("layers", *ENGINE_LISTS)
    @classmethod
    def _lists_ascending(cls, value: Any) -> Any:
        return sorted(set(value)) if isinstance(value, list) else value

    @property
    def requests(self) -> Batch:
        """The prompts of one engine step, in order of arrival."""
        return batch.parse(self.batch) if self.batch else super().requests

    @property
    def one_token_each(self) -> bool:
        """Whether every prompt is a single token."""
        return all(request.length == 1 for request in self.requests)

    def prompts_label(self) -> str:
        """The option that sets the prompts' lengths, with its value."""
        if self.batch is None:
            return super().prompts_label()
        return label("batch", self.batch if len(self.batch) < 60 else batch.describe(self.requests))

    def engine(self) -> EngineSpec:
        """The engine, which takes all prompts in one step; needs a resolved configuration."""
        tokens = batch.num_tokens(self.requests)
        return EngineSpec.of(
            self,
            max_model_len=self.length + 1,
            max_num_seqs=len(self.requests),
            max_num_batched_tokens=self.max_num_batched_tokens or max(tokens + 1, MIN_BATCHED_TOKENS),
            cached_tokens=self.num_blocks() * (self.block_size or 1),
            cudagraph_tokens=tokens,
        )


def resolve(config: RunConfig, device_kind: DeviceKind) -> RunConfig:
    """Fill in what depends on the device and check the result against device and files.

    With `from_captures`, lengths and block size must already be the captures'. Raises ConfigError.
    """
    if config.from_captures is None and not {"length", "batch"} & config.model_fields_set:
        config = config.model_copy(update={"length": LENGTH[device_kind]})
    resolved = fields.resolve_common(config, device_kind, _name(config))
    if device_kind == "cuda" and config.one_token_each:  # else one CUDA graph, in which no call is visible
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
    return _with_layouts(resolved)


def _with_layouts(config: RunConfig) -> RunConfig:
    """The configuration with the layouts of --layouts among its values of spread_k. Raises ConfigError."""
    if config.layouts is None:
        return config
    from harness.experiments.prefill import natural

    if len(config.requests) > 1:
        raise ConfigError(f"{label('layouts', config.layouts)}: takes one prompt; leave --batch out")
    made = natural.read(config.layouts, config.num_blocks(), config.block_size or 0)
    spreads = sorted({*config.spreads(), *made})
    sweep = {"spread_k": spreads, "spread_min": None, "spread_max": None, "spread_step": None}
    return config.model_copy(update=sweep)


def output_dir(config: RunConfig) -> Path:
    """The run's directory: the one given, else a new one under runs/."""
    return config.output_dir or fields.new_output_dir(_name(config))


def _name(config: RunConfig) -> str:
    model = "captures" if config.from_captures else fields.model_name(config)
    length = f"{len(config.requests)}x{config.length}" if len(config.requests) > 1 else config.length
    return f"{model}-{length}"


def check_layers(config: RunConfig, num_layers: int) -> None:
    """Raise ConfigError if an index of `layers` is beyond the model's `num_layers`."""
    if isinstance(config.layers, list) and (beyond := [i for i in config.layers if i >= num_layers]):
        raise ConfigError(
            f"{label('layers', beyond)}: {config.model} has {pluralise(num_layers, 'layer')}; "
            f"must be within 0..{num_layers - 1}"
        )


def _prompt_problems(config: RunConfig) -> Iterable[str]:
    """A prompt that is too long, or a prompt file that does not exist."""
    if config.length > batch.LONGEST:
        yield f"{label('length', config.length)}: {batch.LENGTH_LIMIT}"
    if config.prompt_file is not None and not config.prompt_file.is_file():
        yield f"{label('prompt_file', config.prompt_file)}: no such file; leave it out for a bundled passage"


def _capture_problems(config: RunConfig) -> Iterable[str]:
    """Options that conflict with --from-captures."""
    if config.from_captures is None:
        return
    if config.layouts is not None:
        yield f"{label('layouts', config.layouts)}: is for an engine's cache; leave it or --from-captures out"
    if config.save_captures:
        yield "--save-captures: --from-captures captures nothing; leave one out"
    if config.output_dir is not None and config.overwrite:
        inside = config.output_dir / "captures"
        if config.from_captures.resolve().is_relative_to(inside.resolve()):
            yield (
                f"--overwrite: would remove the captures in {inside} that --from-captures reads; "
                "choose another --output-dir"
            )


def _variant_problems(config: RunConfig, device_kind: DeviceKind) -> Iterable[str]:
    """Engine variants that cannot run here, or lists that hold only the main engine's own value."""
    listed = {
        "block_sizes": config.block_size,
        "flash_attn_versions": config.flash_attn_version,
        "attention_backends": config.attention_backend,
        "cudagraph_modes": config.cudagraph_mode,
    }
    if config.cudagraph_mode == "FULL":
        yield "--cudagraph-mode FULL: its attention calls cannot be seen; list it in --cudagraph-modes"
    if config.cudagraph_mode not in (None, "EAGER") and config.enforce_eager:
        eager = "a step of one-token prompts" if config.one_token_each else "--enforce-eager"
        yield f"{label('cudagraph_mode', config.cudagraph_mode)}: {eager} has no graphs; leave it out"
    if config.cudagraph_mode and device_kind == "cpu":
        yield f"{label('cudagraph_mode', config.cudagraph_mode)}: CUDA graphs need a GPU; leave it out"
    for name, own in listed.items():
        values = getattr(config, name)
        if values is None:
            continue
        if config.from_captures is not None:
            yield f"{label(name, values)}: --from-captures starts no engine; leave one out"
        elif config.tensor_parallel_size > 1:
            yield (
                f"{label(name, values)}: other engines run on one GPU each; leave it out "
                f"or --tensor-parallel-size {config.tensor_parallel_size}"
            )
        elif device_kind == "cpu" and name != "block_sizes":
            yield f"{label(name, values)}: {NOT_ON_A_CPU[name]}; leave it out"
        elif values == [own]:
            yield f"{label(name, values)}: is already the main run's value; choose another"
    if unknown_modes := {mode.upper() for mode in config.cudagraph_modes or []} - set(get_args(GraphMode)):
        known = ", ".join(get_args(GraphMode))
        yield f"{label('cudagraph_modes', sorted(unknown_modes))}: must be among {known}"
    if unknown := set(config.flash_attn_versions or []) - {2, 3, 4}:
        yield f"{label('flash_attn_versions', sorted(unknown))}: vLLM has versions 2, 3 and 4"
    if config.flash_attn_versions and (config.attention_backend or "FLASH_ATTN").upper() != "FLASH_ATTN":
        yield (
            f"{label('flash_attn_versions', config.flash_attn_versions)}: --attention-backend "
            f"{config.attention_backend} has none; leave one out"
        )
    if device_kind == "cuda":
        yield from checks.backend_problems("attention_backends", config.attention_backends or [])


def _one_step_problems(config: RunConfig) -> Iterable[str]:
    """Options that would split the prompts into several steps."""
    needed = batch.num_tokens(config.requests)
    of_all = f" ({pluralise(needed, 'token')})" if config.batch else ""
    limit = f"{config.prompts_label()}{of_all}, so that they stay in one step"
    yield from checks.step_problems(config.max_num_batched_tokens, needed, limit)


def plan(config: RunConfig) -> list[str]:
    """What a resolved configuration measures, a line each."""
    spreads, layers = config.spreads(), config.layers
    shown = {None: "as many layers as fit the time", "all": "all layers", "sample": "three layers"}
    chosen = f"layers {', '.join(map(str, layers))}" if isinstance(layers, list) else shown[layers]
    lines = [
        f"prompts: {batch.describe(config.requests)}, {pluralise(config.num_blocks(), 'block')} of "
        f"{config.block_size} tokens",
        f"spread_k: {', '.join(map(str, spreads))}",
        f"attention calls: {chosen}, each replayed at {pluralise(len(spreads), 'value')} of spread_k"
        + (", the first of a shape also on random inputs" if config.synthetic else ""),
    ]
    if config.layouts is not None:
        lines.append(f"layouts that traffic made: {config.layouts}")
    if config.from_captures is None:
        more = " and with attention overridden in the engine" if config.attribution else ""
        lines.append(f"whole prefills: at {pluralise(len(spreads), 'value')} of spread_k{more}")
    for name in ("block_sizes", "flash_attn_versions", "attention_backends"):
        if values := getattr(config, name):
            lines.append(f"other engines, sampled as long again: {label(name, values)}")
    return lines
