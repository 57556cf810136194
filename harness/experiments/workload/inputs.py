"""The work as vLLM gets it: its requests' token ids, and what the engine is started with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness import prompt
from harness.config.errors import ConfigError, label
from harness.engine.serving import EngineSetup
from harness.engine.working import Request
from harness.experiments.workload.options import WorkloadConfig
from harness.models import ModelSource, checkpoints
from harness.runs.schema import WorkRecord
from harness.workloads import Work, WorkError
from harness.workloads.tokens import token_ids

CLASSIFIES = "ForSequenceClassification"


@dataclass(frozen=True)
class Inputs:
    """A work that is ready to run."""

    requests: tuple[Request, ...]
    task: str  # vLLM's
    record: WorkRecord
    notices: tuple[str, ...]


def prepare(config: WorkloadConfig, source: ModelSource) -> Inputs:
    """The requests as token ids of the model's own tokenizer.

    Args:
        source: materialised.

    Raises:
        ConfigError: a request has no tokens, other ones than the model's, or more than the model takes.
    """
    work = config.work()
    task = {"score": "classify" if _judges_pairs(source) else "embed"}.get(config.task, config.task)
    try:
        if config.task == "score":
            ids = _pairs(source, work, joined=task == "classify")
        else:
            encode, special = prompt.encoder(source), source.special_ids
            ids = [*token_ids(work, encode, source.vocab_size, config.seed, special_ids=special)]
    except WorkError as error:
        raise ConfigError(f"{_given(config)}: {error}") from error
    _check_lengths(config, source, work, ids)
    each = len(ids) // len(work.requests)  # two texts of a pair, or one prompt
    arrivals = [
        (request.arrival_s or 0.0) * config.arrivals for request in work.requests for _ in range(each)
    ]
    requests = tuple(Request(tuple(of), at_s) for of, at_s in zip(ids, arrivals, strict=True))
    lengths = [len(of) for of in ids]
    record = WorkRecord(
        format=work.format,
        requests=len(requests),
        tokens=sum(lengths),
        shortest=min(lengths),
        longest=max(lengths),
        skipped=len(work.skipped),
    )
    return Inputs(requests, task, record, tuple(_notices(config, work, each)))


def _given(config: WorkloadConfig) -> str:
    return label("prompts", config.prompts) if config.prompts else label("case", config.case)


def _judges_pairs(source: ModelSource) -> bool:
    """Whether it is a cross-encoder, which reads both texts of a pair as one; others embed each."""
    return any(str(name).endswith(CLASSIFIES) for name in source.config.get("architectures") or ())


def _pairs(source: ModelSource, work: Work, joined: bool) -> list[list[int]]:
    """The token ids of pairs, joined as the tokenizer joins them, or of each text in turn."""
    encode, encode_pair = prompt.encoder(source), prompt.pair_encoder(source)
    if encode is None or (joined and encode_pair is None):
        raise WorkError(f"{source.name} has no tokenizer for pairs of texts; choose another model")
    ids = []
    for request in work.requests:
        assert request.pair is not None
        if joined:
            assert encode_pair is not None
            of_pair = [encode_pair(*request.pair)]
        else:
            of_pair = [encode(text) for text in request.pair]
        if not all(of_pair):
            raise WorkError(f"line {request.line}: a text of the pair has no token")
        ids += of_pair
    return ids


def _check_lengths(
    config: WorkloadConfig, source: ModelSource, work: Work, ids: Sequence[Sequence[int]]
) -> None:
    """Raise ConfigError for a request that is too long for the model, or for --max-model-len."""
    room = min(filter(None, (config.max_model_len, source.max_positions)), default=None)
    longest = max(range(len(ids)), key=lambda n: len(ids[n]))
    needed = len(ids[longest]) + (not config.pools)
    if room is None or needed <= room:
        return
    line = work.requests[longest * len(work.requests) // len(ids)].line
    whose = "--max-model-len" if config.max_model_len == room else source.name
    where = (
        f"{_given(config)}: line {line}"
        if config.prompts or config.case
        else label("lengths", config.lengths)
    )
    raise ConfigError(
        f"{where}: {len(ids[longest])} tokens, and {whose} has room for {room - (not config.pools)}; leave "
        "it out, or choose a model that takes more"
    )


def _notices(config: WorkloadConfig, work: Work, each: int) -> list[str]:
    notices = []
    if work.skipped:
        first = work.skipped[0]
        notices.append(
            f"{len(work.skipped)} lines of {config.prompts} were skipped, the first is line {first.line}: "
            f"{first.reason}"
        )
    if work.empty:
        notices.append(f"{work.empty} conversations of {config.prompts} begin with nothing and were left out")
    if each == 2:
        notices.append("the model embeds the two texts of a pair apart: each is a request")
    return notices


def engine_setup(config: WorkloadConfig, source: ModelSource) -> EngineSetup:
    """What the engine is started with: vLLM's defaults, and what was asked for.

    Args:
        source: materialised.
    """
    arguments: dict[str, Any] = {
        "model": str(source.path),
        "load_format": source.load_format,
        "hf_overrides": source.hf_overrides,
        "skip_tokenizer_init": not (source.has_tokenizer or config.pools),
        "generation_config": "vllm",
        "runner": "pooling" if config.pools else "generate",
    }
    if config.pools and not source.has_tokenizer:  # requests come as token ids, but vLLM wants one
        arguments["tokenizer"] = str(checkpoints.stand_in_tokenizer())
    if config.convert or (config.task in ("classify", "score") and _judges_pairs(source)):
        arguments["convert"] = config.convert or "auto"
    elif config.task == "classify":
        arguments["convert"] = "classify"
    for name in (
        "dtype", "block_size", "gpu_memory_utilization", "enforce_eager", "tensor_parallel_size",
        "trust_remote_code", "seed", "enable_prefix_caching", "max_num_batched_tokens", "max_model_len",
        "max_num_seqs", "num_gpu_blocks_override", "attention_backend", "distributed_executor_backend",
    ):  # fmt: skip
        if (value := getattr(config, name)) is not None:
            arguments[name] = value
    if config.flash_attn_version:
        arguments["attention_config"] = {"flash_attn_version": config.flash_attn_version}
    if config.async_scheduling:
        arguments["async_scheduling"] = config.async_scheduling == "on"
    options = {name: value for name, value in config.engine_options.items() if name != "hf_overrides"}
    return EngineSetup(
        None, arguments | options, source.drawn_std, config.seed, own_process=not config.in_process
    )
