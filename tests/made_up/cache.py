"""`cache` of two batch sizes; at 100% the batch ran out of memory, at 50% one output from the warm cache is
wrong."""

from __future__ import annotations

from typing import Any

from harness.runs.record import Result, Status
from tests.made_up import builder
from tests.made_up.builder import TOO_MUCH, Builder

SHARES = (0, 50, 100)
BLOCK_SIZE, LENGTH = 16, 512


def record() -> dict[str, Any]:
    """What run.json holds."""
    return builder.record(
        experiment="cache",
        status="finished",
        config={"length": LENGTH, "prompts": 4, "output_len": 8, "shares": list(SHARES)},
        device={"name": "NVIDIA H100", "kind": "cuda"},
        model={"name": "smollm2-135m", "weights": "pretrained"},
        engine={"num_blocks_in_pool": 4096},
        versions={"torch": "2.11.0", "vllm": "0.26.0"},
        command=["python", "-m", "harness", "cache", "--shares", "0,50,100"],
        outputs={str(share): [_output(share, n) for n in range(4)] for share in SHARES},
    )


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
    made = Builder(3, noise=0.004, rounds=12, warmup=2, block_size=BLOCK_SIZE, spread_k=0, series_size=3)
    for share in SHARES:
        for size in (1, 4):
            cached = min(LENGTH * share // 100, LENGTH - 1) // BLOCK_SIZE * BLOCK_SIZE * size
            for arm, control in (("reset", False), ("warm", False), ("reset", True)):
                hits = cached if arm == "warm" else 0
                factors = made.factors(14)
                rate = 100 * hits / (LENGTH * size)
                figures: dict[str, Any] = {
                    "cached_tokens": [float(hits)] * 12,
                    "hit_rate_pct": [rate] * 12,
                    "expected_rate_pct": [rate] * 12,
                    "changed_first_tokens": [float((arm, share, size) == ("warm", 50, 4))] * 12,
                    "reset_us": made.around(180, factors[2:]),
                }
                of: dict[str, Any] = {"readings": figures, "control": control}
                of["point"] = (("share_pct", share), ("batch_size", size))
                if (arm, share, size) == ("warm", 100, 4):
                    of |= {"status": Status.OUT_OF_MEMORY, "reason": TOO_MUCH, "readings": {}}
                level = 3000.0 + 20.0 * (LENGTH * size - hits)
                step = ("end_to_end", "prefill", "vLLM 0.26.0", arm)
                made.add(*step, level, factors=factors, series=f"share={share} batch={size}", **of)
    return made.results
