"""run.json: all keys of a run's record. An absent key was not measured, or belongs to another experiment."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidatorFunctionWrapHandler, WrapValidator

from harness import batch, files
from harness.batch import Batch
from harness.runs import former
from harness.runs.stored import LARGEST, Amount, Count, Interval, RunStatus, Stored, require_readable

SCHEMA_VERSION = 2
MOST_BLOCKS = 1 << 20  # of one block table: eight times the longest prompt, at one token per block
_RANGES = re.compile(r"\d{1,10}(-\d{1,10})?(,\d{1,10}(-\d{1,10})?)*|")
Window = Annotated[
    tuple[int, int],
    BeforeValidator(lambda sides: tuple(sides) if isinstance(sides, list) else sides),
]


def _block_table(text: str) -> str:
    if not _RANGES.fullmatch(text):
        raise ValueError("must be ranges of block ids, e.g. 257-384,7")
    count = 0
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        count += abs(int(last or first) - int(first)) + 1
    if count > MOST_BLOCKS:
        raise ValueError(f"{count} blocks; a table has at most {MOST_BLOCKS}")
    return text


def _option(value: object) -> object:
    for each in value if isinstance(value, list) else [value]:
        if not isinstance(each, bool | int | float | str | None):
            raise ValueError("must be a value or a list of values")
        if isinstance(each, float) and not math.isfinite(each):
            raise ValueError("must be finite")
        if isinstance(each, int) and abs(each) > LARGEST:
            raise ValueError(f"must be at most {LARGEST}")
    return value


def _config(config: Any, check_options: ValidatorFunctionWrapHandler) -> Any:
    """Check an experiment's options; vLLM's own among them may be any JSON."""
    passed_on = config.get("engine_options") if isinstance(config, dict) else None
    if not isinstance(passed_on, dict):
        return check_options(config)
    files.require_bounded(passed_on)
    rest = {name: value for name, value in config.items() if name != "engine_options"}
    return check_options(rest) | {"engine_options": passed_on}


def _with_prompts(config: dict[str, Any]) -> dict[str, Any]:
    """The options, whose prompts can be read as `RunRecord.prompts` reads them: as text, never as a file."""
    written, length = config.get("batch"), config.get("length")
    if written is not None:
        if not isinstance(written, str):
            raise ValueError("batch: must be text, e.g. 4x1024")
        batch.parse(written)
    if length is not None and (type(length) is not int or not 1 <= length <= LARGEST):
        raise ValueError("length: must be a whole number of tokens")
    return config


BlockTable = Annotated[str, AfterValidator(_block_table)]
Option = Annotated[Any, AfterValidator(_option)]
Options = Annotated[dict[str, Option], WrapValidator(_config)]


class Device(Stored):
    """The device that a run was measured on."""

    name: str = Field(description="as it names itself")
    kind: Literal["cuda", "cpu"] = Field(description="`cuda` or `cpu`")
    memory_bytes: Count | None = Field(default=None, description="of one GPU, or of the host")
    cores: Count | None = Field(default=None, description="on a CPU, those that the process may use")
    count: Count | None = Field(default=None, description="GPUs")
    compute_capability: str | None = Field(default=None, description='of a GPU, e.g. "9.0"')
    driver: str | None = Field(default=None, description="version of a GPU's driver")


class Model(Stored):
    """The model of a run, or whatever else is measured; shapes are per rank, as attention sees them."""

    name: str = Field(description="as requested")
    weights: str | None = Field(default=None, description="where they come from")
    num_layers: Count | None = Field(default=None, description="attention layers, without those left out")
    layers_left_out: Count | None = Field(
        default=None, description="attention layers that can neither be replayed nor overridden"
    )
    num_heads: Count | None = Field(default=None, description="query heads")
    num_kv_heads: Count | None = Field(default=None, description="heads of K and V")
    head_dim: Count | None = Field(default=None, description="elements per head")
    dtype: str | None = Field(default=None, description="e.g. `bfloat16`")
    drawn_apart: bool | None = Field(default=None, description="whether each engine draws its own weights")


class EngineSettings(Stored):
    """vLLM's effective settings."""

    dtype: str | None = Field(default=None, description="e.g. `bfloat16`")
    block_size: Count | None = Field(default=None, description="tokens per block")
    max_model_len: Count | None = Field(default=None, description="tokens per request")
    max_num_batched_tokens: Count | None = Field(default=None, description="tokens per step")
    max_num_seqs: Count | None = Field(default=None, description="requests per step")
    compilation_mode: str | None = Field(default=None, description="of torch.compile")
    cudagraph_mode: str | None = Field(default=None, description="which steps run as CUDA graphs")
    enforce_eager: bool | None = Field(default=None, description="no compilation, no CUDA graphs")
    prefix_caching: bool | None = Field(default=None, description="whether blocks are reused")
    flash_attn_version: Count | None = Field(default=None, description="2, 3 or 4; null: another backend")
    attention_backend: list[str] | None = Field(default=None, description="the layers' backends, each once")
    async_scheduling: bool | None = Field(
        default=None, description="whether the host plans a step while another runs"
    )
    cudagraph_capture_sizes: list[Count] | None = Field(default=None, description="tokens of CUDA graphs")
    num_blocks_in_pool: Count | None = Field(default=None, description="blocks of the KV cache")
    kv_cache_bytes: Count | None = Field(default=None, description="of the blocks available to requests")
    start_s: Amount | None = Field(default=None, description="seconds until it was up")


class RequestRecord(Stored):
    """One prompt of the step."""

    length: Count = Field(description="tokens")
    blocks: Count = Field(description="of its KV cache")
    segments: dict[str, Count] = Field(
        description="by `spread_k`, the segments that its blocks are split into"
    )


class Ceilings(Stored):
    """The device's measured ceilings."""

    tflops: Amount | None = Field(default=None, description="a large matrix product, TFLOP/s")
    gbps: Amount | None = Field(default=None, description="a large copy, GB/s")
    clock_mhz: Amount | None = Field(default=None, description="SM clock at which they were measured")


class NaturalLayout(Stored):
    """A layout of `--layouts`, which traffic made."""

    percentiles: list[float] = Field(
        description="of segments, over the requests as long as the prompt, at which it lies"
    )
    source: str = Field(description="what made it")


class SpreadRange(Stored):
    """The number of segments in vLLM's own allocations."""

    min: Count = Field(description="fewest")
    median: Count = Field(description="of all prefills")
    max: Count = Field(description="most")


class ProfiledKernel(Stored):
    """One of the longest kernels of a profiled prefill, or operators on a CPU."""

    name: str = Field(description="the profiler's name for it")
    category: str = Field(description="the category it counts as")
    ms: Amount = Field(description="of all its calls")
    calls: Count = Field(description="in the prefill")


class ProfileRecord(Stored):
    """One profiled prefill."""

    arm: str = Field(description="of the whole prefills")
    spread_k: Count = Field(description="segments of a prompt's blocks")
    profiled_ms: Amount = Field(description="the step under the profiler")
    busy_ms: Amount = Field(description="the GPU at work; on a CPU the operators")
    categories: dict[str, Amount] = Field(description="ms by category")
    top: list[ProfiledKernel] = Field(description="the longest kernels")
    device: Literal["cuda", "cpu"] = Field(description="`cuda` or `cpu`")


class InjectedDelay(Stored):
    """The delay of the arm `spin`, over all layers."""

    ms: float | None = Field(default=None, description="null: its kernel was not seen")
    ci95_ms: Interval | None = Field(default=None, description="null below 6 layers")


class VariantRecord(Stored):
    """One of several engines side by side."""

    settings: EngineSettings | None = Field(default=None, description="the effective ones")
    start_s: Amount | None = Field(default=None, description="seconds until it was up")
    logits_error: Amount | None = Field(
        default=None, description="distance from the baseline's logits, in their standard deviations"
    )


class CandidateRecord(Stored):
    """One of the engines that `advise` tries."""

    change: str = Field(description="what differs from stock, as `vllm serve` takes it")
    serve: str = Field(description="the whole `vllm serve` line, with the plugin's variable where it has it")
    settings: EngineSettings | None = Field(default=None, description="the effective ones; null: not started")
    worst: Amount | None = Field(default=None, description="the largest difference from stock's answers")


class ComparedOutput(Stored):
    """One prompt's tokens after a reset of the prefix cache and with a warm one."""

    reset: list[Count] = Field(description="token ids")
    warm: list[Count] = Field(description="token ids")
    reset_text: str | None = Field(description="null: no tokenizer")
    warm_text: str | None = Field(description="null: no tokenizer")
    logits_error: Amount = Field(description="of the first token's logits, in their standard deviations")
    objection: str | None = Field(description="what is wrong with them")


class FirstLogits(Stored):
    """A generation's first logits compared with those without a cache."""

    error: Amount = Field(description="in their standard deviations")
    allowed: Amount | None = Field(default=None, description="of `error`")
    objection: str | None = Field(description="what is wrong with them")


class WorkRecord(Stored):
    """The requests of a whole work."""

    format: str = Field(description="what their file was read as; `random` or `case` without one")
    requests: Count = Field(description="those that were run")
    tokens: Count = Field(description="of all of them, by the model's own tokenizer")
    shortest: Count = Field(description="tokens of the shortest")
    longest: Count = Field(description="tokens of the longest")
    skipped: Count = Field(description="wrong lines, left out")


class HostLoad(Stored):
    """What the host did besides the run; null where it does not say."""

    cpus: Count = Field(description="that the run may use")
    load_before: Amount | None = Field(
        description="processes that ran or waited, in the minute before the run"
    )
    other_cpus: Amount | None = Field(description="CPUs that other processes kept busy, on average")
    steal_pct: Amount | None = Field(description="CPU time that other virtual machines took")
    mhz_before: Amount | None = Field(description="CPU clock before the run, mean over CPUs")
    mhz_after: Amount | None = Field(description="the same at its end")
    temperature_before_c: float | None = Field(description="hottest zone of the host before the run")
    temperature_after_c: float | None = Field(description="the same at its end")
    gpu_processes_before: Count | None = Field(description="processes on the GPUs before the run")


class RunRecord(Stored):
    """run.json: configuration, versions, device, and findings during the run."""

    schema_version: Literal[2] = Field(default=2, description="2")
    experiment: str = Field(description="which one; `prefill` is the main job")
    status: RunStatus = Field(description="`running`, `finished`, `interrupted` or `failed`")
    error: str | None = Field(default=None, description="of a run that failed")
    started: str | None = Field(default=None, description="UTC")
    finished: str | None = Field(default=None, description="UTC, also when it was interrupted")
    resumed: list[str] | None = Field(default=None, description="UTC, each time")
    command: list[str] | None = Field(
        default=None,
        description="as typed, a list of words: `python -m harness ...`; null: started from Python",
    )
    config: Annotated[Options, AfterValidator(_with_prompts)] = Field(
        description="every option, with defaults for the device filled in; vLLM's own in `engine_options`"
    )
    device: Device
    versions: dict[str, str | None] = Field(
        description="python, vllm, torch, flash-attn, ..., and the harness with its commit"
    )
    model: Model
    notices: list[str] = Field(description="notices for every reader of the results")
    peak_memory_bytes: dict[str, Count] | None = Field(
        default=None, description="by part of the run, e.g. `spread=4`"
    )
    prompt: str | None = Field(default=None, description="where its tokens come from")
    engine: EngineSettings | None = None
    engine_start_s: Amount | None = Field(default=None, description="seconds until it was up")
    fewest_samples: Count | None = Field(default=None, description="of the cells")
    measuring_s: Amount | None = Field(default=None, description="since the engine's start")
    sampling_s: Amount | None = Field(default=None, description="of those, spent sampling")
    timer: str | None = Field(default=None, description="how kernels were timed")
    spread_k: list[Count] | None = Field(default=None, description="the sweep")
    num_blocks: Count | None = Field(default=None, description="of all prompts together")
    layers: list[Count] | None = Field(default=None, description="the replayed ones")
    layer_windows: dict[str, Window] | None = Field(
        default=None, description="by layer: its sliding window, where it has one"
    )
    causal: bool | None = Field(default=None, description="whether attention is causal")
    requests: list[RequestRecord] | None = None
    block_ids: dict[str, list[BlockTable]] | None = Field(
        default=None,
        description="by `spread_k`, and `engine` for vLLM's own choice: for each request its block table as "
        "text, segments of physical ids in logical order: `257-384,1-128,7`",
    )
    natural_layouts: dict[str, NaturalLayout] | None = Field(
        default=None, description="by `spread_k`: which points of the sweep are layouts that traffic made"
    )
    first_tokens: list[Count] | None = Field(default=None, description="the token predicted for each prompt")
    ceilings: Ceilings | None = None
    logits_error: dict[str, Amount] | None = Field(
        default=None,
        description="by arm: distance from the untouched engine's logits, in their standard deviations",
    )
    engine_spread_k: SpreadRange | None = None
    profile: list[ProfileRecord] | None = None
    injected_ms: InjectedDelay | None = None
    variants: dict[str, VariantRecord] | None = Field(default=None, description="other engines, by name")
    outputs: dict[str, list[ComparedOutput]] | None = Field(
        default=None, description="by share in the cache, %"
    )
    candidates: dict[str, CandidateRecord] | None = Field(
        default=None, description="by name, `stock` among them: the engines that `advise` tries"
    )
    kv_bytes_per_token: Count | None = Field(default=None, description="K and V of all layers")
    sources: dict[str, dict[str, str]] | None = Field(
        default=None, description="by engine and figure: the counter"
    )
    tokens_by_stage: dict[str, dict[str, list[Count]]] | None = Field(
        default=None, description="by engine and stage: the first tokens"
    )
    engines: dict[str, EngineSettings] | None = Field(default=None, description="by backend")
    captured_from: EngineSettings | None = Field(
        default=None, description="whose attention calls were captured"
    )
    tokens: dict[str, list[Count]] | None = Field(default=None, description="by mode: the generated tokens")
    first_logits: dict[str, FirstLogits] | None = Field(default=None, description="by mode")
    work: WorkRecord | None = Field(default=None, description="of `workload`")
    host_load: HostLoad | None = Field(default=None, description="noise from elsewhere")

    @property
    def prompts(self) -> Batch:
        """The requests of the run; none if its configuration does not tell."""
        if written := self.config.get("batch"):
            return batch.parse(written)
        return (batch.Request(self.config["length"]),) if self.config.get("length") else ()

    @classmethod
    def parse(cls, data: object) -> RunRecord:
        """Read a record of this version or an earlier one.

        Raises, in one line, TooNew if a later version wrote it, ValueError on anything else.
        """
        version = require_readable(data, SCHEMA_VERSION)
        assert isinstance(data, dict)
        return cls.check(former.upgrade_record(data, version))
