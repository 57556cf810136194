"""The main job on a CPU: every arm on two layers, some cells that could not be measured."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from harness import layout
from harness.runs.record import Result, Status
from tests.made_up import builder
from tests.made_up.builder import Builder

SPREAD_K = [1, 2, 4, 8]
LAYERS = [0, 5]
ROUNDS = 12
STAND_IN = "SDPA stand-in"
ENGINE = ("cpu_attention_with_kv_cache", "vLLM CPU")
CACHE_WRITE = ("cpu_attn_reshape_and_cache", "vLLM CPU")
STEP = ("end_to_end", "prefill", "vLLM 0.32.0")
NO_ROOM = "no 2.0 GiB left for the KV cache"
NO_GQA = "9 query heads but 3 KV heads: a packed QKV needs as many of either"


def record() -> dict[str, Any]:
    """What run.json holds after a finished run."""
    facts = {
        "experiment": "prefill",
        "status": "finished",
        "started": "2026-01-02T03:04:05Z",
        "finished": "2026-01-02T03:06:00Z",
        "command": ["python", "run_vllm_prefill.py", "--model", "gpt2", "--length", "512"],
        "config": {"length": 512, "seed": 0},
        "model": {
            "name": "gpt2",
            "weights": "seeded random",
            "num_layers": 12,
            "num_heads": 12,
            "num_kv_heads": 12,
            "head_dim": 64,
            "dtype": "bfloat16",
        },
        "layers": LAYERS,
        "num_blocks": 32,
        "device": {"name": "A CPU, 2 cores", "kind": "cpu"},
        "versions": {"python": "3.11.2", "vllm": "0.32.0", "torch": "2.13.0"},
        "notices": ["gpt2's weights are random, made with seed 0: no model hub could be reached"],
        "peak_memory_bytes": {"spread=1": 2**20, "spread=4": 2**20},
        "engine_start_s": 20.5,
        "spread_k": SPREAD_K,
        "block_ids": {str(k): [layout.to_ranges(layout.plan(32, k, range(1, 99), seed=k))] for k in SPREAD_K}
        | {"engine": [layout.to_ranges(range(32, 0, -1))]},
        "first_tokens": [42],
        "engine_spread_k": {"min": 27, "median": 30, "max": 31},
        "profile": [
            _profile(arm, k, attention, write)
            for arm, k, attention, write in (
                ("engine", 30, 2.54, 0.31),
                ("paged", 8, 2.58, 0.31),
                ("dense", 1, 2.4, 0.31),
                ("no_write", 1, 2.4, 0.0),
                ("compact", 8, 2.42, 0.31),
            )
        ],
    }
    return builder.record(facts)


def _profile(arm: str, k: int, attention_ms: float, cache_write_ms: float) -> dict[str, Any]:
    """One profiled prefill on a CPU, which has no idle time but what is in no operator."""
    categories = {
        "attention": attention_ms,
        "cache write": cache_write_ms,
        "matrix products": 14.2,
        "norms, activations, rope": 2.75,
        "sampling": 0.04,
        "copies": 0.2 if arm != "compact" else 1.1,
        "other": 0.0,
    }
    busy = {"profiled_ms": 24.9, "busy_ms": sum(categories.values()), "device": "cpu"}
    top = [{"name": "aten::addmm", "category": "matrix products", "ms": 14.2, "calls": 48}]
    return {"arm": arm, "spread_k": k, **busy, "categories": categories, "top": top}


def _builder(seed: int) -> Builder:
    return Builder(seed, noise=0.002, rounds=ROUNDS)


def results(spread_k: list[int] = SPREAD_K) -> list[Result]:
    """The series of every spread_k and layer, then the end-to-end series."""
    made = _builder(7)
    for k in spread_k:
        for layer in LAYERS:
            for data in ("captured", "synthetic") if layer == LAYERS[0] else ("captured",):
                _add_series(made, k, layer, data)
    _add_sweep(made, spread_k)
    return made.results + _other_prefills()


def _add_series(made: Builder, k: int, layer: int, data: str) -> None:
    """One layer's series; a fragmentation penalty of 0.4% per doubling, a paging tax of 6%."""

    def add(stage: str, kernel: str, provider: str, arm: str, level: float, **more: Any) -> None:
        of: dict[str, Any] = {"spread_k": k, "layer": layer, "data": data}
        of |= {"series": f"spread={k} layer={layer}", "warmup_us": [round(level * x, 3) for x in (3, 1.1)]}
        made.add(stage, kernel, provider, arm, level, **of | more)

    factor = 1 + 0.004 * np.log2(k)
    for kernel, level in (("flash_attn_func", 121.0), ("flash_attn_with_kvcache", 143.0)):
        for arm, slower in (("contiguous", 1.0), ("fragmented", factor + 0.03)):
            add("kernel", kernel, STAND_IN, arm, level * slower)
    missing = {"status": Status.UNSUPPORTED, "reason": NO_GQA}
    for arm in ("contiguous", "fragmented"):
        add("kernel", "flash_attn_qkvpacked_func", STAND_IN, arm, 1, **missing)
    add("gather", "gather_kv", "torch", "fragmented", 21.0 + k)
    add("gather", "gather_qkv", "torch", "fragmented", 1, **missing)
    add("kernel", *ENGINE, "dense", 200.0)
    add("kernel", *ENGINE, "paged", 212.0 * factor)
    if k > 1:
        one_segment: dict[str, Any] = {"spread_k": 1, "one_segment_for": k}
        add("kernel", *ENGINE, "paged", 212.0, **one_segment)
        add("kernel", "flash_attn_with_kvcache", STAND_IN, "fragmented", 147.0, **one_segment)
    add("kernel", *ENGINE, "paged", 212.0, spread_k=1, control=True)
    if k == max(SPREAD_K):
        before, made = made, _builder(layer)  # whatever comes after keeps its samples
        if data == "captured":
            add("kernel", *ENGINE, "compact", 201.0)
            add("cache_write", *CACHE_WRITE, "paged", 25.0)
        else:
            add("kernel", *ENGINE, "random", 197.0)
        before.results += made.results


def _add_sweep(made: Builder, spread_k: list[int]) -> None:
    for k, control in [*((k, False) for k in spread_k), (1, True)]:
        level = 22_000.0 * (1 + 0.002 * np.log2(k))
        if k == 4:
            lost: dict[str, Any] = {"status": Status.OUT_OF_MEMORY, "reason": NO_ROOM}
            made.add(*STEP, "paged", None, spread_k=k, **lost)
        else:
            made.add(*STEP, "paged", level, spread_k=k, warmup_us=[level * 2], control=control)


def _other_prefills() -> list[Result]:
    """The other arms of the end-to-end series."""
    made = _builder(8)
    levels = {
        "engine": (30, 21_950.0),
        "dense": (1, 21_730.0),
        "no_write": (1, 21_400.0),
        "compact": (8, 22_900.0),
        "wrapped": (30, 21_960.0),
    }
    for arm, (k, level) in levels.items():
        made.add(*STEP, arm, level, spread_k=k, warmup_us=[level * 2])
    return made.results


def repaged(results: list[Result]) -> list[Result]:
    """The same with flash_attn_with_kvcache's pages of 256 tokens, of which 512 tokens have two."""
    return [
        replace(
            r,
            cell=replace(r.cell, block_size=256),
            reason=f"re-paged from 16 to 256 tokens per block, {min(r.cell.spread_k, 2)} of 2 segments",
        )
        if (r.cell.kernel, r.cell.arm) == ("flash_attn_with_kvcache", "fragmented")
        else r
        for r in results
    ]


def two_ranks() -> list[Result]:
    """The run twice; everything takes the second rank half as long again."""
    found = []
    for result in results():
        if result.cell.stage == "end_to_end":
            found.append(result)
            continue
        for rank, factor in ((0, 1.0), (1, 1.5)):
            cell = replace(result.cell, rank=rank)
            samples = [factor * sample for sample in result.samples_us]
            series = f"{result.series} rank={rank}"
            found.append(replace(result, cell=cell, samples_us=samples, series=series))
    return found


def other_run() -> tuple[dict[str, Any], list[Result]]:
    """The same run with another vLLM: prefills 5% slower, one function 10% faster, cells lost and won."""
    found = []
    for r in results():
        cell, factor = r.cell, 1.0
        if cell.layer is None:
            factor, cell = 1.05, replace(cell, provider="vLLM 0.33.0")
        if cell.kernel == "flash_attn_with_kvcache":
            factor = 0.9
        r = replace(r, cell=cell, samples_us=[factor * us for us in r.samples_us])
        if cell.kernel == "flash_attn_func" and cell.spread_k in (2, 4):
            r = replace(r, status=Status.ERROR, reason="RuntimeError: no kernel image", samples_us=[])
        if cell.arm == "compact" and cell.layer is None:
            continue
        if cell.layer is None and cell.spread_k == 4:
            r = replace(r, status=Status.OK, reason=None, samples_us=[23_100.0 + n for n in range(ROUNDS)])
        found.append(r)
    return record() | {"versions": record()["versions"] | {"vllm": "0.33.0"}}, found
