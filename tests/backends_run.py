"""A small made-up run of `backends`; `python -m tests.backends_run` writes the texts expected of it.

Three of vLLM's backends on a GPU: one is the fastest on short prompts, another on long ones, the third did
not fit in two cells and was refused in one. The first has a second engine, which differs from it by 0.4%.
Attention alone beside them: its buffer did not fit once, its call could not be captured in one cell.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.experiments.backends import view as backends
from harness.runs.record import Cell, Result, Status

DATA = Path(__file__).resolve().parent / "data"
BATCHES, LENGTHS = (1, 4, 16), (1, 512, 2048)
ENGINES = {"FLASH_ATTN": (900.0, 1.0), "TRITON_ATTN": (600.0, 1.4), "FLEX_ATTENTION": (1500.0, 2.0)}
ALONE = {"gathered": (20.0, 0.03), "per_block": (40.0, 0.3)}
RANDOM = (4, 1), "random Q, K and V: the engine could not capture it: the engine's process ended with SIGKILL"
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
        "config": {"output_len": output_len, "block_size": 16, "max_num_batched_tokens": 4096},
        "device": {"name": "NVIDIA H100", "kind": "cuda"},
        "model": {"name": "gpt2", "weights": "seeded random", "num_layers": 12},
        "versions": {"vllm": "0.26.0", "torch": "2.11.0"},
        "command": ["python", "-m", "harness", "backends"],
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
                data, remark = (
                    ("synthetic", RANDOM[1]) if alone and (batch, tokens) == RANDOM[0] else ("captured", None)
                )
                kind = (1 if alone else 0, 16, None, data)
                cell = Cell(*names, arm, *kind, point)  # type: ignore[arg-type]
                series = f"sdpa.math batch={batch} input={tokens}" if alone else arm
                status, reason = LOST.get((arm, batch, tokens), (Status.OK, remark))
                level = max(floor, slope * batch * tokens)
                samples = [round(float(level * x), 3) for x in rng.normal(1, 0.003, 12)]
                size = batch * (tokens if arm == "gathered" else 16) * 2 * 12 * 64 * 2
                readings = {"buffer_bytes": [float(size)]} if alone else {}
                times = ([], []) if status is not Status.OK else (samples[2:], samples[:2])
                found.append(Result(cell, series, status, reason, *times, readings=readings))
                if arm == "gathered" and status is Status.OK:
                    again = [round(float(level * x), 3) for x in rng.normal(1, 0.003, 10)]
                    found.append(Result(cell, series, status, reason, again, control=True, readings=readings))
    return found + [_again(rng, result) for result in found if result.cell.arm == "FLASH_ATTN"]


def _again(rng: np.random.Generator, first: Result) -> Result:
    """A cell of FLASH_ATTN in its second engine, which ran out of memory once where the first did not."""
    series = "FLASH_ATTN again"
    if first.cell.point == (("batch_size", 16), ("input_len", 512)):
        lost = Status.OUT_OF_MEMORY, "OutOfMemoryError: CUDA out of memory"
        return Result(first.cell, series, *lost, control=True)
    samples = [
        round(1.004 * us * float(x), 3)
        for us, x in zip(first.samples_us, rng.normal(1, 0.003, 10), strict=False)
    ]
    return replace(first, series=series, samples_us=samples, control=True)


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
