"""`kvcache`: eight tokens from 20 in blocks of 16. Without a cache every token takes longer; vLLM's tokens
differ from the sixth on."""

from __future__ import annotations

from typing import Any

from harness.runs.record import Result, Status
from tests.made_up import builder
from tests.made_up.builder import TOO_MUCH, Builder

INPUT, OUTPUT, ROUNDS = 20, 8, 10
TOKEN_BYTES = 2 * 12 * 12 * 64 * 2


def record() -> dict[str, Any]:
    """What run.json holds."""
    shape = {"num_layers": 12, "num_kv_heads": 12, "head_dim": 64}
    facts = {
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
    }
    return builder.record(facts)


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
    point: tuple[tuple[str, int], ...] = (("input_len", INPUT), ("output_len", OUTPUT))
    made = Builder(5, noise=0.004, rounds=ROUNDS, digits=1, spread_k=0, point=point, series="generation")
    steps = Builder(5, noise=0.0, rounds=0, digits=1, spread_k=0, point=point, series="steps")
    for mode, control in (("no_cache", False), ("kv_cache", False), ("paged", False), ("kv_cache", True)):
        provider = "vLLM 0.26.0" if mode == "paged" else "transformers 5.19.0"
        generation, block_size = ("generation", provider, mode), 16 if mode == "paged" else 0
        of: dict[str, Any] = {"block_size": block_size, "control": control}
        if mode == lost:
            of |= {"status": Status.OUT_OF_MEMORY, "reason": TOO_MUCH}
            made.add("end_to_end", *generation, None, **of)
            continue
        factors = made.factors(ROUNDS)
        total = sum(step_us(mode, step) for step in range(1, OUTPUT + 1))
        made.add("end_to_end", *generation, total, factors=factors, warmup_us=[total * 2], seed=0, **of)
        if control:
            continue
        for step in range(1, OUTPUT + 1):
            of = {"block_size": block_size, "point": (*point, ("step", step))}
            of["readings"] = {"cache_bytes": [cached_bytes(mode, step)] * ROUNDS}
            steps.add("step", *generation, step_us(mode, step), factors=factors, **of)
        memory = {"start_bytes": [3e8] * ROUNDS, "peak_bytes": [3e8 + 2e6 + cached_bytes(mode, 8)] * ROUNDS}
        steps.add("memory", *generation, None, block_size=block_size, readings=memory)
    return made.results + steps.results
