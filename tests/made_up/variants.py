"""The main job over engines that differ in one option: two of the baseline's, two variants, one without arms
to steer, one that did not fit."""

from __future__ import annotations

from typing import Any

from harness.runs.record import Result, Status
from tests.made_up import builder, prefill_gpu
from tests.made_up.builder import Builder

ARMS = ("engine", "paged", "dense", "no_write")
LEVELS: dict[str, tuple[float | None, ...]] = {  # us of ARMS
    "baseline": (6500.0, 6990.0, 7070.0, 6630.0),
    "baseline again": (6508.0, 6996.0, 7078.0, 6635.0),
    "block_size=64": (6440.0, 6930.0, 7068.0, 6632.0),
    "flash_attn_version=2": (6720.0, 7210.0, 7120.0, 6690.0),
    "attention_backend=TRITON_ATTN": (6900.0, 6905.0, None, None),
    "block_size=256": (None, None, None, None),
}
NO_MEMORY = "OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB."
NOT_STEERED = "attention backend TRITON_ATTN: in-engine arms know FLASH_ATTN, CPU_ATTN"


def record() -> dict[str, Any]:
    """What run.json holds, as far as it is read."""
    engine = {"block_size": 16, "flash_attn_version": 3, "attention_backend": ["FLASH_ATTN"]}
    return builder.record(prefill_gpu.record() | {"engine": engine, "profile": [], "notices": []})


def results() -> list[Result]:
    """What samples.jsonl holds."""
    made = Builder(11, noise=0.002, rounds=40, series="variants")
    for name, levels in LEVELS.items():
        for arm, level in zip(ARMS, levels, strict=True):
            of: dict[str, Any] = {"variant": name.removesuffix(" again"), "control": name.endswith(" again")}
            of["block_size"] = int(name.partition("block_size=")[2] or 16)
            if level is None and "TRITON" in name:
                of |= {"status": Status.UNSUPPORTED, "reason": NOT_STEERED}
            elif level is None:
                of |= {"status": Status.OUT_OF_MEMORY, "reason": NO_MEMORY}
            made.add("variant", "prefill", "vLLM 0.26.0", arm, level, **of)
    return made.results
