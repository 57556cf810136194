"""What vLLM is started with: its arguments, and what it reads from the environment."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from harness import device
from harness.config.engine import EngineSpec
from harness.engine import executors
from harness.engine.names import EXTENSION
from harness.models import ModelSource, mistral_format
from harness.plugin import mode as plugin_mode
from harness.runs.record import Status
from harness.units import GIB

# Variables set below, for workers that do not inherit them.
EXPORTED = ("VLLM_NO_USAGE_STATS", "VLLM_LOGGING_LEVEL", "VLLM_ALLOW_LONG_MAX_MODEL_LEN")


class EngineError(RuntimeError):
    """The engine cannot start, or did not behave as a prefill-only engine must; says what to change."""

    def __init__(self, message: str, status: Status = Status.ERROR) -> None:
        """
        Args:
            status: of the cells that the engine leaves unmeasured.
        """
        super().__init__(message)
        self.status = status


def check_vllm(source: ModelSource, attention_backend: str | None) -> None:
    """Raise PatchError if the installed vLLM lacks something needed to run this model and observe it.

    Takes seconds, as it imports vllm; starts nothing.

    Args:
        attention_backend: as asked for, in any case; None: vLLM's choice.
    """
    _of_the_process()
    from harness.engine import compatibility
    from patches import positions, weights

    kind = device.kind()
    usual = {"cpu": "CPU_ATTN", "cuda": "FLASH_ATTN"}[kind]
    features = [f"the attention backend {(attention_backend or usual).upper()}"]
    if source.extended_positions is not None:
        features.append(positions.FEATURE)
    if source.drawn_in_engine:
        features.append(weights.FEATURE)
    compatibility.require(kind, features)


def engine_args(spec: EngineSpec, source: ModelSource) -> dict[str, Any]:
    """vLLM's arguments for an engine that serves only the harness's requests."""
    arguments: dict[str, Any] = {
        "model": str(source.path),
        "hf_overrides": source.hf_overrides,
        "runner": "generate",
        "skip_tokenizer_init": True,
        "generation_config": "vllm",
        "dtype": spec.dtype,
        "block_size": spec.block_size,
        "load_format": source.load_format,
        **_mistral_format(source),
        "gpu_memory_utilization": spec.gpu_memory_utilization,
        "kv_cache_memory_bytes": spec.kv_cache_bytes,
        "num_gpu_blocks_override": spec.num_gpu_blocks_override,
        "enforce_eager": spec.enforce_eager,
        "tensor_parallel_size": spec.tensor_parallel_size,
        "worker_extension_cls": EXTENSION,
        "trust_remote_code": source.trust_remote_code,
        "seed": spec.seed,
        "max_model_len": spec.max_model_len,
        "max_num_batched_tokens": batched_tokens(spec),
        "max_num_seqs": spec.max_num_seqs,
        "enable_prefix_caching": spec.enable_prefix_caching,
        "disable_hybrid_kv_cache_manager": True,  # one block table for all layers that can share one
        "async_scheduling": False,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
    }
    if spec.tensor_parallel_size > 1:
        # Where FlashInfer is installed vLLM 0.26 fuses the all-reduce with norms. Without NVLink multicast
        #  that writes to a null pointer (vllm-project/vllm#48071). Off, engines behave the same with and
        #  without it.
        arguments["compilation_config"] = {"pass_config": {"fuse_allreduce_rms": False}}
    if spec.cudagraph_mode:
        arguments["enforce_eager"] = spec.cudagraph_mode == "EAGER"
    if spec.cudagraph_mode not in (None, "EAGER"):
        graphs = {"cudagraph_mode": spec.cudagraph_mode, "cudagraph_capture_sizes": [spec.cudagraph_tokens]}
        arguments["compilation_config"] = arguments.get("compilation_config", {}) | graphs
    if spec.distributed_executor_backend:
        arguments["distributed_executor_backend"] = spec.distributed_executor_backend
    if spec.attention_backend:
        arguments["attention_backend"] = spec.attention_backend
    if version := _flash_attn_version(spec, source):
        arguments["attention_config"] = {"flash_attn_version": version}
    for name, value in spec.engine_options.items():
        own = arguments.get(name)
        if name != "hf_overrides":  # which the source has, with its own
            arguments[name] = _merge(value, own) if isinstance(own, dict) else value
    return arguments


def _mistral_format(source: ModelSource) -> dict[str, str]:
    """What makes vLLM read Mistral's own layout, whatever it would take for one by itself."""
    if not source.in_mistral_format:
        return {}
    name = mistral_format.NAME
    return {
        "config_format": name,
        "load_format": name if source.load_format == "auto" else source.load_format,
    }


def _merge(theirs: Any, own: dict[str, Any]) -> Any:
    """The user's nested values, with the harness's where it needs its own."""
    if not isinstance(theirs, dict):
        return theirs
    inner = [name for name, value in own.items() if isinstance(value, dict) and name in theirs]
    return theirs | own | {name: _merge(theirs[name], own[name]) for name in inner}


def _flash_attn_version(spec: EngineSpec, source: ModelSource) -> int | None:
    """The version to ask vLLM for; None: its own choice.

    Only version 2 has ALiBi. vLLM 0.26 runs 2 by itself, but plans steps for 3 if the GPU has it.
    """
    if source.positions != "alibi" or device.kind() != "cuda":
        return spec.flash_attn_version
    if spec.flash_attn_version not in (None, 2):
        raise EngineError(
            f"--flash-attn-version {spec.flash_attn_version}: {source.name} has ALiBi, which only version 2 "
            "supports"
        )
    return 2


def batched_tokens(spec: EngineSpec) -> int:
    """max_num_batched_tokens, raised to the most that a step of max_num_seqs prompts can need.

    Where FlashInfer is installed vLLM 0.26 tunes it with a step of that many tokens, shared by max_num_seqs
    dummy prompts; the last also gets the remainder. If that exceeds max_model_len, attention reads block ids
    past the end of the block table, and K and V from anywhere.
    """
    share, left_over = divmod(spec.max_num_batched_tokens, spec.max_num_seqs)
    if share + left_over > spec.max_model_len:
        return spec.max_num_seqs * min(share + 1, spec.max_model_len)
    return spec.max_num_batched_tokens


def kv_cache_space(num_bytes: int) -> dict[str, str]:
    """The environment that gives an engine on a CPU at least `needed` bytes of KV cache, in whole GiB."""
    return {"VLLM_CPU_KVCACHE_SPACE": str(max(1, math.ceil(num_bytes / GIB)))}


def _of_the_process() -> None:
    """Set what vLLM reads from the environment for any engine; call it before vllm is imported."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set these environment variables inside the block and restore them afterwards."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def unless_set(variables: Mapping[str, str]) -> dict[str, str]:
    """Those that are not set yet: the user's own stay."""
    return {name: value for name, value in variables.items() if name not in os.environ}


def engine_environment(spec: EngineSpec, source: ModelSource) -> dict[str, str]:
    """What vLLM reads from the environment as one engine starts.

    The next engine in this process may have another length and other ranks, so nothing may be left behind.
    """
    # Room for the prompts twice, and a little more, in four-byte numbers.
    cached_bytes = math.ceil(2.5 * spec.cached_tokens * source.room_per_token(4))
    variables = kv_cache_space(cached_bytes if spec.kv_cache_bytes is None else spec.kv_cache_bytes)
    if spec.tensor_parallel_size > 1:
        cpus = sorted(os.sched_getaffinity(0))
        variables["VLLM_CPU_OMP_THREADS_BIND"] = executors.cpu_binding(spec.tensor_parallel_size, cpus)
        # A fork would inherit this process's NVML state and threads.
        variables["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
    if not executors.joins_a_cluster(spec.distributed_executor_backend):
        variables |= executors.LOOPBACK
    variables = unless_set(variables)
    variables[plugin_mode.VARIABLE] = ""  # vLLM as it is, where the plugin is installed and asked for
    if spec.tensor_parallel_size > 1:
        # Clean up a dead rank's shared memory silently.
        silent = "ignore::UserWarning:multiprocessing.resource_tracker"
        variables["PYTHONWARNINGS"] = ",".join(filter(None, (os.environ.get("PYTHONWARNINGS"), silent)))
    if spec.allow_long_max_model_len:
        variables["VLLM_ALLOW_LONG_MAX_MODEL_LEN"] = "1"
    return variables
