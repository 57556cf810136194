"""The model and the prompts of `advise`, read before any engine starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harness.config.errors import ConfigError, label
from harness.engine import served_model
from harness.experiments.advise.options import AdviseConfig, read_requests
from harness.units import pluralise
from harness.workloads import Work

# A command to serve the model leaves out what makes room for a second engine, and what vLLM does anyway.
NOT_SERVED = ("gpu_memory_utilization", "kv_cache_memory_bytes")
USUAL = {
    "dtype": "auto", "load_format": "auto", "enforce_eager": False, "tensor_parallel_size": 1,
    "trust_remote_code": False,
}  # fmt: skip


@dataclass(frozen=True)
class Given:
    """What every engine gets."""

    arguments: dict[str, Any]  # vLLM's, of stock
    shown: dict[str, Any]  # those of them that belong into a command to serve the model
    std: float | None  # of weights drawn in the engine
    weights: str
    prompts: list[list[int]]  # token ids, in the file's order
    origin: str  # of the prompts, for people to read
    notices: tuple[str, ...]


def read(config: AdviseConfig) -> Given:
    """The model's files and the prompts' token ids; takes seconds, starts nothing.

    Raises ConfigError or ModelError.
    """
    work = read_requests(config)
    model = served_model.read(config, config.seed)
    assert config.prompts is not None
    prompts = served_model.read_prompts(config, model, config.prompts, config.seed, config.requests)
    longest = max(map(len, prompts))
    room = served_model.room_for(longest, config.max_model_len)
    if longest >= model.positions and not config.allow_long_max_model_len:
        raise ConfigError(
            f"{label('prompts', config.prompts)}: a prompt has {longest} tokens; {config.model} has "
            f"{model.positions} positions, one of them for the answer; leave it out, or choose another model"
        )
    own: dict[str, Any] = {"gpu_memory_utilization": config.gpu_memory_utilization, "max_model_len": room}
    if config.max_num_batched_tokens:
        own["max_num_batched_tokens"] = config.max_num_batched_tokens
    arguments = own | model.arguments
    asked = served_model.own_arguments(config) | {"load_format": config.load_format, "max_model_len": room}
    shown = {
        name: value
        for name, value in asked.items()
        if name not in NOT_SERVED and (name not in USUAL or value != USUAL[name])
    }
    tokens = pluralise(sum(map(len, prompts)), "token")
    origin = f"{pluralise(len(prompts), 'request')} of {config.prompts} ({work.format}), {tokens}"
    return Given(arguments, shown, model.std, model.weights, prompts, origin, _notices(config, work))


def _notices(config: AdviseConfig, work: Work) -> tuple[str, ...]:
    found = []
    if work.skipped:
        first = work.skipped[0]
        lines = pluralise(len(work.skipped), "line")
        found.append(f"{lines} of {config.prompts} left out, the first line {first.line}: {first.reason}")
    if len(work.requests) > config.requests:
        found.append(
            f"the first {config.requests} of {len(work.requests)} requests of {config.prompts} are taken "
            "(--requests)"
        )
    return tuple(found)
