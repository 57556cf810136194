"""Options of the experiment `workload`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from harness import batch
from harness.config import checks, defaults, fields
from harness.config.defaults import DeviceKind, describe
from harness.config.engine import EngineSpec
from harness.config.errors import ConfigError, label, refuse
from harness.config.fields import AnyPath, Common, Count, Engine, NonEmpty
from harness.models import ModelSource
from harness.workloads import Work, WorkError, WorkRequest, case_lengths, read_work

Task = Literal["generate", "embed", "classify", "score"]
# Beside stock, which always runs, and twice.
ARMS = ("whole", "wrapped", "dense", "no_cache")
DEFAULTS: dict[DeviceKind, dict[str, Any]] = {
    "cuda": {"num_prompts": 2000, "lengths": [32, 2048], "max_seconds": 90.0},
    "cpu": {"num_prompts": 16, "lengths": [16, 128], "max_seconds": 60.0},
}
GROUPS: dict[str, list[str]] = {
    "the work": ["task", "prompts", "case", "num_prompts", "lengths", "prompt_logprobs", "arrivals"],
    "how it is run": ["arms", "in_process"],
    "model": fields.MODEL_OPTIONS,
    "engine (vLLM's own names)": [
        *fields.ENGINE_OPTIONS, "max_model_len", "max_num_seqs", "enable_prefix_caching", "convert",
        "async_scheduling", "num_gpu_blocks_override", "seed",
    ],
    **fields.COMMON_GROUPS,
}  # fmt: skip


def _known_arms(arms: list[str]) -> list[str]:
    if unknown := [arm for arm in arms if arm not in ARMS]:
        raise ValueError(f"among {', '.join(ARMS)}, not {unknown[0]}")
    return [arm for arm in ARMS if arm in arms]


class WorkloadConfig(Common, Engine):
    """Many requests, served as a user's engine would. `resolve` fills in what is None."""

    experiment: ClassVar[str] = "workload"

    task: Task = Field(
        "generate", description="one token each, an embedding, a classification or the score of a pair"
    )
    prompts: AnyPath | None = Field(
        None,
        description="file of requests: JSONL as vllm bench takes it, ShareGPT, one text a line, token ids, "
        "pairs, or a trace of Mooncake, BurstGPT or Azure (default: seeded random prompts)",
    )
    case: NonEmpty | None = Field(
        None, description="random prompts in the grammar of vLLM's benches, e.g. 8x512 or 2q2k_q512"
    )
    num_prompts: Count | None = Field(
        None,
        description="take the first of --prompts, or so many random ones "
        f"(default: all, or {describe(defaults.of(DEFAULTS, 'num_prompts'))})",
    )
    lengths: Annotated[list[Count], Field(min_length=2, max_length=2)] | None = Field(
        None,
        description="fewest and most tokens of random prompts, log-uniformly between "
        f"(default: {describe(defaults.of(DEFAULTS, 'lengths'))})",
    )
    prompt_logprobs: Annotated[int, Field(ge=0)] | None = Field(
        None, description="logprobs of each prompt token, as scoring by likelihood asks for them"
    )
    arrivals: bool = Field(False, description="send requests when the trace says, not all at once")
    arms: Annotated[list[NonEmpty], Field(min_length=1), AfterValidator(_known_arms)] = Field(
        list(ARMS),
        description="what to set against stock: whole (no prompt is cut by a step's end), wrapped (through "
        "the wrappers of the next two), dense (attention on the step's own K and V), no_cache (dense, and no "
        "cache write)",
    )
    model: str = Field(
        "smollm2-135m", min_length=1, description="as vLLM takes it, or a built-in name, e.g. qwen3-0.6b"
    )
    gpu_memory_utilization: float = Field(
        0.9, gt=0, le=1, description="share of the GPU's memory for the engine"
    )
    max_num_batched_tokens: Count | None = Field(
        None, description="tokens of one step (default: vLLM's own, which depends on the GPU)"
    )
    max_model_len: Count | None = Field(None, description="tokens of a request (default: the model's own)")
    max_num_seqs: Count | None = Field(None, description="requests of one step (default: vLLM's own)")
    enable_prefix_caching: bool = Field(
        False, description="reuse blocks of equal beginnings; emptied ahead of every pass"
    )
    async_scheduling: Literal["on", "off"] | None = Field(
        None, description="schedule a step while the one before runs (default: vLLM's own, on where it can)"
    )
    convert: Literal["auto", "none", "embed", "classify"] | None = Field(
        None, description="a generating model into a pooling one (default: as --task needs)"
    )
    num_gpu_blocks_override: Count | None = Field(
        None, description="blocks of KV cache (default: as many as its memory holds)"
    )
    in_process: bool = Field(
        False, description="vLLM's core in one process with its front end, which then waits for each step"
    )

    @property
    def pools(self) -> bool:
        """Whether the model pools."""
        return self.task != "generate"

    def work(self) -> Work:
        """The requests, the first --num-prompts of them; needs a resolved configuration.

        Raises:
            ConfigError: there are none, or not of the task's kind; one line that names it.
        """
        if self.prompts is None and self.case is None:
            return Work("random", tuple(_random(self)))
        name, value = ("prompts", self.prompts) if self.case is None else ("case", self.case)
        try:
            if self.prompts is not None:
                found = read_work(self.prompts)
            else:
                lengths = case_lengths(self.case or "")
                found = Work("case", tuple(WorkRequest(n, input_len=m) for n, m in enumerate(lengths, 1)))
        except WorkError as error:
            raise ConfigError(f"{label(name, value)}: {error}") from error
        for request in found.requests:
            if (request.pair is None) == (self.task == "score"):
                wanted = 'pairs, {"text_1": ..., "text_2": ...} a line' if self.task == "score" else "prompts"
                raise ConfigError(
                    f"{label(name, value)}: line {request.line} is {'no' if request.pair is None else 'a'} "
                    f"pair; --task {self.task} takes {wanted}"
                )
            if self.arrivals and request.arrival_s is None:
                raise ConfigError(f"--arrivals: {value} has no times; leave it out, or give a trace")
        return Work(
            found.format, found.requests[: self.num_prompts], found.skipped, found.empty, found.hash_tokens
        )


def _random(config: WorkloadConfig) -> Iterator[WorkRequest]:
    import numpy as np

    low, high = config.lengths or (1, 1)
    drawn = np.random.default_rng(config.seed).uniform(np.log(low), np.log(high + 1), config.num_prompts)
    for number, length in enumerate(np.exp(drawn).astype(int), 1):
        yield WorkRequest(number, input_len=min(int(length), high))


def resolve(config: WorkloadConfig, device_kind: DeviceKind) -> WorkloadConfig:
    """Fill in what depends on the device and check the result against it. Raises ConfigError."""
    filled = {"max_seconds": DEFAULTS[device_kind]["max_seconds"]}
    if config.prompts is None and config.case is None:
        filled = DEFAULTS[device_kind]
    name = f"workload-{fields.model_name(config)}-{config.task}"
    resolved = fields.resolve_common(fields.with_defaults(config, filled), device_kind, name)
    problems = fields.common_problems(resolved, device_kind)
    problems += checks.load_format_problems(resolved.load_format)
    spec = EngineSpec.of(resolved, max_model_len=1, max_num_seqs=1, max_num_batched_tokens=1)
    problems += checks.engine_problems(spec, device_kind)
    problems += _work_problems(config)
    refuse(problems)
    resolved.work()
    return resolved


def _work_problems(config: WorkloadConfig) -> Iterator[str]:
    if config.prompts is not None and config.case is not None:
        yield "--prompts and --case: exclude each other; leave one out"
    given = config.prompts or config.case
    if given and config.lengths:
        yield f"{label('lengths', config.lengths)}: is of random prompts; leave it out"
    if config.lengths and not config.lengths[0] <= config.lengths[1] <= batch.LONGEST:
        yield f"{label('lengths', config.lengths)}: must ascend, up to {batch.LONGEST}; e.g. 32,2048"
    if config.task == "score" and not config.prompts:
        yield "--task score: needs pairs; give --prompts with text_1 and text_2 a line"
    if config.arrivals and not config.prompts:
        yield "--arrivals: needs a trace; give --prompts, or leave it out"
    if config.prompt_logprobs is not None and config.pools:
        yield f"{label('prompt_logprobs', config.prompt_logprobs)}: is of --task generate; leave it out"
    if config.convert is not None and not config.pools:
        yield f"{label('convert', config.convert)}: is for pooling; add --task embed, classify or score"


def find_model(config: WorkloadConfig) -> ModelSource:
    """The model, if it can do the task; raises ModelError if not."""
    return config.inspect_model(1, pools=config.pools)


def plan(config: WorkloadConfig) -> list[str]:
    """What a resolved configuration measures, a line each."""
    work = config.work()
    skipped = f", {len(work.skipped)} lines skipped" if work.skipped else ""
    return [
        f"work: {len(work.requests)} requests to {config.task} ({work.format}){skipped}",
        f"passes in one engine, interleaved: stock (twice), {', '.join(config.arms)}",
    ]
