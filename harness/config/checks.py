"""What device and files do not allow: problems of a whole configuration, each in one line, in words."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness import batch, device
from harness.config import vllm_names
from harness.units import counted

if TYPE_CHECKING:
    from harness.config import Common, Engine, KernelTiming, RunConfig, Sweep
    from harness.config.fields import Model

TIMERS = {"cuda": ("auto", "events", "cupti"), "cpu": ("auto", "perf_counter")}
BLOCK_SIZE = {"cuda": 16, "cpu": 128}
L2 = {"cuda": "warm", "cpu": None}


def label(name: str, value: Any, source: Path | None = None) -> str:
    """The value and where it was written: an option, or a key of the YAML file `source`."""
    if isinstance(value, list):
        value = ",".join(map(str, value))
    return f"{source}: {name}: {value}" if source else f"--{name.replace('_', '-')} {value}"


def prompts_label(config: Sweep) -> str:
    """The option that says how long the prompts are."""
    text = getattr(config, "batch", None)
    if text is None:
        return label("length", config.length)
    return label("batch", text if len(text) < 60 else batch.described(config.requests))


def prompt_problems(config: RunConfig) -> Iterable[str]:
    """A prompt that is too long, and a prompt file that is not there."""
    if config.length > batch.LONGEST:
        yield f"{label('length', config.length)}: {batch.LENGTH_LIMIT}"
    if config.prompt_file is not None and not config.prompt_file.is_file():
        yield f"{label('prompt_file', config.prompt_file)}: no such file; leave it out for a bundled passage"


def directory_problems(config: Common) -> Iterable[str]:
    """What the output directory does not allow."""
    if config.resume and config.overwrite:
        yield "--resume and --overwrite: exclude each other; leave one out"
    if config.output_dir is None:
        return
    if problem := folder_problem(config.output_dir):
        yield f"{label('output_dir', config.output_dir)}: {problem}"
    elif (config.output_dir / "run.json").exists() and not (config.overwrite or config.resume):
        yield (
            f"{label('output_dir', config.output_dir)}: already holds a run; "
            "choose another, --overwrite to replace it or --resume to go on with it"
        )


def folder_problem(folder: Path) -> str | None:
    """Why nothing can be written to a folder that is there or is to be made; None if it can."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
    if not there.is_dir():
        return f"{'' if there == folder.absolute() else f'{there} is '}not a directory; choose another"
    if not os.access(there, os.W_OK | os.X_OK):
        return f"{there} cannot be written to; choose another"
    return None


def capture_problems(config: RunConfig) -> Iterable[str]:
    """Options that --from-captures excludes."""
    if config.from_captures is None:
        return
    if config.save_captures:
        yield "--save-captures: nothing is captured with --from-captures; leave one out"
    if config.output_dir is not None and config.overwrite:
        inside = config.output_dir / "captures"
        if inside.resolve() == config.from_captures.resolve():
            yield (
                f"--overwrite: would remove the captures in {inside} that --from-captures reads; "
                "choose another --output-dir"
            )


def timer_problems(config: KernelTiming, device_kind: Literal["cuda", "cpu"]) -> Iterable[str]:
    """What times a call, and the cache it starts from, on another kind of device."""
    if config.timer not in TIMERS[device_kind]:
        here, choices = {"cuda": "on CUDA", "cpu": "on a CPU"}[device_kind], " or ".join(TIMERS[device_kind])
        yield f"{label('timer', config.timer)}: not {here}; take {choices}"
    if config.l2 and device_kind == "cpu":
        yield f"{label('l2', config.l2)}: a CPU's caches are left as they are; leave it out"


def variant_problems(config: RunConfig, device_kind: Literal["cuda", "cpu"]) -> Iterable[str]:
    """Lists of variants of the engine that cannot be run here, or hold nothing but the main job's own."""
    listed = {
        "block_sizes": config.block_size,
        "flash_attn_versions": config.flash_attn_version,
        "attention_backends": config.attention_backend,
    }
    for name, own in listed.items():
        values = getattr(config, name)
        if values is None:
            continue
        if config.from_captures is not None:
            yield f"{label(name, values)}: there is no engine with --from-captures; leave one out"
        elif config.tensor_parallel_size > 1:
            yield (
                f"{label(name, values)}: engines beside the main job's run on one GPU each; leave it out "
                f"or --tensor-parallel-size {config.tensor_parallel_size}"
            )
        elif device_kind == "cpu" and name != "block_sizes":
            only = (
                "flash attention needs CUDA" if name == "flash_attn_versions" else "a CPU has CPU_ATTN alone"
            )
            yield f"{label(name, values)}: {only}; leave it out"
        elif values == [own]:
            yield f"{label(name, values)}: is what the main job runs with itself; name another value"
    if unknown := set(config.flash_attn_versions or []) - {2, 3, 4}:
        yield f"{label('flash_attn_versions', sorted(unknown))}: vLLM has 2, 3 and 4"
    if config.flash_attn_versions and (config.attention_backend or "FLASH_ATTN").upper() != "FLASH_ATTN":
        yield (
            f"{label('flash_attn_versions', config.flash_attn_versions)}: --attention-backend "
            f"{config.attention_backend} has none; leave one out"
        )
    if device_kind == "cuda":
        yield from _unknown_backends("attention_backends", config.attention_backends or [])


def engine_problems(config: Engine, device_kind: Literal["cuda", "cpu"]) -> Iterable[str]:
    """What vLLM would refuse."""
    yield from load_format_problems(config)
    yield from _unknown_backends("attention_backend", filter(None, [config.attention_backend]))
    backend = config.attention_backend or {"cuda": "FLASH_ATTN", "cpu": "CPU_ATTN"}[device_kind]
    multiple = {"FLASH_ATTN": 16, "CPU_ATTN": 32}.get(backend.upper(), 1)
    others = getattr(config, "block_sizes", None) or []
    for name, size in [("block_size", config.block_size or 1), *(("block_sizes", size) for size in others)]:
        if size % multiple:
            nearest = -(-size // multiple) * multiple
            yield f"{label(name, size)}: must be a multiple of {multiple} for {backend}; take {nearest}"
    if device_kind == "cpu":  # where vLLM passes over both in silence
        if backend.upper() != "CPU_ATTN":
            yield f"{label('attention_backend', backend)}: a CPU has CPU_ATTN alone; leave it out"
        if config.flash_attn_version is not None:
            said = label("flash_attn_version", config.flash_attn_version)
            yield f"{said}: flash attention needs CUDA; leave it out"
    yield from _rank_problems(config, device_kind)


def load_format_problems(config: Model) -> Iterable[str]:
    """A load format that vLLM does not know."""
    said = label("load_format", config.load_format)
    if unknown := vllm_names.unknown_load_format(said, config.load_format):
        yield unknown


def _unknown_backends(option: str, names: Iterable[str]) -> Iterable[str]:
    for name in names:
        if unknown := vllm_names.unknown_backend(label(option, name), name.upper()):
            yield unknown


def step_problems(config: Model, needed: int, limit: str) -> Iterable[str]:
    """A step of fewer tokens than `needed`; `limit` says in words how many and what for."""
    tokens = config.max_num_batched_tokens
    if tokens is not None and tokens < needed:
        said = label("max_num_batched_tokens", tokens)
        yield f"{said}: must be at least {limit}; raise it or leave it out"


def one_step_problems(config: RunConfig) -> Iterable[str]:
    """What would cut the prompts into several steps."""
    needed = batch.num_tokens(config.requests)
    of_all = f" ({counted(needed, 'token')})" if config.batch else ""
    limit = f"{prompts_label(config)}{of_all}, so that all of it stays in one step"
    yield from step_problems(config, needed, limit)


def _rank_problems(config: Engine, device_kind: Literal["cuda", "cpu"]) -> Iterable[str]:
    """What the devices and vLLM's executors do not allow."""
    ranks, executor = config.tensor_parallel_size, config.distributed_executor_backend
    if device_kind == "cuda" and 0 < (here := len(device.nvidia_devices())) < ranks:
        gpus = counted(here, "GPU")
        yield f"{label('tensor_parallel_size', ranks)}: this machine has {gpus}; take at most {here}"
    if executor is None:
        return
    said = label("distributed_executor_backend", executor)
    if ranks == 1:
        yield f"{said}: one rank runs in the main process; raise --tensor-parallel-size or leave it out"
    elif executor == "ray" and device_kind == "cpu":
        yield f"{said}: vLLM has no Ray workers on a CPU; take mp"
    elif executor == "ray" and importlib.util.find_spec("ray") is None:
        yield f"{said}: Ray is not installed; pip install ray==2.60.0, or take mp"


def spread_problems(config: Sweep) -> Iterable[str]:
    """Values of spread_k that the prompt has too few blocks for; needs a block size."""
    assert config.block_size is not None
    for request, blocks in zip(
        config.requests, batch.blocks(config.requests, config.block_size), strict=True
    ):
        if request.spread_k and request.spread_k > blocks:
            yield (
                f"{prompts_label(config)}: {request.length}@{request.spread_k} must be split into 1.."
                f"{blocks} runs, the number of its blocks at --block-size {config.block_size}"
            )
            return
    most = batch.largest_spread(config.requests, config.block_size)
    first, last = config.spread_min, config.spread_max
    asked = [("spread_k", k) for k in config.spread_k or []] + [("spread_min", first), ("spread_max", last)]
    beyond = [(name, k) for name, k in asked if k is not None and k > most]
    for name, k in beyond[-1:]:
        largest = " for its largest prompt" if len(config.requests) > 1 else ""
        yield (
            f"{label(name, k)}: must be within 1..{most}, the number of blocks that {prompts_label(config)} "
            f"takes{largest} at --block-size {config.block_size}"
        )
    if not beyond and first is not None and last is not None and first > last:
        yield f"{label('spread_min', first)}: must not be above --spread-max {last}; swap them"
