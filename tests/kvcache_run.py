"""A small made-up run of `kvcache`; `python -m tests.kvcache_run` writes the texts expected of it.

Eight tokens from 20 in blocks of 16. Without a cache every token takes longer; vLLM's tokens differ from the
sixth on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from harness.experiments.kvcache import view as kvcache
from harness.runs.record import Cell, Result, Status

DATA = Path(__file__).resolve().parent / "data"
INPUT, OUTPUT, ROUNDS = 20, 8, 10
TOKEN_BYTES = 2 * 12 * 12 * 64 * 2
PROVIDER = {"paged": "vLLM 0.26.0"}
POINT = (("input_len", INPUT), ("output_len", OUTPUT))


def record() -> dict[str, Any]:
    """What run.json holds."""
    shape = {"num_layers": 12, "num_kv_heads": 12, "head_dim": 64}
    return {
        "experiment": "kvcache",
        "status": "finished",
        "config": {"input_len": INPUT, "output_len": OUTPUT},
        "device": {"name": "NVIDIA H100", "kind": "cuda"},
        "model": {"name": "gpt2", "weights": "seeded random", **shape},
        "engine": {"dtype": "bfloat16", "block_size": 16, "kv_cache_bytes": 4 * 16 * TOKEN_BYTES},
        "tokens": {
            "no_cache": [1, 2, 3, 4, 5, 6, 7, 8],
            "kv_cache": [1, 2, 3, 4, 5, 6, 7, 8],
            "paged": [1, 2, 3, 4, 5, 9, 7, 8],
        },
        "first_logits": {
            "kv_cache": {"error": 0.0, "objection": None},
            "paged": {"error": 0.0041, "objection": None},
        },
        "versions": {"vllm": "0.26.0", "transformers": "5.19.0"},
        "command": ["python", "-m", "harness", "kvcache"],
        "notices": [],
    }


def step_us(mode: str, step: int) -> float:
    """What the made-up token takes, the first one 1."""
    first = {"no_cache": 9000.0, "kv_cache": 9100.0, "paged": 5000.0}[mode]
    later = {"no_cache": 9000.0 + 400 * step, "kv_cache": 6000.0, "paged": 2500.0}[mode]
    return first if step == 1 else later


def cached_bytes(mode: str, step: int) -> float:
    """K and V that the made-up mode keeps after the token."""
    tokens = INPUT + step - 1
    return TOKEN_BYTES * {"no_cache": 0, "kv_cache": tokens, "paged": -(-tokens // 16) * 16}[mode]


def results(lost: str | None = None) -> list[Result]:
    """What samples.jsonl holds; the mode `lost` did not fit."""
    rng = np.random.default_rng(5)
    found, steps = [], []
    for mode, control in (("no_cache", False), ("kv_cache", False), ("paged", False), ("kv_cache", True)):
        provider = PROVIDER.get(mode, "transformers 5.19.0")
        of_cell = mode, 0, 16 if mode == "paged" else 0, None, "captured", POINT
        cell = Cell("end_to_end", "generation", provider, *of_cell)
        if mode == lost:
            reason = "OutOfMemoryError: CUDA out of memory"
            found.append(Result(cell, "generation", Status.OUT_OF_MEMORY, reason, control=control))
            continue
        noise = rng.normal(1, 0.004, ROUNDS)
        total = sum(step_us(mode, step) for step in range(1, OUTPUT + 1))
        samples = [round(total * x, 1) for x in noise]
        found.append(
            Result(cell, "generation", Status.OK, None, samples, [total * 2], control=control, seed=0)
        )
        if control:
            continue
        for step in range(1, OUTPUT + 1):
            here = Cell("step", "generation", provider, *of_cell[:-1], (*POINT, ("step", step)))
            times = [round(step_us(mode, step) * x, 1) for x in noise]
            readings = {"cache_bytes": [cached_bytes(mode, step)] * ROUNDS}
            steps.append(Result(here, "steps", Status.OK, None, times, readings=readings))
        memory = {"start_bytes": [3e8] * ROUNDS, "peak_bytes": [3e8 + 2e6 + cached_bytes(mode, 8)] * ROUNDS}
        here = Cell("memory", "generation", provider, *of_cell)
        steps.append(Result(here, "steps", Status.OK, readings=memory))
    return found + steps


def screen() -> str:
    """All tables as they are printed."""
    return kvcache.document(record(), kvcache.summarise(record(), results())).screen_summary() + "\n"


def markdown() -> str:
    """tables.md of a run in which one mode did not fit."""
    return kvcache.document(record(), kvcache.summarise(record(), results("no_cache"))).markdown()


def main() -> None:
    """Write the expected texts."""
    (DATA / "kvcache.txt").write_text(screen(), encoding="utf-8")
    (DATA / "kvcache.md").write_text(markdown(), encoding="utf-8")


if __name__ == "__main__":
    main()
