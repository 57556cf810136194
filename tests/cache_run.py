"""A small made-up run of `cache`; `python -m tests.cache_run` writes it, and the texts expected of it.

Two batch sizes; at 100% the batch ran out of memory, and one output from the warm cache is wrong at 50%.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from harness.experiments.cache import view as cache
from harness.runs.record import Cell, Result, Status
from harness.runs.store import RunDirectory
from tests import records

DATA = Path(__file__).resolve().parent / "data"
SHARES = (0, 50, 100)
BLOCK_SIZE, LENGTH = 16, 512
TOO_MUCH = "OutOfMemoryError: CUDA out of memory"


def record() -> dict[str, Any]:
    """What run.json holds."""
    return {
        "experiment": "cache",
        "status": "finished",
        "config": {"length": LENGTH, "prompts": 4, "output_len": 8, "shares": list(SHARES)},
        "device": {"name": "NVIDIA H100", "kind": "cuda"},
        "model": {"name": "smollm2-135m", "weights": "pretrained"},
        "engine": {"num_blocks_in_pool": 4096},
        "versions": {"torch": "2.11.0", "vllm": "0.26.0"},
        "command": ["python", "-m", "harness", "cache", "--shares", "0,50,100"],
        "notices": [],
        "outputs": {str(share): [_output(share, n) for n in range(4)] for share in SHARES},
    }


def _output(share: int, n: int) -> dict[str, Any]:
    """Tokens of one prompt; one goes another way at its fifth token, one has no text."""
    reset = [100 + n, 7, 8, 9, 10, 11, 12, 13]
    warm = [*reset[:4], 50, 51, 52, 53] if (share, n) == (50, 0) else reset
    text = None if n else f" token {reset[0]}\n"
    return {
        "reset": reset,
        "warm": warm,
        "reset_text": text,
        "warm_text": text and (text if warm == reset else " token 99"),
        "logits_error": 0.002 * n,
        "objection": None,
    }


def results() -> list[Result]:
    """What samples.jsonl holds."""
    rng = np.random.default_rng(3)
    found = []
    for share in SHARES:
        for size in (1, 4):
            cached = min(LENGTH * share // 100, LENGTH - 1) // BLOCK_SIZE * BLOCK_SIZE * size
            for arm, control in (("reset", False), ("warm", False), ("reset", True)):
                hits = cached if arm == "warm" else 0
                level = 3000.0 + 20.0 * (LENGTH * size - hits)
                point = (("share_pct", share), ("batch_size", size))
                cell = Cell(
                    "end_to_end", "prefill", "vLLM 0.26.0", arm, 0, BLOCK_SIZE, None, "captured", point
                )
                lost = (arm, share, size) == ("warm", 100, 4)
                noise = rng.normal(1, 0.004, 14)
                rate = 100 * hits / (LENGTH * size)
                readings = {
                    "cached_tokens": [float(hits)] * 12,
                    "hit_rate_pct": [rate] * 12,
                    "expected_rate_pct": [rate] * 12,
                    "changed_first_tokens": [float((arm, share, size) == ("warm", 50, 4))] * 12,
                    "reset_us": [round(180 * float(x), 3) for x in noise[2:]],
                }
                samples = [] if lost else [round(level * float(x), 3) for x in noise]
                found.append(
                    Result(
                        cell,
                        f"share={share} batch={size}",
                        Status.OUT_OF_MEMORY if lost else Status.OK,
                        TOO_MUCH if lost else None,
                        samples[2:],
                        samples[:2],
                        control=control,
                        series_size=3,
                        readings={} if lost else readings,
                    )
                )
    return found


def screen() -> str:
    """All tables as they are printed."""
    return cache.document(record(), cache.summarise(record(), results())).screen_summary() + "\n"


def markdown() -> str:
    """tables.md."""
    return cache.document(record(), cache.summarise(record(), results())).markdown()


def main() -> None:
    """Write the run and the expected texts."""
    run = RunDirectory.create(DATA / "cache", overwrite=True)
    run.write_record(records.made(record()))
    run.append(results())
    (DATA / "cache.txt").write_text(screen(), encoding="utf-8")
    (DATA / "cache.md").write_text(markdown(), encoding="utf-8")


if __name__ == "__main__":
    main()
