"""What a run is asked to do: defaults < a YAML file < the command line, validated.

The fields of `RunConfig` are the one source of the YAML keys and of the command line's options.
numpy is imported only once there is something to check, so that --help stays quick.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from harness import checks
from harness.checks import label

Index = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Percent = Annotated[float, Field(gt=0, allow_inf_nan=False)]
# A path may be written as text, though nothing else is converted.
AnyPath = Annotated[Path, Field(strict=False)]

REGULAR_SWEEP = ("spread_min", "spread_max", "spread_step")
BLOCK_SIZE = {"cuda": 16, "cpu": 128}
MAX_SECONDS = {"cuda": 45.0, "cpu": 120.0}
L2 = {"cuda": "warm", "cpu": None}


class ConfigError(ValueError):
    """Bad input, in one line that names the value, the limit and the way out."""


class RunConfig(BaseModel):
    """One run of the main job. What is None is chosen by `resolve` or while running."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    model: str = Field(
        "gpt2",
        min_length=1,
        description="Hugging Face name, local directory, or a built-in name: gpt2, smollm2-135m, "
        "or a folder of configs/models",
    )
    length: Count = Field(4096, description="tokens in the prompt, exactly")
    prompt_file: AnyPath | None = Field(
        None,
        description="text to take the prompt from; without it, a bundled passage, or seeded token ids for "
        "a model without a tokenizer",
    )
    trust_remote_code: bool = Field(False, description="let the model's repository run its own code here")
    allow_long_max_model_len: bool = Field(
        False, description="go beyond the positions a rotary model was made for"
    )

    dtype: Literal["auto", "half", "float16", "bfloat16", "float", "float32"] = Field(
        "auto", description="data type of weights and activations"
    )
    block_size: Count | None = Field(
        None, description="tokens per block of the KV cache (default: 16 on CUDA, 128 on a CPU)"
    )
    load_format: str = Field("auto", min_length=1, description="where weights come from; dummy makes them up")
    gpu_memory_utilization: float = Field(
        0.6, gt=0, le=1, description="share of the GPU's memory for the engine; leaves room for the replay"
    )
    enforce_eager: bool = Field(False, description="no compilation, no CUDA graphs")
    attention_backend: str | None = Field(
        None, min_length=1, description="vLLM's name, e.g. FLASH_ATTN (default: vLLM's choice)"
    )
    flash_attn_version: Literal[2, 3, 4] | None = Field(
        None, description="flash attention inside vLLM (default: vLLM's choice, 3 on Hopper)"
    )
    tensor_parallel_size: Count = Field(1, description="GPUs to split the model over")
    max_num_batched_tokens: Count | None = Field(
        None, description="at least --length, so that the prompt stays in one step (default: what it takes)"
    )
    seed: Index = Field(0, description="for made-up weights, token ids, layouts and the order of samples")

    spread_k: Annotated[list[Count], Field(min_length=1)] | None = Field(
        None,
        description="numbers of runs to split the KV cache into, e.g. 1,4,16 "
        "(default: 1, 2, 4, ... and the number of blocks)",
    )
    spread_min: Count | None = Field(None, description="first spread_k of a regular sweep (default: 1)")
    spread_max: Count | None = Field(
        None, description="last spread_k of a regular sweep (default: the number of blocks)"
    )
    spread_step: Count | None = Field(None, description="step of a regular sweep (default: 1)")
    gap: Literal["shuffled", "scattered"] = Field(
        "shuffled",
        description="how far apart runs lie: side by side but out of order, or all over the pool",
    )
    run_sizes: Literal["even", "random"] = Field("even", description="lengths of the runs, in whole blocks")

    layers: Literal["all", "sample"] | Annotated[list[Index], Field(min_length=1)] | None = Field(
        None,
        description="layers to replay: all, sample, or indices (default: all where they fit the time, "
        "else a sample, and the output says so)",
    )
    repeats: Count | None = Field(None, description="samples per cell (default: as many as fit the time)")
    max_seconds: Seconds | None = Field(
        None,
        description="time for all sampling, once the engine is up (default: 45 on CUDA, 120 on a CPU)",
    )
    precision: Percent = Field(
        0.5,
        description="stop sampling when every contrast's 95% interval is narrower than this from end to end, "
        "in percent of its baseline",
    )
    timer: Literal["auto", "events", "cupti", "perf_counter"] = Field(
        "auto",
        description="what times a call: CUDA events, kernel time by CUPTI, or a CPU's clock; auto is events "
        "on CUDA, perf_counter on a CPU",
    )
    l2: Literal["warm", "cold"] | None = Field(
        None,
        description="the L2 cache that every call on CUDA starts from: warm, it has just read its inputs, or "
        "cold, flushed (default: warm)",
    )
    attribution: bool = Field(
        True,
        description="steer attention inside the engine too, and account for the prefill's latency with it",
    )
    from_captures: AnyPath | None = Field(
        None, description="replay the *.safetensors of this directory, without an engine"
    )

    save_captures: bool = Field(False, description="keep the captured attention calls as safetensors")
    output_dir: AnyPath | None = Field(
        None, description="where the run is stored (default: runs/<time>-<model>-<length>)"
    )
    overwrite: bool = Field(False, description="replace a run that the output directory holds")
    resume: bool = Field(False, description="go on with the run that the output directory holds")
    quiet: bool = Field(False, description="no progress on screen")

    @field_validator("spread_k", "layers")
    @classmethod
    def _ascending(cls, value: Any) -> Any:
        return sorted(set(value)) if isinstance(value, list) else value

    def num_blocks(self) -> int:
        """Blocks of the request's KV cache; needs a block size (see `resolve`)."""
        from harness import layout

        if self.block_size is None:
            raise ConfigError("--block-size: not known before the configuration is resolved")
        return layout.num_blocks(self.length, self.block_size)

    def spreads(self) -> list[int]:
        """The sweep's values of spread_k, ascending; needs a block size (see `resolve`)."""
        from harness import layout

        if self.spread_k is not None:
            return list(self.spread_k)
        if self.spread_min is self.spread_max is self.spread_step is None:
            return layout.default_spreads(self.num_blocks())
        last = self.spread_max or self.num_blocks()
        return list(range(self.spread_min or 1, last + 1, self.spread_step or 1))


def load(options: Mapping[str, Any], yaml_path: Path | None = None) -> RunConfig:
    """The configuration from command-line `options` (field name -> value) over a YAML file's over defaults.

    Raises ConfigError with everything that is wrong, in one line.
    """
    from_yaml = _read_yaml(yaml_path) if yaml_path else {}
    for values, source in ((from_yaml, yaml_path), (options, None)):
        regular = [name for name in REGULAR_SWEEP if values.get(name) is not None]
        if regular and values.get("spread_k") is not None:
            both = (label(name, values[name], source) for name in ("spread_k", regular[0]))
            raise ConfigError(f"{' and '.join(both)}: exclude each other; leave one out")
    overruled: set[str] = set()
    if "spread_k" in options:
        overruled = set(REGULAR_SWEEP)
    elif any(name in options for name in REGULAR_SWEEP):
        overruled = {"spread_k"}
    merged = {name: value for name, value in from_yaml.items() if name not in overruled} | dict(options)
    try:
        return RunConfig.model_validate(merged)
    except ValidationError as error:
        source_of = {name: None if name in options else yaml_path for name in merged}
        raise ConfigError("; ".join(_in_words(error, merged, source_of))) from None


def resolve(config: RunConfig, device_kind: Literal["cuda", "cpu"]) -> RunConfig:
    """The configuration with what depends on the device filled in, checked against device and files.

    With `from_captures`, length and block size must be the captures' own already. Raises ConfigError.
    """
    chosen = {
        "block_size": config.block_size or BLOCK_SIZE[device_kind],
        "max_seconds": config.max_seconds or MAX_SECONDS[device_kind],
        "l2": config.l2 or L2[device_kind],
        "output_dir": output_dir(config),
    }
    resolved = config.model_copy(update=chosen)
    problems = [*checks.file_problems(resolved), *checks.timer_problems(resolved, device_kind)]
    if config.from_captures is None:
        problems += checks.engine_problems(resolved, device_kind)
    problems += checks.spread_problems(resolved)
    if problems:
        raise ConfigError("; ".join(problems))
    return resolved


def output_dir(config: RunConfig) -> Path:
    """Where the run is stored: as asked for, else a new name under runs/."""
    if config.output_dir is not None:
        return config.output_dir
    time = datetime.now().strftime("%Y%m%d-%H%M%S")
    name = "captures" if config.from_captures else Path(config.model).resolve().name
    model = re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")
    return Path("runs") / f"{time}-{model}-{config.length}"


def check_layers(config: RunConfig, num_layers: int) -> None:
    """Raise ConfigError if an index of `layers` is beyond the model's `num_layers`."""
    if isinstance(config.layers, list) and (beyond := [i for i in config.layers if i >= num_layers]):
        raise ConfigError(
            f"{label('layers', beyond)}: {config.model} has {num_layers} layers; "
            f"must be within 0..{num_layers - 1}"
        )


def value_types(name: str) -> list[Any]:
    """The types a field's value can have, None left out: bool, int, float, str, Path, list, or a Literal."""
    return [*_plain_types(RunConfig.model_fields[name].annotation)]


def expects(name: str) -> str:
    """What a field's value must be, in words that follow "must be"."""
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}
    parts = []
    for kind in value_types(name):
        if get_origin(kind) is Literal:
            choices = [str(choice) for choice in get_args(kind)]
            parts.append(", ".join(choices[:-1]) + f" or {choices[-1]}")
        elif get_origin(kind) is list:
            parts.append("a list of whole numbers, e.g. 1,4,16 (in YAML [1, 4, 16])")
        else:
            parts.append(words[kind])
    return ", or ".join(parts)


def _plain_types(annotation: Any) -> Iterable[Any]:
    if get_origin(annotation) is Annotated:
        yield from _plain_types(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, UnionType):
        for member in get_args(annotation):
            yield from _plain_types(member)
    elif annotation is not NoneType:
        yield annotation


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--config {path}: {error.strerror}; configs/ holds examples") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path}: not YAML: {error}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"--config {path}: must hold lines like 'length: 4096'; configs/ holds examples")
    for key in values:
        if key not in RunConfig.model_fields:
            near = difflib.get_close_matches(str(key), RunConfig.model_fields, 1, cutoff=0)
            raise ConfigError(f"{path}: {key}: unknown key; the nearest is {near[0]}")
    return values


def _in_words(
    error: ValidationError, values: Mapping[str, Any], source_of: Mapping[str, Path | None]
) -> Iterable[str]:
    """One problem for each field that is wrong; of a union's several complaints, the one about a limit."""
    limits = {"greater_than_equal": "at least", "greater_than": "more than", "less_than_equal": "at most"}
    must_be: dict[str, str] = {}
    for item in error.errors():
        name = str(item["loc"][0])
        if item["type"] in limits:
            must_be[name] = f"{limits[item['type']]} {next(iter(item['ctx'].values()))}"
        must_be.setdefault(
            name, expects(name) + (", not empty" if item["type"].endswith("too_short") else "")
        )
    for name, limit in must_be.items():
        yield f"{label(name, values[name], source_of[name])}: must be {limit}"
