"""Groups of options that several experiments have; a configuration inherits those that it needs."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from harness import batch, models
from harness.batch import Batch, Request
from harness.config import checks, defaults, engine_options
from harness.config.defaults import DeviceKind, describe
from harness.config.errors import ConfigError, label
from harness.models import ModelError, ModelSource

LONGEST_NAME = 100  # of a model in the name of a run's directory
MOST = 2**31 - 1  # what vLLM's own counts can hold
Index = Annotated[int, Field(ge=0, le=MOST)]
Count = Annotated[int, Field(ge=1, le=MOST)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]  # NumPy's generators in vLLM take no larger one
NonEmpty = Annotated[str, Field(min_length=1)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Percent = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Tables = Literal["summary", "all"]  # on the screen


def _usable(path: Path) -> Path:
    """A path with ~ as the user's home; raises ValueError if the system cannot have such a path."""
    try:
        found = path.expanduser()
        os.lstat(found)
    except RuntimeError:
        raise ValueError("a path; there is no such user") from None
    except ValueError:  # NUL, or half a character
        raise ValueError("a path of whole characters without NUL") from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise ValueError("a path of shorter names") from None
    return found


def _whole(text: str) -> str:
    """Text that the system can have in a path."""
    try:
        os.fsencode(text)
    except ValueError:
        raise ValueError("text of whole characters without NUL") from None
    if "\0" in text:
        raise ValueError("text of whole characters without NUL")
    return text


def deduplicate(value: Any) -> Any:
    """A list's values, each once; for `field_validator`."""
    return list(dict.fromkeys(value)) if isinstance(value, list) else value


def _json(options: dict[str, Any]) -> dict[str, Any]:
    try:
        json.dumps(options, allow_nan=False)
    except TypeError:
        raise ValueError("of JSON's types") from None
    except ValueError:
        raise ValueError("of finite numbers") from None
    return options


# A path may be given as text; nothing else is converted.
AnyPath = Annotated[Path, Field(strict=False), AfterValidator(_usable)]

# The options of each group as --help shows them.
ONE_GPU_ENGINE_OPTIONS = [
    "dtype",
    "block_size",
    "load_format",
    "gpu_memory_utilization",
    "enforce_eager",
    "max_num_batched_tokens",
]
ENGINE_OPTIONS = [
    *ONE_GPU_ENGINE_OPTIONS,
    "attention_backend",
    "flash_attn_version",
    "tensor_parallel_size",
    "distributed_executor_backend",
]
MODEL_OPTIONS = ["model", "revision", "trust_remote_code", "allow_long_max_model_len"]
SWEEP_OPTIONS = ["spread_k", "spread_min", "spread_max", "spread_step", "gap", "segment_sizes"]
SAMPLING_OPTIONS = ["repeats", "max_seconds", "precision"]
KERNEL_TIMING_OPTIONS = ["timer", "l2"]
OUTPUT_OPTIONS = ["output_dir", "overwrite", "resume", "tables", "print_json", "quiet"]
# Whole groups: title -> options.
ENGINE_GROUP = {"engine (vLLM's own names)": [*ENGINE_OPTIONS, "seed"]}
COMMON_GROUPS = {"measuring": SAMPLING_OPTIONS, "output": OUTPUT_OPTIONS}


class Options(BaseModel):
    """Common to all groups: no unknown keys, no conversion, immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Common(Options):
    """Every experiment's options: how long it samples, and where its run is stored."""

    experiment: ClassVar[str]  # its name: the subcommand, and "experiment" in run.json

    seed: Seed = Field(0, description="for random weights, token ids, layouts and the order of samples")
    repeats: Count | None = Field(None, description="samples per cell (default: as many as fit the time)")
    max_seconds: Seconds | None = Field(
        None,
        description="seconds to sample for, once the engine is up; replays may exceed their part by a fifth, "
        "whole prefills and a single layer get 6 rounds however long they take, as fewer have no interval "
        f"(default: {describe(defaults.MAX_SECONDS)})",
    )
    precision: Percent = Field(
        0.5,
        description="stop sampling once every contrast's 95% interval is narrower than this, in percent of "
        "its baseline",
    )

    output_dir: AnyPath | None = Field(
        None, description="where the run is stored (default: a new directory in runs/, named by the time)"
    )
    overwrite: bool = Field(False, description="replace the run in --output-dir")
    resume: bool = Field(False, description="resume the run in --output-dir")
    tables: Tables = Field(
        "summary", description="on screen: a summary, or all tables, e.g. one for each spread_k"
    )
    print_json: bool = Field(False, description="print summary.json, and no tables")
    quiet: bool = Field(False, description="print the answer in a sentence, and no tables or progress")


class KernelTiming(Options):
    """How single calls are timed."""

    timer: Literal["auto", "events", "cupti", "perf_counter"] = Field(
        "auto",
        description="what times a call: CUDA events, kernel time by CUPTI, or a CPU's clock; auto is events "
        "on CUDA, perf_counter on a CPU",
    )
    l2: Literal["warm", "cold"] | None = Field(
        None,
        description="state of the L2 cache before every call on CUDA: warm (it has just read its inputs) "
        f"or cold (flushed) (default: {defaults.L2['cuda']})",
    )


class Blocks(Options):
    """A paged KV cache."""

    block_size: Count | None = Field(
        None, description=f"tokens per block of the KV cache (default: {describe(defaults.BLOCK_SIZE)})"
    )


class Model(Blocks):
    """A model in vLLM on one GPU; engine options have vLLM's own names."""

    model: Annotated[str, AfterValidator(_whole)] = Field(
        "gpt2",
        min_length=1,
        description="Hugging Face name, local directory, or a built-in name: gpt2, smollm2-135m, "
        "or a folder of configs/models",
    )
    revision: str | None = Field(
        None, min_length=1, description="branch, tag or commit of a model on the hub (default: main)"
    )
    trust_remote_code: bool = Field(False, description="let the model's repository run its own code here")
    allow_long_max_model_len: bool = Field(
        False, description="allow prompts beyond the positions that a rotary model was trained for"
    )

    dtype: Literal["auto", "half", "float16", "bfloat16", "float", "float32"] = Field(
        "auto", description="data type of weights and activations"
    )
    load_format: str = Field(
        "auto", min_length=1, description="where weights come from; dummy: random weights"
    )
    gpu_memory_utilization: float = Field(
        0.6, gt=0, le=1, description="share of the GPU's memory for the engine; leaves room for the replay"
    )
    enforce_eager: bool = Field(False, description="no compilation, no CUDA graphs")
    max_num_batched_tokens: Count | None = Field(
        None, description="at least --length, so that the prompt stays in one step (default: just enough)"
    )

    engine_options: Annotated[dict[str, Any], AfterValidator(_json)] = Field(
        {}, description="vLLM's other engine options, e.g. kv_cache_dtype; on a command line --kv-cache-dtype"
    )

    @field_validator("load_format")
    @classmethod
    def _lower_case(cls, value: str) -> str:
        """As vLLM reads it: DUMMY is dummy."""
        return value.lower()

    def inspect_model(self, length: int, *, pools: bool = False) -> ModelSource:
        """The model, if it takes `length` tokens; see models.inspect, which raises ModelError."""
        source = models.inspect(
            self.model,
            length=length,
            trust_remote_code=self.trust_remote_code,
            allow_long=self.allow_long_max_model_len,
            load_format=self.load_format,
            revision=self.revision,
            hf_overrides=self.engine_options.get("hf_overrides"),
            pools=pools,
        )
        if source.drawn_in_engine and (quantization := self.engine_options.get("quantization")):
            raise ModelError(
                f"{label('quantization', quantization)}: the weights of {self.model} are drawn once they are "
                "in memory, where they would be quantised already; add --load-format dummy"
            )
        return source


class Engine(Model):
    """A model in vLLM, with its attention backend."""

    attention_backend: str | None = Field(
        None, min_length=1, description="vLLM's name, e.g. FLASH_ATTN (default: vLLM's choice)"
    )
    flash_attn_version: Literal[2, 3, 4] | None = Field(
        None, description="flash attention inside vLLM (default: vLLM's choice, 3 on Hopper)"
    )
    tensor_parallel_size: Count = Field(1, description="GPUs to split the model over")
    distributed_executor_backend: Literal["mp", "ray"] | None = Field(
        None, description="what starts the processes for several GPUs (default: mp)"
    )


class Generation(Model):
    """A model that generates, in engines that share the sampling time."""

    max_seconds: Seconds | None = Field(
        None,
        description="seconds to sample for, once engines are up; 3 rounds are taken anyway (default: 60)",
    )
    max_num_batched_tokens: Count | None = Field(
        None, description="tokens of one step in vLLM; longer prompts take several (default: just enough)"
    )


def _powers(device_kind: DeviceKind) -> str:
    factor = defaults.SPREAD_FACTOR[device_kind]
    return f"1, {factor}, {factor**2}, ..."


class Sweep(Blocks):
    """A sequence whose KV cache is split into spread_k segments, for several values of spread_k."""

    length: Count = Field(4096, description="exact number of tokens in the prompt")
    spread_k: Annotated[list[Count], Field(min_length=1)] | None = Field(
        None,
        description="numbers of segments to split the KV cache into, e.g. 1,4,16 "
        f"(default: {_powers('cuda')}, on a CPU {_powers('cpu')}, and the number of blocks)",
    )
    spread_min: Count | None = Field(None, description="first spread_k of a regular sweep (default: 1)")
    spread_max: Count | None = Field(
        None, description="last spread_k of a regular sweep (default: the number of blocks)"
    )
    spread_step: Count | None = Field(None, description="step of a regular sweep (default: 1)")
    gap: Literal["shuffled", "scattered"] = Field(
        "shuffled",
        description="how far apart segments lie: adjacent but out of order, or spread over the whole pool",
    )
    segment_sizes: Literal["even", "random"] = Field(
        "even", description="lengths of the segments, in whole blocks"
    )

    @field_validator("spread_k")
    @classmethod
    def _ascending(cls, value: Any) -> Any:
        return sorted(set(value)) if isinstance(value, list) else value

    @property
    def requests(self) -> Batch:
        """The sequences whose KV caches are split."""
        return (Request(self.length),)

    def num_blocks(self) -> int:
        """Blocks of all requests' KV caches together; needs a block size (see `resolve`)."""
        return sum(batch.blocks(self.requests, self._block_size()))

    def segments(self, spread_k: int) -> list[int]:
        """How many segments each request's KV cache is split into at a spread_k of the sweep; as
        `num_blocks`.
        """
        return batch.segments(self.requests, spread_k, self._block_size())

    def spreads(self) -> list[int]:
        """The sweep's values of spread_k, ascending; needs a block size (see `resolve`)."""
        if self.spread_k is not None:
            return list(self.spread_k)
        if not self.regular():
            return batch.default_spreads(self.requests, self._block_size(), defaults.SPREAD_FACTOR["cuda"])
        last = self.spread_max or batch.largest_spread(self.requests, self._block_size())
        return list(range(self.spread_min or 1, last + 1, self.spread_step or 1))

    def regular(self) -> bool:
        """Whether spread_k goes up in steps."""
        return any(value is not None for value in (self.spread_min, self.spread_max, self.spread_step))

    def _block_size(self) -> int:
        if self.block_size is None:
            raise ConfigError("--block-size: not known before the configuration is resolved")
        return self.block_size

    def prompts_label(self) -> str:
        """The option that sets the sequences' lengths, with its value."""
        return label("length", self.length)

    def spread_problems(self) -> Iterable[str]:
        """Values of spread_k for which the sequences have too few blocks; needs a block size."""
        size = self._block_size()
        for request, blocks in zip(self.requests, batch.blocks(self.requests, size), strict=True):
            if request.spread_k and request.spread_k > blocks:
                yield (
                    f"{self.prompts_label()}: {request.length}@{request.spread_k} must be split into 1.."
                    f"{blocks} segments, the number of its blocks at --block-size {size}"
                )
                return
        most = batch.largest_spread(self.requests, size)
        first, last = self.spread_min, self.spread_max
        asked = [("spread_k", k) for k in self.spread_k or []] + [("spread_min", first), ("spread_max", last)]
        beyond = [(name, k) for name, k in asked if k is not None and k > most]
        for name, k in beyond[-1:]:
            largest = " for its largest prompt" if len(self.requests) > 1 else ""
            yield (
                f"{label(name, k)}: must be within 1..{most}, the number of blocks that "
                f"{self.prompts_label()} takes{largest} at --block-size {size}"
            )
        if not beyond and first is not None and last is not None and first > last:
            yield f"{label('spread_min', first)}: must not be above --spread-max {last}; swap them"


Resolved = TypeVar("Resolved", bound=Common)


def resolve_common(config: Resolved, device_kind: DeviceKind, name: str) -> Resolved:
    """The configuration with these groups' device-dependent defaults filled in.

    Args:
        name: for a new output directory: runs/<time>-<name>.
    """
    chosen: dict[str, Any] = {
        "max_seconds": config.max_seconds or defaults.MAX_SECONDS[device_kind],
        "output_dir": config.output_dir or new_output_dir(name),
    }
    if isinstance(config, Blocks):
        size = config.block_size or defaults.BLOCK_SIZE[device_kind]
        chosen["block_size"] = size
        if isinstance(config, Sweep) and device_kind == "cpu" and not (config.spread_k or config.regular()):
            factor = defaults.SPREAD_FACTOR[device_kind]
            chosen["spread_k"] = batch.default_spreads(config.requests, size, factor)
    if isinstance(config, KernelTiming):
        chosen["l2"] = config.l2 or defaults.L2[device_kind]
    return config.model_copy(update=chosen)


def common_problems(config: Common, device_kind: DeviceKind) -> list[str]:
    """Problems of these groups' options with device and files."""
    problems = [
        *checks.directory_problems(config.output_dir, overwrite=config.overwrite, resume=config.resume)
    ]
    if isinstance(config, Model):
        problems += engine_options.problems(config.engine_options, type(config).model_fields)
    if isinstance(config, KernelTiming):
        problems += checks.timer_problems(config.timer, config.l2, device_kind)
    return problems


def model_name(config: Model) -> str:
    """The model's name for use in a file name; a directory's own name, even for "."."""
    return Path(config.model).resolve().name[:LONGEST_NAME]


def with_defaults(config: Resolved, defaults: Mapping[str, Any]) -> Resolved:
    """The configuration with None replaced by `defaults`."""
    missing = {name: value for name, value in defaults.items() if getattr(config, name) is None}
    return config.model_copy(update=missing)


def new_output_dir(name: str) -> Path:
    """A new directory in runs/, named by the time and what is measured."""
    time = datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{time}-{re.sub(r'[^A-Za-z0-9.]+', '-', name).strip('-')}"
