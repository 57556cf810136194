"""A small made-up run of `backends`; `python -m tests.backends_run` writes the texts expected of it.

Three of vLLM's backends on a GPU: one is the fastest on short prompts, another on long ones, the third did
not fit in two cells and was refused in one. Attention alone beside them, whose buffer did not fit once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from harness.record import Cell, Result, Status
from harness.report import backends

DATA = Path(__file__).resolve().parent / "data"
BATCHES, LENGTHS = (1, 4, 16), (1, 512, 2048)
ENGINES = {"FLASH_ATTN": (900.0, 1.0), "TRITON_ATTN": (600.0, 1.4), "FLEX_ATTENTION": (1500.0, 2.0)}
ALONE = {"gathered": (20.0, 0.03), "per_block": (40.0, 0.3)}
LOST = {
    ("FLEX_ATTENTION", 16, 512): (Status.ERROR, "RuntimeError: no kernel for this shape"),
    ("FLEX_ATTENTION", 4, 2048): (Status.OUT_OF_MEMORY, "OutOfMemoryError: CUDA out of memory"),
    ("FLEX_ATTENTION", 16, 2048): (
        Status.OUT_OF_MEMORY,
        "not tried, as batch 4 x 2048 tokens failed: OutOfMemoryError: CUDA out of memory",
    ),
    ("FLASH_ATTN", 16, 2048): (Status.OUT_OF_MEMORY, "its KV cache takes 2048 blocks, there are 1999"),
    ("TRITON_ATTN", 16, 2048): (Status.OUT_OF_MEMORY, "its KV cache takes 2048 blocks, there are 1999"),
    ("gathered", 16, 2048): (Status.OUT_OF_MEMORY, "OutOfMemoryError: CUDA out of memory"),
}


def record(output_len: int | None = None) -> dict[str, Any]:
    """What run.json holds."""
    return {
        "experiment": "backends",
        "status": "finished",
        "config": {"output_len": output_len, "block_size": 16},
        "device": {"name": "NVIDIA H100", "kind": "cuda"},
        "model": {"name": "gpt2", "weights": "seeded random", "num_layers": 12},
        "versions": {"vllm": "0.26.0", "torch": "2.11.0"},
        "command": ["harness", "backends"],
        "notices": [],
    }


def results() -> list[Result]:
    """What samples.jsonl holds: time grows with the tokens once they are many."""
    rng = np.random.default_rng(11)
    found = []
    for arm, (floor, slope) in (ENGINES | ALONE).items():
        for batch in BATCHES:
            for tokens in LENGTHS:
                point = (("batch_size", batch), ("input_len", tokens))
                alone = arm in ALONE
                names = (
                    ("kernel", "scaled_dot_product_attention", "PyTorch 2.11.0 math")
                    if alone
                    else ("end_to_end", "prefill", "vLLM 0.26.0")
                )
                kind = (1, 16, None, "synthetic") if alone else (0, 16, None, "captured")
                cell = Cell(*names, arm, *kind, point)
                series = f"sdpa.math batch={batch} input={tokens}" if alone else arm
                status, reason = LOST.get((arm, batch, tokens), (Status.OK, None))
                level = max(floor, slope * batch * tokens)
                samples = [round(float(level * x), 3) for x in rng.normal(1, 0.003, 12)]
                size = batch * (tokens if arm == "gathered" else 16) * 2 * 12 * 64 * 2
                readings = {"buffer_bytes": [float(size)]} if alone else {}
                times = ([], []) if reason else (samples[2:], samples[:2])
                found.append(Result(cell, series, status, reason, *times, readings=readings))
                if arm == "gathered" and not reason:
                    again = [round(float(level * x), 3) for x in rng.normal(1, 0.003, 10)]
                    found.append(Result(cell, series, status, None, again, control=True, readings=readings))
    return found


def screen() -> str:
    """All tables as they are printed."""
    return backends.document(record(), backends.summarise(record(), results())).screen_summary() + "\n"


def markdown() -> str:
    """tables.md."""
    return backends.document(record(), backends.summarise(record(), results())).markdown()


def main() -> None:
    """Write the expected texts."""
    (DATA / "backends.txt").write_text(screen(), encoding="utf-8")
    (DATA / "backends.md").write_text(markdown(), encoding="utf-8")


if __name__ == "__main__":
    main()
