"""Options of `python -m harness verify`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from harness import device
from harness.config import fields
from harness.config.errors import ConfigError, label, refuse
from harness.config.fields import AnyPath, Count, Engine, Seconds, Seed
from harness.plugin.mode import MODES
from harness.workloads import PAIRS, WorkError, read_work

GROUPS = {
    "what is verified": ["mode", "prompts", "graphs"],
    "model": ["model", "revision", "trust_remote_code"],
    "engines (vLLM's own names)": [*fields.ENGINE_OPTIONS, "max_model_len", "seed"],
    "measuring": ["batches", "repeats", "max_seconds"],
    "output": ["output"],
}
LENGTHS = (1, 2, 15, 16, 17, 63, 128, 255, 384, 512)  # tokens of the seeded prompts
LEAST_TOKENS: dict[device.Kind, int] = {"cuda": 8192, "cpu": 1024}  # of a step


class VerifyConfig(Engine):
    """Stock vLLM against the plugin, on one model and its prompts."""

    mode: Annotated[list[str], Field(min_length=1)] = Field(
        ["step"], description="of the plugin, as in VLLM_PREFILL_ONLY: step, nocache or both"
    )
    prompts: AnyPath | None = Field(
        None,
        description="file of prompts: a text a line, JSON or a trace (default: seeded random prompts of 1 to "
        "512 tokens)",
    )
    graphs: bool = Field(
        False, description="also engines whose CUDA graphs cover the batches, stock and with each mode"
    )
    model: str = Field(
        "qwen3-0.6b", min_length=1, description="as vLLM takes it, or a built-in name, e.g. qwen3-0.6b"
    )
    gpu_memory_utilization: float | None = Field(  # type: ignore[assignment]
        None, gt=0, le=1, description="share of the GPU's memory for each engine (default: 0.9 shared out)"
    )
    max_model_len: Count | None = Field(None, description="default: room for the longest prompt")
    max_num_batched_tokens: Count | None = Field(
        None, description="tokens of a step (default: the longest prompt's, at least 8192 on CUDA)"
    )
    seed: Seed = Field(0, description="of random prompts and weights, and of the order of samples")
    batches: Annotated[list[str], Field(min_length=1)] | None = Field(
        None,
        description="what is timed: prompts x tokens, at random, e.g. 1x512,8x512 (default: those; of "
        "--prompts the first alone, and all at once)",
    )
    repeats: Annotated[int, Field(ge=0)] | None = Field(
        None, description="samples of each batch; 0: time nothing (default: as many as fit the time)"
    )
    max_seconds: Seconds = Field(30.0, description="time for all sampling, once the engines are up")
    output: AnyPath | None = Field(None, description="file for figures and samples, as JSON")

    def sizes(self) -> list[tuple[int, int]]:
        """Prompts and tokens of each of --batches; raises ConfigError."""
        sizes = []
        for text in self.batches or ():
            count, _, tokens = text.partition("x")
            if not (count.isdigit() and tokens.isdigit() and int(count) and int(tokens)):
                raise ConfigError(f"{label('batches', text)}: must be prompts x tokens, e.g. 8x512")
            sizes.append((int(count), int(tokens)))
        return sizes


def plan(config: VerifyConfig) -> str:
    """What a checked configuration verifies, where, and for how long."""
    kinds = [*config.mode, *([f"{mode} with graphs" for mode in config.mode] if config.graphs else [])]
    stock = "stock vLLM with and without graphs" if config.graphs else "stock vLLM"
    prompts = str(config.prompts) if config.prompts else "seeded, of 1 to 512 tokens"
    time = f"{config.repeats} rounds" if config.repeats is not None else f"{config.max_seconds:g} s"
    return "\n".join(
        [
            f"verify: {stock} against the plugin: {', '.join(kinds)}; an engine each",
            f"device: {device.describe()['name']}",
            f"model: {config.model}",
            f"prompts: {prompts}",
            f"sampling: {time}, once the engines are up, which takes about a minute each",
        ]
    )


def check(config: VerifyConfig) -> None:
    """Raise ConfigError for what files do not allow; lengths of prompts are not known yet."""
    problems = [
        f"{label('mode', mode)}: must be {' or '.join(MODES)}" for mode in config.mode if mode not in MODES
    ]
    if config.prompts:
        try:
            if read_work(config.prompts).format == PAIRS:
                problems.append(
                    f"{label('prompts', config.prompts)}: holds pairs to score; name a file of prompts"
                )
        except WorkError as error:
            problems.append(f"{label('prompts', config.prompts)}: {error}")
    if config.output and not config.output.absolute().parent.is_dir():
        problems.append(f"{label('output', config.output)}: its directory does not exist; make it first")
    if config.graphs and config.enforce_eager:
        problems.append("--graphs and --enforce-eager: exclude each other; leave one out")
    config.sizes()
    refuse(problems)
