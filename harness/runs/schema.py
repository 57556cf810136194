"""run.json: every key that a run's record may have, and how records of earlier versions are read.

Numbers are finite. A key that is absent was not measured, or is of another experiment.
"""

from __future__ import annotations

import json
import math
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from harness import batch
from harness.batch import Batch

SCHEMA_VERSION = 2
MOST_BLOCKS = 1 << 20  # of one block table: eight times the longest prompt with a token a block
_RANGES = re.compile(r"\d{1,10}(-\d{1,10})?(,\d{1,10}(-\d{1,10})?)*|")
_PROBLEMS = {  # by pydantic's type of error
    "missing": "is missing",
    "extra_forbidden": "is no key of this file",
    "unexpected_keyword_argument": "is no key of this file",
}
# Arms of whole prefills that older runs call otherwise: what kvcache calls no_cache is another thing.
FORMER_ARMS = {"no_cache": "no_write"}
_LONGEST_TEXT = 120  # of a key or a value that an error names

Count = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0)]
Interval = Annotated[
    tuple[float, float],
    BeforeValidator(lambda bounds: tuple(bounds) if isinstance(bounds, list) else bounds),
]
Window = Annotated[
    tuple[int, int],
    BeforeValidator(lambda sides: tuple(sides) if isinstance(sides, list) else sides),
]
RunStatus = Literal["running", "finished", "interrupted", "failed"]


def _block_table(text: str) -> str:
    if not _RANGES.fullmatch(text):
        raise ValueError("no ranges of block ids, e.g. 257-384,7")
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
    return value


BlockTable = Annotated[str, AfterValidator(_block_table)]
Option = Annotated[Any, AfterValidator(_option)]


class TooNew(ValueError):
    """A file that a later version of this project wrote."""


class Stored(BaseModel):
    """What a file of a run holds: no other keys, no other types, no NaN; assignments are checked, too."""

    model_config = ConfigDict(
        strict=True, extra="forbid", allow_inf_nan=False, validate_assignment=True, protected_namespaces=()
    )

    def to_json(self) -> dict[str, Any]:
        """A JSON object of what was set."""
        return self.model_dump(mode="json", exclude_unset=True)


class Device(Stored):
    """What a run was measured on."""

    name: str = Field(description="as it names itself")
    kind: Literal["cuda", "cpu"] = Field(description="`cuda` or `cpu`")
    memory_bytes: Count | None = Field(default=None, description="of one GPU, or of the host")
    cores: Count | None = Field(default=None, description="those that the process may use, on a CPU")
    count: Count | None = Field(default=None, description="GPUs")
    compute_capability: str | None = Field(default=None, description='of a GPU, e.g. "9.0"')
    driver: str | None = Field(default=None, description="version of a GPU's")


class Model(Stored):
    """The model of a run, or what else is measured; shapes are a rank's, as attention sees them."""

    name: str = Field(description="as it was asked for")
    weights: str | None = Field(default=None, description="where they come from")
    num_layers: Count | None = Field(default=None, description="attention layers")
    num_heads: Count | None = Field(default=None, description="query heads")
    num_kv_heads: Count | None = Field(default=None, description="heads of K and V")
    head_dim: Count | None = Field(default=None, description="numbers a head")
    dtype: str | None = Field(default=None, description="e.g. `bfloat16`")
    drawn_apart: bool | None = Field(default=None, description="whether each engine draws weights of its own")


class EngineSettings(Stored):
    """vLLM's settings as they came out."""

    dtype: str | None = Field(default=None, description="e.g. `bfloat16`")
    block_size: Count | None = Field(default=None, description="tokens a block")
    max_model_len: Count | None = Field(default=None, description="tokens a request")
    max_num_batched_tokens: Count | None = Field(default=None, description="tokens a step")
    max_num_seqs: Count | None = Field(default=None, description="requests a step")
    compilation_mode: str | None = Field(default=None, description="of torch.compile")
    cudagraph_mode: str | None = Field(default=None, description="which steps run as CUDA graphs")
    enforce_eager: bool | None = Field(default=None, description="no compilation, no CUDA graphs")
    prefix_caching: bool | None = Field(default=None, description="whether blocks are reused")
    flash_attn_version: Count | None = Field(default=None, description="2, 3 or 4; null: another backend")
    attention_backend: list[str] | None = Field(default=None, description="the layers' backends, each once")
    num_blocks_in_pool: Count | None = Field(default=None, description="blocks of the KV cache")
    kv_cache_bytes: Count | None = Field(default=None, description="of the blocks that requests can have")
    start_s: Amount | None = Field(default=None, description="seconds until it was up")


class RequestRecord(Stored):
    """One prompt of the step."""

    length: Count = Field(description="tokens")
    blocks: Count = Field(description="of its KV cache")
    runs: dict[str, Count] = Field(description="by `spread_k`, the runs that its blocks are split into")


class Ceilings(Stored):
    """What the device reaches at best."""

    tflops: Amount | None = Field(default=None, description="a large matrix product, TFLOP/s")
    gbps: Amount | None = Field(default=None, description="a large copy, GB/s")


class SpreadRange(Stored):
    """The runs that vLLM's own allocations had."""

    min: Count = Field(description="fewest")
    median: Count = Field(description="of all prefills")
    max: Count = Field(description="most")


class ProfiledKernel(Stored):
    """One of the longest kernels of a profiled prefill, or operators on a CPU."""

    name: str = Field(description="as the profiler has it")
    category: str = Field(description="what it counts as")
    ms: Amount = Field(description="of all its calls")
    calls: Count = Field(description="in the prefill")


class ProfileRecord(Stored):
    """One profiled prefill."""

    arm: str = Field(description="of the whole prefills")
    spread_k: Count = Field(description="runs of a prompt's blocks")
    profiled_ms: Amount = Field(description="the step under the profiler")
    busy_ms: Amount = Field(description="the GPU at work; on a CPU the operators")
    categories: dict[str, Amount] = Field(description="ms by category")
    top: list[ProfiledKernel] = Field(description="the longest kernels")
    device: Literal["cuda", "cpu"] = Field(description="`cuda` or `cpu`")


class PlantedDelay(Stored):
    """The delay of the arm `spin`, over all layers."""

    ms: float | None = Field(default=None, description="null: its kernel was not seen")
    ci95_ms: Interval | None = Field(default=None, description="null below 6 layers")


class VariantRecord(Stored):
    """One of several engines side by side."""

    settings: EngineSettings | None = Field(default=None, description="as they came out")
    start_s: Amount | None = Field(default=None, description="seconds until it was up")
    logits_error: Amount | None = Field(
        default=None, description="off the baseline's, in their standard deviations"
    )


class ComparedOutput(Stored):
    """One prompt's tokens after a reset of the prefix cache and from a warm one."""

    reset: list[Count] = Field(description="token ids")
    warm: list[Count] = Field(description="token ids")
    reset_text: str | None = Field(description="null: no tokenizer")
    warm_text: str | None = Field(description="null: no tokenizer")
    logits_error: Amount = Field(description="of the first token's, in their standard deviations")
    objection: str | None = Field(description="what is wrong with them")


class FirstLogits(Stored):
    """A generation's first logits against those without a cache."""

    error: Amount = Field(description="in their standard deviations")
    objection: str | None = Field(description="what is wrong with them")


class RunRecord(Stored):
    """run.json: configuration, versions, device, what was found on the way."""

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
    config: dict[str, Option] = Field(description="every option, those chosen for the device filled in")
    device: Device
    versions: dict[str, str | None] = Field(
        description="python, vllm, torch, flash-attn, ..., and the harness with its commit"
    )
    model: Model
    notices: list[str] = Field(description="what every reader of the results must know")
    peak_memory_bytes: dict[str, Count] | None = Field(
        default=None, description="by part of the run, e.g. `spread=4`"
    )
    prompt: str | None = Field(default=None, description="where its tokens come from")
    engine: EngineSettings | None = None
    engine_start_s: Amount | None = Field(default=None, description="seconds until it was up")
    fewest_samples: Count | None = Field(default=None, description="of the cells")
    measuring_s: Amount | None = Field(default=None, description="from the engine's start")
    sampling_s: Amount | None = Field(default=None, description="of those, in sampling")
    timer: str | None = Field(default=None, description="how kernels were timed")
    spread_k: list[Count] | None = Field(default=None, description="the sweep")
    num_blocks: Count | None = Field(default=None, description="of all prompts together")
    layers: list[Count] | None = Field(default=None, description="those replayed")
    layer_windows: dict[str, Window] | None = Field(
        default=None, description="by layer: its sliding window, where it has one"
    )
    causal: bool | None = Field(default=None, description="whether attention is")
    requests: list[RequestRecord] | None = None
    block_ids: dict[str, list[BlockTable]] | None = Field(
        default=None,
        description="by `spread_k`, and `engine` for vLLM's own choice: for each request its block table as "
        "text, runs of physical ids in logical order: `257-384,1-128,7`",
    )
    first_tokens: list[Count] | None = Field(
        default=None, description="what the prefill predicted for each prompt"
    )
    ceilings: Ceilings | None = None
    logits_error: dict[str, Amount] | None = Field(
        default=None, description="by arm: off the untouched engine's, in their standard deviations"
    )
    engine_spread_k: SpreadRange | None = None
    profile: list[ProfileRecord] | None = None
    planted_ms: PlantedDelay | None = None
    variants: dict[str, VariantRecord] | None = Field(default=None, description="other engines, by name")
    outputs: dict[str, list[ComparedOutput]] | None = Field(
        default=None, description="by the share in the cache, %"
    )
    kv_bytes_per_token: Count | None = Field(default=None, description="K and V of all layers")
    sources: dict[str, dict[str, str]] | None = Field(
        default=None, description="by engine and figure: which counter says it"
    )
    tokens_by_stage: dict[str, dict[str, list[Count]]] | None = Field(
        default=None, description="by engine and stage: the first tokens"
    )
    engines: dict[str, EngineSettings] | None = Field(default=None, description="by backend")
    captured_from: EngineSettings | None = Field(
        default=None, description="whose attention calls were captured"
    )
    tokens: dict[str, list[Count]] | None = Field(default=None, description="by mode: what was generated")
    first_logits: dict[str, FirstLogits] | None = Field(default=None, description="by mode")

    @property
    def prompts(self) -> Batch:
        """The requests of the run; none if its configuration does not tell."""
        if written := self.config.get("batch"):
            return batch.parse(written)
        return (batch.Request(self.config["length"]),) if self.config.get("length") else ()

    @classmethod
    def parse(cls, data: object) -> RunRecord:
        """A record of this version, or of an earlier one.

        Raises, in one line, TooNew if a later version wrote it, ValueError on anything else.
        """
        version = require_readable(data, SCHEMA_VERSION)
        assert isinstance(data, dict)
        try:
            return cls.model_validate(_from_1(data) if version == 1 else data)
        except ValidationError as error:
            raise ValueError(first_problem(error)) from None


def require_readable(data: object, newest: int) -> int:
    """The schema version of what a file holds; raises, in one line, TooNew or ValueError if it has none."""
    if not isinstance(data, dict) or "status" not in data:
        raise ValueError("no status in it")
    version = data.get("schema_version", 1)
    if type(version) is not int or version < 1:
        raise ValueError("schema_version: not a number from 1 on")
    if version > newest:
        raise TooNew(
            f"schema_version {str(version)[:20]}: a newer version wrote it; this one reads up to {newest}, "
            "so update it"
        )
    _require_text(data)
    return version


def first_problem(error: ValidationError) -> str:
    """The first thing that is wrong, in one line: its key, and what must be there."""
    problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
    key = ".".join(map(str, problem["loc"]))
    told = _PROBLEMS.get(problem["type"], problem["msg"].removeprefix("Value error, "))
    return _printable(f"{key}: {told}" if key else told)


def _require_text(data: object) -> None:
    """Raise ValueError unless all of it can be written again: half a character or a deep nest cannot."""
    try:
        json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("holds half a character (a lone surrogate)") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _printable(text: str) -> str:
    """A text from a file, short and without what a terminal would obey."""
    shown = "".join(c if c.isprintable() else "?" for c in text)
    return shown if len(shown) <= _LONGEST_TEXT else f"{shown[:_LONGEST_TEXT]}..."


def _from_1(data: dict[str, Any]) -> dict[str, Any]:
    """A record of schema 1: no experiment but the main job in the oldest, and keys that nothing reads."""
    found = {"experiment": "prefill", "notices": []} | data | {"schema_version": SCHEMA_VERSION}
    found.pop("reference_error", None)
    if isinstance(model := found.get("model"), dict):
        found["model"] = {key: value for key, value in model.items() if key != "path"}
    if isinstance(found.get("first_tokens"), dict):
        found["tokens_by_stage"] = found.pop("first_tokens")
    if isinstance(errors := found.get("logits_error"), dict):
        found["logits_error"] = {FORMER_ARMS.get(arm, arm): error for arm, error in errors.items()}
    if isinstance(profiles := found.get("profile"), list):
        found["profile"] = [
            _arm_of_now(profile) if isinstance(profile, dict) else profile for profile in profiles
        ]
    return found


def _arm_of_now(profile: dict[str, Any]) -> dict[str, Any]:
    arm = profile.get("arm")
    return profile | {"arm": FORMER_ARMS[arm]} if isinstance(arm, str) and arm in FORMER_ARMS else profile
