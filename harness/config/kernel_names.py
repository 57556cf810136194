"""The names of `--kernels`, known without importing torch; `harness.kernels.listed` has the kernels."""

from __future__ import annotations

import difflib

FUNCTIONS = ("flash_attn_func", "flash_attn_qkvpacked_func", "flash_attn_with_kvcache")
# Those that read no block table: on a fragmented cache they run after a gather only.
WITHOUT_TABLE = (
    *FUNCTIONS[:2],
    "flashinfer-ragged",
    "sdpa-math",
    "sdpa-flash",
    "sdpa-efficient",
    "sdpa-cudnn",
)
WITH_TABLE = (
    FUNCTIONS[2],
    "vllm-fa2",
    "vllm-fa3",
    "vllm-fa4",
    "vllm-triton",
    "vllm-cpu",
    "fa4",
    "flashinfer-paged",
)
KNOWN = (*FUNCTIONS, *(name for name in (*WITH_TABLE, *WITHOUT_TABLE) if name not in FUNCTIONS))


def gather_for(kernel: str) -> str:
    """The name of the gather that is timed for a kernel without a block table."""
    own = {FUNCTIONS[0]: "gather_kv", FUNCTIONS[1]: "gather_qkv"}
    return own.get(kernel, f"gather_kv for {kernel}")


def problem(said: str, name: str) -> str | None:
    """A line on a name that no kernel has; None where one does.

    Args:
        said: the option with what was written, e.g. "--kernels sdpa-mat".
    """
    if name in KNOWN:
        return None
    near = ", ".join(difflib.get_close_matches(name, KNOWN, 3, cutoff=0))
    return f"{said}: no such kernel; take one of the nearest, {near}, or leave it out"
