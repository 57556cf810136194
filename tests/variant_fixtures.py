"""A made-up series over engines that differ in one option. `python -m tests.variant_fixtures` writes the
texts expected of it."""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.experiments.prefill.summary import summarise
from harness.experiments.prefill.view import document
from harness.report.document import Document
from harness.runs.record import Cell, Result, Status
from tests.fixtures import DATA, gpu_record

ROUNDS = 40
# us of the arms "engine", "paged", "dense", "no_write"
LEVELS: dict[str, tuple[float, ...]] = {
    "baseline": (6500.0, 6990.0, 7070.0, 6630.0),
    "baseline again": (6508.0, 6996.0, 7078.0, 6635.0),
    "block_size=64": (6440.0, 6930.0, 7068.0, 6632.0),
    "flash_attn_version=2": (6720.0, 7210.0, 7120.0, 6690.0),
}
NO_MEMORY = "OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB."
NOT_STEERED = "attention backend TRITON_ATTN: in-engine arms know FLASH_ATTN, CPU_ATTN"


def variant_record() -> dict[str, Any]:
    """What run.json of such a run holds, as far as it is read."""
    engine = {"block_size": 16, "flash_attn_version": 3, "attention_backend": ["FLASH_ATTN"]}
    return gpu_record() | {"engine": engine, "profile": [], "notices": []}


def variant_results() -> list[Result]:
    """Two engines of the baseline's, two variants, one without arms to steer, one that did not fit."""
    rng = np.random.default_rng(11)
    found = []
    for name, levels in LEVELS.items():
        for arm, level in zip(("engine", "paged", "dense", "no_write"), levels, strict=True):
            found.append(_result(name, arm, Status.OK, None, _samples(rng, level)))
    triton = "attention_backend=TRITON_ATTN"
    found.append(_result(triton, "engine", Status.OK, None, _samples(rng, 6900.0)))
    found.append(_result(triton, "paged", Status.OK, None, _samples(rng, 6905.0)))
    found += [_result(triton, arm, Status.UNSUPPORTED, NOT_STEERED, []) for arm in ("dense", "no_write")]
    for arm in ("engine", "paged", "dense", "no_write"):
        found.append(_result("block_size=256", arm, Status.OUT_OF_MEMORY, NO_MEMORY, []))
    return found


def _samples(rng: np.random.Generator, level_us: float) -> list[float]:
    return [round(float(x), 3) for x in level_us * (1 + 0.002 * rng.standard_normal(ROUNDS))]


def _result(name: str, arm: str, status: Status, reason: str | None, samples_us: list[float]) -> Result:
    variant = name.removesuffix(" again")
    block_size = int(name.partition("block_size=")[2] or 16)
    cell = Cell("variant", "prefill", "vLLM 0.26.0", arm, 1, block_size, None, "captured", variant=variant)
    return Result(cell, "variants", status, reason, samples_us, control=name.endswith(" again"))


def variant_tables() -> Document:
    """The tables of the run."""
    return document(variant_record(), summarise(variant_record(), variant_results()))


def main() -> None:
    """Write the expected texts."""
    (DATA / "variants.txt").write_text(variant_tables().screen_summary() + "\n", encoding="utf-8")
    (DATA / "variants.md").write_text(variant_tables().markdown(), encoding="utf-8")


if __name__ == "__main__":
    main()
