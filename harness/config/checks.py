"""What the device and files do not allow: problems with options, one line each."""

from __future__ import annotations

import errno
import importlib.util
import os
from collections.abc import Iterable
from pathlib import Path

from harness import device
from harness.config import vllm_names
from harness.config.defaults import DEVICES, TIMERS, DeviceKind
from harness.config.engine import EngineSpec
from harness.config.errors import ConfigError, label
from harness.models import ModelSource
from harness.units import pluralise

DEFAULT_BACKEND: dict[DeviceKind, str] = {"cuda": "FLASH_ATTN", "cpu": "CPU_ATTN"}
BLOCK_MULTIPLES = {"FLASH_ATTN": 16, "CPU_ATTN": 32}  # of tokens; other backends take any
# On a GPU vLLM has backends for other sizes; CPU_ATTN's are its kernel's (the backend does not list 48).
CPU_HEAD_SIZES = (32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)


def directory_problems(output_dir: Path | None, *, overwrite: bool, resume: bool) -> Iterable[str]:
    """Problems with the output directory."""
    if resume and overwrite:
        yield "--resume and --overwrite: exclude each other; leave one out"
    if output_dir is None:
        return
    if problem := folder_problem(output_dir):
        yield f"{label('output_dir', output_dir)}: {problem}"
    elif (output_dir / "run.json").exists() and not (overwrite or resume):
        yield (
            f"{label('output_dir', output_dir)}: already holds a run; "
            "choose another, --overwrite to replace it or --resume to resume it"
        )


def folder_problem(folder: Path) -> str | None:
    """Why a folder, existing or to be made, cannot be written to; None if it can."""
    try:
        os.lstat(folder)
    except ValueError:
        return "not a path; choose another"
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return "too long a name; choose another"
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
    if not there.is_dir():
        return f"{'' if there == folder.absolute() else f'{there} is '}not a directory; choose another"
    if not os.access(there, os.W_OK | os.X_OK):
        return f"{there} cannot be written to; choose another"
    return None


def timer_problems(timer: str, l2: str | None, device_kind: DeviceKind) -> Iterable[str]:
    """Timers and L2 states that this kind of device does not have."""
    if timer not in TIMERS[device_kind]:
        choices = " or ".join(TIMERS[device_kind])
        yield f"{label('timer', timer)}: not {DEVICES[device_kind]}; take {choices}"
    if l2 and device_kind == "cpu":
        yield f"{label('l2', l2)}: a CPU's caches are not controlled; leave it out"


def engine_problems(engine: EngineSpec, device_kind: DeviceKind) -> Iterable[str]:
    """Engine options that vLLM would refuse."""
    yield from backend_problems("attention_backend", filter(None, [engine.attention_backend]))
    backend = engine.attention_backend or DEFAULT_BACKEND[device_kind]
    yield from block_size_problems("block_size", [engine.block_size], backend)
    if device_kind == "cpu":  # where vLLM ignores both silently
        if backend.upper() != DEFAULT_BACKEND["cpu"]:
            yield f"{label('attention_backend', backend)}: a CPU has only CPU_ATTN; leave it out"
        if engine.flash_attn_version is not None:
            option = label("flash_attn_version", engine.flash_attn_version)
            yield f"{option}: flash attention needs CUDA; leave it out"
    yield from _rank_problems(engine.tensor_parallel_size, engine.distributed_executor_backend, device_kind)


def block_size_problems(option: str, sizes: Iterable[int], backend: str) -> Iterable[str]:
    """Block sizes that a backend does not support."""
    multiple = BLOCK_MULTIPLES.get(backend.upper(), 1)
    for size in sizes:
        if size % multiple:
            nearest = -(-size // multiple) * multiple
            yield f"{label(option, size)}: must be a multiple of {multiple} for {backend}; take {nearest}"


def require_head_size(source: ModelSource, device_kind: DeviceKind) -> None:
    """Raise ConfigError if vLLM has no attention kernel for the model's heads on this kind of device.

    It would start the engine and fail in the first step.
    """
    if device_kind == "cpu" and not source.latent and source.head_dim not in CPU_HEAD_SIZES:
        raise ConfigError(
            f"{label('model', source.name)}: has heads of {source.head_dim}; vLLM's attention on a CPU takes "
            f"{', '.join(map(str, CPU_HEAD_SIZES))}; choose another model, or run it on a GPU"
        )


def load_format_problems(load_format: str) -> Iterable[str]:
    """A load format that vLLM does not know."""
    if unknown := vllm_names.unknown_load_format(label("load_format", load_format), load_format):
        yield unknown


def backend_problems(option: str, names: Iterable[str]) -> Iterable[str]:
    """Attention backends that vLLM does not know."""
    for name in names:
        if unknown := vllm_names.unknown_backend(label(option, name), name.upper()):
            yield unknown


def step_problems(tokens: int | None, needed: int, limit: str) -> Iterable[str]:
    """A max_num_batched_tokens below `needed`; `limit` says how many are needed and why."""
    if tokens is not None and tokens < needed:
        option = label("max_num_batched_tokens", tokens)
        yield f"{option}: must be at least {limit}; raise it or leave it out"


def _rank_problems(ranks: int, executor: str | None, device_kind: DeviceKind) -> Iterable[str]:
    """Tensor parallelism that the devices or vLLM's executors do not allow."""
    if device_kind == "cuda" and 0 < (here := len(device.nvidia_devices())) < ranks:
        gpus = pluralise(here, "GPU")
        yield f"{label('tensor_parallel_size', ranks)}: this machine has {gpus}; take at most {here}"
    if executor is None:
        return
    option = label("distributed_executor_backend", executor)
    if ranks == 1:
        yield f"{option}: one rank runs in the main process; raise --tensor-parallel-size or leave it out"
    elif executor == "ray" and device_kind == "cpu":
        yield f"{option}: vLLM has no Ray workers on a CPU; take mp"
    elif executor == "ray" and importlib.util.find_spec("ray") is None:
        yield f"{option}: Ray is not installed; pip install ray==2.60.0, or take mp"
