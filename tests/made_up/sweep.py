"""A sweep of six points: two have the run on a GPU, one has a CPU's without a breakdown, one failed, one was
interrupted, and one has not begun."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from harness.runs.writing import write_json
from harness.sweep import RECORD
from tests.made_up import prefill, prefill_gpu
from tests.made_up.builder import write_run
from tests.made_up.views import summary_of

DIED = "OutOfMemoryError: CUDA out of memory. Tried to allocate 16.00 GiB."


def record() -> dict[str, Any]:
    """What sweep.json holds."""
    rows = [
        ("1_gpt2_length-1024_block-size-16", "gpt2", 1024, 16, "finished", None),
        ("2_gpt2_length-1024_block-size-128", "gpt2", 1024, 128, "finished", None),
        ("3_gpt2_length-4096_block-size-16", "gpt2", 4096, 16, "finished", None),
        ("4_llama-3-8b_length-4096_block-size-16", "llama-3-8b", 4096, 16, "failed", DIED),
        (
            "5_llama-3-8b_length-4096_block-size-128",
            "llama-3-8b",
            4096,
            128,
            "interrupted",
            "ended by Ctrl-C",
        ),
        ("6_llama-3-8b_length-16384_block-size-16", "llama-3-8b", 16384, 16, "waiting", None),
    ]
    points = [
        {
            "name": name,
            "options": {
                "layers": "sample",
                "model": model,
                "length": length,
                "block_size": block,
                "max_seconds": 30 if model == "gpt2" else 120,
            },
            "status": status,
            "reason": reason,
        }
        for name, model, length, block, status, reason in rows
    ]
    return {
        "schema_version": 1,
        "status": "interrupted",
        "started": "2026-01-02T03:04:05+00:00",
        "command": ["python", "-m", "harness", "sweep", "configs/sweep.yaml"],
        "file": "configs/sweep.yaml",
        "varies": ["model", "length", "block_size", "max_seconds"],
        "points": points,
    }


def write(directory: Path) -> Path:
    """The sweep's directory, with what its points have left."""
    sweep_record = record()
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / RECORD, sweep_record)
    of_gpu, summary = prefill_gpu.breakdown()
    cpu_kernels = summary_of(prefill.record(), prefill.results())  # at every spread_k
    for number, point in enumerate(sweep_record["points"][:5]):
        notices = ["seeded random weights", "no room for all layers"][: 1 + (number < 2)]
        run = write_run(directory / point["name"], of_gpu | {"status": point["status"], "notices": notices})
        if point["status"] == "finished":
            own = cpu_kernels if number == 2 else summary
            write_json(run.summary_path, own | {"attribution": _breakdown(summary, number)})
    return directory


def _breakdown(summary: dict[str, Any], number: int) -> dict[str, Any] | None:
    """Another account for every point: more cache write; none at the third."""
    if number == 2:
        return None
    breakdown: dict[str, Any] = copy.deepcopy(summary["attribution"])
    breakdown["engine_ms"] *= 1 + 20 * number
    breakdown["engine_ci95_ms"] = [bound * (1 + 20 * number) for bound in breakdown["engine_ci95_ms"]]
    for row in breakdown["measured"]:
        if row["component"] in ("cache_write", "total"):
            row |= {"pct": row["pct"] + number, "ci95_pct": [bound + number for bound in row["ci95_pct"]]}
    return breakdown
