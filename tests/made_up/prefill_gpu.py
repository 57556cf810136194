"""The main job on a GPU, where the prefill is partly host-bound: all that its breakdown is made of."""

from __future__ import annotations

from typing import Any

from harness.runs.record import Result
from tests.made_up import builder, prefill
from tests.made_up.builder import Builder
from tests.made_up.views import Row, summary_of

STEP = ("end_to_end", "prefill", "vLLM 0.26.0")
KERNEL = ("kernel", "flash_attn_varlen_func", "vLLM FA3")


def record() -> dict[str, Any]:
    """What run.json holds."""
    busy = {"sampling": 0.02, "copies": 0.05, "other": 0.01}
    busy |= {"matrix products": 1.24, "norms, activations, rope": 0.41}
    profile: list[dict[str, Any]] = [
        {
            "arm": arm,
            "spread_k": k,
            "profiled_ms": 7.9,
            "device": "cuda",
            "top": [],
            "categories": (shares := busy | {"attention": attention, "cache write": write}),
            "busy_ms": sum(shares.values()),
        }
        for arm, k, attention, write in (
            ("engine", 250, 0.98, 0.09),
            ("paged", 256, 0.99, 0.09),
            ("paged", 1, 0.98, 0.09),
            ("dense", 1, 0.88, 0.09),
            ("no_write", 1, 0.88, 0.0),
            ("compact", 256, 0.89, 0.09),
        )
    ]
    facts = {
        "config": {"length": 4096, "seed": 0},
        "device": {"name": "NVIDIA H100 80GB HBM3", "kind": "cuda"},
        "layers": list(range(12)),
        "num_blocks": 256,
        "spread_k": [1, 256],
        "engine_spread_k": {"min": 249, "median": 250, "max": 252},
        "injected_ms": {"ms": 1.2, "ci95_ms": [1.19, 1.21]},
        "profile": profile,
    }
    return builder.record(prefill.record() | facts)


def results() -> list[Result]:
    """The prefill's arms, and the replay at spread_k = 256."""
    made = Builder(9, noise=0.004, rounds=60)
    made.add(*STEP, "engine", 6880.0, spread_k=250)
    for k, level, control in ((1, 6900.0, False), (256, 6905.0, False), (1, 6900.0, True)):
        made.add(*STEP, "paged", level, spread_k=k, control=control)
    for arm, k, level in (("dense", 1, 6810.0), ("no_write", 1, 6750.0), ("compact", 256, 7150.0)):
        made.add(*STEP, arm, level, spread_k=k)
    for arm, level in (("spin_0", 6905.0), ("spin", 7505.0)):
        made.add(*STEP, arm, level)
    made.add(*STEP, "wrapped", 6895.0, spread_k=250)
    made.add(*STEP, "placebo", 6902.0)
    for layer in range(12):
        of: dict[str, Any] = {"spread_k": 256, "layer": layer, "series": f"spread=256 layer={layer}"}
        for arm, level in (("dense", 73.3), ("paged", 81.7), ("compact", 73.6)):
            made.add(*KERNEL, arm, level, **of)
        made.add(*KERNEL, "paged", 81.6, **of | {"spread_k": 1}, one_segment_for=256)
        made.add("cache_write", "reshape_and_cache_flash", "vLLM", "paged", 6.9, **of)
        made.add("gather", "gather_kv", "torch", "fragmented", 16.1, **of)
    of = {"spread_k": 256, "layer": 0, "data": "synthetic", "series": "spread=256 layer=0"}
    for arm, level in (("dense", 72.4), ("random", 70.9), ("random_unscheduled", 76.0)):
        made.add(*KERNEL, arm, level, **of)
    return made.results


def breakdown() -> tuple[Row, Row]:
    """Record and summary."""
    return record(), summary_of(record(), results())
