"""`backends`: three of vLLM's, one the fastest on short prompts, another on long ones; the third did not fit
in two cells and was refused in one. The first has a second engine, which differs from it by 0.4%.
Attention alone beside them: its buffer did not fit once, its call could not be captured in one cell.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from harness.runs.record import Result, Status
from tests.made_up import builder
from tests.made_up.builder import TOO_MUCH, Builder

BATCHES, LENGTHS = (1, 4, 16), (1, 512, 2048)
ENGINES = {"FLASH_ATTN": (900.0, 1.0), "TRITON_ATTN": (600.0, 1.4), "FLEX_ATTENTION": (1500.0, 2.0)}
ALONE = {"gathered": (20.0, 0.03), "per_block": (40.0, 0.3)}
RANDOM = (4, 1), "random Q, K and V: the engine could not capture it: the engine's process ended with SIGKILL"
LOST = {
    ("FLEX_ATTENTION", 16, 512): (Status.ERROR, "RuntimeError: no kernel for this shape"),
    ("FLEX_ATTENTION", 4, 2048): (Status.OUT_OF_MEMORY, TOO_MUCH),
    ("FLEX_ATTENTION", 16, 2048): (
        Status.OUT_OF_MEMORY,
        f"not tried, as batch 4 x 2048 tokens failed: {TOO_MUCH}",
    ),
    ("FLASH_ATTN", 16, 2048): (Status.OUT_OF_MEMORY, "its KV cache takes 2048 blocks, there are 1999"),
    ("TRITON_ATTN", 16, 2048): (Status.OUT_OF_MEMORY, "its KV cache takes 2048 blocks, there are 1999"),
    ("gathered", 16, 2048): (Status.OUT_OF_MEMORY, TOO_MUCH),
}
Point = tuple[tuple[str, int], tuple[str, int]]
POINTS: list[Point] = [(("batch_size", n), ("input_len", tokens)) for n in BATCHES for tokens in LENGTHS]


def record(output_len: int | None = None) -> dict[str, Any]:
    """What run.json holds."""
    facts = {
        "experiment": "backends",
        "status": "finished",
        "config": {"output_len": output_len, "block_size": 16, "max_num_batched_tokens": 4096},
        "device": {"name": "NVIDIA H100", "kind": "cuda"},
        "model": {"name": "gpt2", "weights": "seeded random", "num_layers": 12},
        "versions": {"vllm": "0.26.0", "torch": "2.11.0"},
        "command": ["python", "-m", "harness", "backends"],
    }
    return builder.record(facts)


def results() -> list[Result]:
    """What samples.jsonl holds: time grows with the tokens once they are many."""
    made = Builder(11, noise=0.003, rounds=10, warmup=2, spread_k=0)
    for arm, (floor, slope) in ENGINES.items():
        for point in POINTS:
            _add(made, ("end_to_end", "prefill", "vLLM 0.26.0", arm), point, floor, slope, series=arm)
    for arm, (floor, slope) in ALONE.items():
        for point in POINTS:
            (_, batch), (_, tokens) = point
            size = batch * (tokens if arm == "gathered" else 16) * 2 * 12 * 64 * 2
            of: dict[str, Any] = {"spread_k": 1, "series": f"sdpa.math batch={batch} input={tokens}"}
            of["readings"] = {"buffer_bytes": [float(size)], "extra_bytes": [float(2 * size)]}
            if (batch, tokens) == RANDOM[0]:
                of |= {"data": "synthetic", "reason": RANDOM[1]}
            names = "kernel", "scaled_dot_product_attention", "PyTorch 2.11.0 math", arm
            if _add(made, names, point, floor, slope, **of).samples_us and arm == "gathered":
                _add(made, names, point, floor, slope, warmup=0, control=True, **of)
    return made.results + [_again(made, first) for first in made.results if first.cell.arm == "FLASH_ATTN"]


def _add(
    made: Builder, names: tuple[str, str, str, str], point: Point, floor: float, slope: float, **of: Any
) -> Result:
    (_, batch), (_, tokens) = point
    if lost := LOST.get((names[-1], batch, tokens)):
        of |= {"status": lost[0], "reason": lost[1]}
    return made.add(*names, max(floor, slope * batch * tokens), point=point, **of)


def _again(made: Builder, first: Result) -> Result:
    """A cell of FLASH_ATTN in its second engine, which ran out of memory once where the first did not."""
    again = replace(first, series="FLASH_ATTN again", control=True)
    if first.cell.point == (("batch_size", 16), ("input_len", 512)):
        lost: dict[str, Any] = {"status": Status.OUT_OF_MEMORY, "reason": TOO_MUCH}
        return replace(again, samples_us=[], warmup_us=[], **lost)
    factors = made.factors(10)
    samples = [round(1.004 * us * x, 3) for us, x in zip(first.samples_us, factors, strict=False)]
    return replace(again, samples_us=samples)
