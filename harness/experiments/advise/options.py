"""Options of the experiment `advise`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from harness.config import checks, engine_options, fields
from harness.config.defaults import DeviceKind, describe
from harness.config.errors import ConfigError, label, refuse
from harness.config.fields import AnyPath, Common, Count, Engine, Seconds
from harness.experiments.advise import changes
from harness.models import BUILT_IN, ModelSource, inspect
from harness.workloads import PAIRS, Work, WorkError, read_work

MAX_SECONDS: dict[DeviceKind, float] = {"cuda": 900.0, "cpu": 1800.0}
# vLLM's options that other experiments set themselves, and that are a user's choice here.
FREE = ("max_num_seqs", "enable_prefix_caching", "async_scheduling", "runner", "convert", "pooler_config")
GROUPS: dict[str, list[str]] = {
    "the work": ["prompts", "requests", "goal"],
    "what is tried": ["candidates"],
    "model": fields.MODEL_OPTIONS,
    "engines (vLLM's own names)": [*fields.ENGINE_OPTIONS, "max_model_len", "seed"],
    **fields.COMMON_GROUPS,
}


class AdviseConfig(Common, Engine):
    """Engines for the prompts of a file. `resolve` fills in what is None, but vLLM's own defaults."""

    experiment: ClassVar[str] = "advise"

    prompts: AnyPath | None = Field(None, description="file of the prompts: texts, records, or a trace")
    requests: Count = Field(512, description="the file's first, of which the work consists")
    goal: Literal["throughput", "latency"] = Field(
        "throughput",
        description="what a change must improve: requests/s of the whole file at once, or the latency of one "
        "request alone",
    )
    candidates: Annotated[list[str], Field(min_length=1)] = Field(
        [*changes.KNOBS],
        description="what to change, most promising first; of block-size, tokens and flash-attn also one "
        "value, e.g. graphs,plugin-step,block-size=64",
    )
    model: str = Field(
        "qwen3-0.6b", min_length=1, description="as vLLM takes it, or a built-in name, e.g. qwen3-0.6b"
    )
    block_size: Count | None = Field(None, description="of stock (default: vLLM's choice)")
    gpu_memory_utilization: float = Field(
        0.45, gt=0, le=1, description="share of the GPU's memory for each of two engines"
    )
    max_model_len: Count | None = Field(
        None, description="tokens of a request (default: room for the longest prompt)"
    )
    max_num_batched_tokens: Count | None = Field(
        None, description="tokens of a step of stock (default: vLLM's choice)"
    )
    max_seconds: Seconds | None = Field(
        None, description=f"for everything, the engines' starts included (default: {describe(MAX_SECONDS)})"
    )

    @property
    def changes(self) -> list[changes.Change]:
        """Of --candidates, with what the engine's defaults leave open; raises ConfigError."""
        return [change for name in self.candidates for change in changes.parse(name)]


def resolve(config: AdviseConfig, device_kind: DeviceKind) -> AdviseConfig:
    """Fill in what depends on the device and check the result against it. Raises ConfigError."""
    own: dict[str, Any] = {"max_seconds": MAX_SECONDS[device_kind]}
    config = fields.with_defaults(config, own)
    resolved = fields.resolve_common(config, device_kind, f"advise-{fields.model_name(config)}")
    # None stays vLLM's choice.
    resolved = resolved.model_copy(update={"block_size": config.block_size})
    problems = [
        *checks.directory_problems(config.output_dir, overwrite=config.overwrite, resume=config.resume),
        *_option_problems(config),
        *checks.load_format_problems(config.load_format),
        *checks.backend_problems("attention_backend", filter(None, [config.attention_backend])),
    ]
    refuse(problems)
    read_requests(resolved)
    return resolved


def read_requests(config: AdviseConfig) -> Work:
    """What the file of prompts holds; raises ConfigError if that is nothing to prefill."""
    if config.prompts is None:
        raise ConfigError("--prompts: is missing; name a file of prompts, e.g. with one text a line")
    try:
        work = read_work(config.prompts)
    except WorkError as error:
        raise ConfigError(f"{label('prompts', config.prompts)}: {error}") from None
    if work.format == PAIRS:
        raise ConfigError(
            f"{label('prompts', config.prompts)}: holds pairs to score; write each as one text, as the "
            "model's template has it"
        )
    return work


def find_model(config: AdviseConfig) -> ModelSource | None:
    """A built-in model; None of any other, which vLLM itself knows best. Raises ModelError."""
    if config.model not in BUILT_IN:
        return None
    return inspect(config.model, length=1, load_format=config.load_format)


def plan(config: AdviseConfig) -> list[str]:
    """What a resolved configuration measures, a line each."""
    return [
        f"prompts: {config.prompts}",
        f"tried against stock, one at a time: {', '.join(config.candidates)}; then the best together",
    ]


def _option_problems(config: AdviseConfig) -> Iterable[str]:
    """Problems with the candidates, and with vLLM's own options, of which more are free here."""
    try:
        config.changes  # noqa: B018
    except ConfigError as error:
        yield str(error)
    checked = {name: value for name, value in config.engine_options.items() if name not in FREE}
    yield from engine_options.problems(checked, type(config).model_fields)
    if config.max_model_len and config.max_model_len < 2:
        yield f"{label('max_model_len', config.max_model_len)}: must be at least 2, a token and its answer"
