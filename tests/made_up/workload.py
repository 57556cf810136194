"""`workload`: 40 requests of 32 to 700 tokens in ten steps, of which eight end within a prompt.

Keeping prompts whole costs 1%, leaving out the cache saves 5%; the dense arm ran out of memory.
"""

from __future__ import annotations

from typing import Any

from harness.experiments.workload.summary import PERCENTILES, SLUGS
from harness.runs.record import Result, Status
from tests.made_up import builder
from tests.made_up.builder import TOO_MUCH, Builder

ROUNDS, REQUESTS, TOKENS = 8, 40, 12000
LEVELS_US = {"stock": 500e3, "whole": 505e3, "wrapped": 506e3, "dense": None, "no_cache": 480e3}
# Of stock's steps: kind, tokens, requests, graph, blocks, segments, us and us to the next one.
STEPS = [
    ("pure prefill", 800, 4, "PIECEWISE", 52, 4, 30e3, 400.0),
    *(("chunk", 1350, 5 + n % 2, "NONE", 90, 30 + 5 * n, 52e3 + 100 * n, 500.0) for n in range(8)),
    ("pure prefill", 400, 2, "PIECEWISE", 26, 20, 18e3, 0.0),
]


def record() -> dict[str, Any]:
    """What run.json holds."""
    return builder.record(
        experiment="workload",
        status="finished",
        config={"task": "generate", "prompts": "prompts.jsonl", "arrivals": False},
        device={"name": "NVIDIA H100", "kind": "cuda"},
        model={"name": "llama-3-8b", "weights": "seeded random", "dtype": "bfloat16"},
        engine={"num_blocks_in_pool": 4096, "max_num_batched_tokens": 1350, "block_size": 16},
        versions={"vllm": "0.33.0"},
        command=["python", "-m", "harness", "workload", "--prompts", "prompts.jsonl"],
        work={
            "format": "prompts", "requests": REQUESTS, "tokens": TOKENS, "shortest": 32, "longest": 700,
            "skipped": 1,
        },
    )  # fmt: skip


def results() -> list[Result]:
    """What samples.jsonl holds."""
    of_work = (("task", "generate"), ("requests", REQUESTS))
    made = Builder(
        7, noise=0.003, rounds=ROUNDS, warmup=1, block_size=16, spread_k=0, series="step",
        series_size=len(STEPS) + 2,
    )  # fmt: skip
    common = ("workload", "vLLM 0.33.0")
    began_us = 0.0
    for number, (kind, tokens, requests, graph, blocks, segments, us, gap_us) in enumerate(STEPS, 1):
        point = (
            *of_work, ("step", number), ("kind", kind), ("tokens", tokens), ("step_requests", requests),
            ("cached_tokens", 0), ("graph", graph), ("blocks", blocks), ("segments", segments),
        )  # fmt: skip
        readings = {"gap_us": [gap_us], "start_us": [began_us]}
        made.results.append(
            builder.result(
                "step", *common, "stock", spread_k=0, point=point, series="step", samples_us=[us],
                readings=readings, series_size=len(STEPS) + 2,
            )
        )  # fmt: skip
        began_us += us + gap_us
    for kind, us, tokens in (("pure prefill", 24e3, 600), ("chunk", 52e3, 1350)):
        shares = (0.2, 0.03, 0.4, 0.1, 0.02, 0.02, 0.01)
        times = {f"{slug}_us": [us * share] for slug, share in zip(SLUGS.values(), shares, strict=True)}
        readings = times | {"tokens": [float(tokens)], "profiled_us": [2 * us]}
        made.results.append(
            builder.result(
                "profile", *common, "stock", spread_k=0, point=(*of_work, ("kind", kind)), series="step",
                readings=readings, series_size=len(STEPS) + 2,
            )
        )  # fmt: skip
    for arm, level_us in (*LEVELS_US.items(), ("stock", LEVELS_US["stock"])):
        control = any(each.cell.arm == arm and each.cell.stage == "end_to_end" for each in made.results)
        more: dict[str, Any] = {"status": Status.OUT_OF_MEMORY, "reason": TOO_MUCH}
        if level_us is not None:
            more = {
                "readings": {
                    f"p{p}_us": made.around(level_us * p / 100, made.factors(ROUNDS)) for p in PERCENTILES
                }
            }
        made.add(
            "end_to_end", *common, arm, level_us, series="passes", series_size=6, point=of_work,
            control=control, **more,
        )  # fmt: skip
    return made.results
