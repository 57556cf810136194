"""A small made-up run: every arm of the main job on two layers, some cells that could not be measured.

`python -m tests.fixtures` writes it to tests/data/run, and the texts expected of it beside it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from harness import layout
from harness.compare import view as compare_report
from harness.compare.ratios import Comparison, Limit, Run, compare
from harness.experiments.prefill.summary import summarise
from harness.experiments.prefill.view import document
from harness.report.document import Document
from harness.runs.record import Cell, Result, Status
from harness.runs.store import RunDirectory
from tests import records

DATA = Path(__file__).resolve().parent / "data"
SPREAD_K = [1, 2, 4, 8]
LAYERS = [0, 5]
ROUNDS = 12
BLOCK_SIZE = 16
STAND_IN = "SDPA stand-in"
ENGINE = ("cpu_attention_with_kv_cache", "vLLM CPU")
CACHE_WRITE = ("cpu_attn_reshape_and_cache", "vLLM CPU")
NO_GQA = "9 query heads but 3 KV heads: a packed QKV needs as many of either"


def record() -> dict[str, Any]:
    """What run.json holds after a finished run."""
    return {
        "schema_version": 2,
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


def results(spread_k: list[int] = SPREAD_K) -> list[Result]:
    """The series of every spread_k and layer, then the end-to-end series; same numbers on every call."""
    rng = np.random.default_rng(7)
    found: list[Result] = []
    for k in spread_k:
        for layer in LAYERS:
            for data in ("captured", "synthetic") if layer == LAYERS[0] else ("captured",):
                found += _series(rng, k, layer, data)
    found += _end_to_end(rng, spread_k)
    return found + _in_engine(np.random.default_rng(8))


def repaged(results: list[Result]) -> list[Result]:
    """The same with flash_attn_with_kvcache's pages of 256 tokens, of which 512 tokens have two."""
    return [
        replace(
            r,
            cell=replace(r.cell, block_size=256),
            reason=f"re-paged from 16 to 256 tokens a block, {min(r.cell.spread_k, 2)} of 2 runs",
        )
        if (r.cell.kernel, r.cell.arm) == ("flash_attn_with_kvcache", "fragmented")
        else r
        for r in results
    ]


def _samples(
    rng: np.random.Generator, level_us: float, noise: float = 0.002, rounds: int = ROUNDS
) -> list[float]:
    return [round(float(x), 3) for x in level_us * (1 + noise * rng.standard_normal(rounds))]


def _series(rng: np.random.Generator, k: int, layer: int, data: str) -> list[Result]:
    """One layer's series; a fragmentation penalty of 0.4% per doubling, a paging tax of 6%."""

    def result(stage: str, kernel: str, provider: str, arm: str, level: float, **more: Any) -> Result:
        cell = Cell(stage, kernel, provider, arm, more.pop("spread_k", k), BLOCK_SIZE, layer, data)
        samples = {
            "samples_us": _samples(rng, level),
            "warmup_us": [round(level * 3, 3), round(level * 1.1, 3)],
        }
        return Result(cell, f"spread={k} layer={layer}", **({"status": Status.OK} | samples | more))

    factor = 1 + 0.004 * np.log2(k)
    found = []
    for kernel, level in (("flash_attn_func", 121.0), ("flash_attn_with_kvcache", 143.0)):
        for arm, slower in (("contiguous", 1.0), ("fragmented", factor + 0.03)):
            found.append(result("kernel", kernel, STAND_IN, arm, level * slower))
    missing = {"status": Status.UNSUPPORTED, "reason": NO_GQA, "samples_us": [], "warmup_us": []}
    for arm in ("contiguous", "fragmented"):
        found.append(result("kernel", "flash_attn_qkvpacked_func", STAND_IN, arm, 1, **missing))
    found.append(result("gather", "gather_kv", "torch", "fragmented", 21.0 + k))
    found.append(result("gather", "gather_qkv", "torch", "fragmented", 1, **missing))
    found.append(result("kernel", *ENGINE, "dense", 200.0))
    found.append(result("kernel", *ENGINE, "paged", 212.0 * factor))
    if k > 1:
        one_run: dict[str, Any] = {"spread_k": 1, "one_run_for": k}
        found.append(result("kernel", *ENGINE, "paged", 212.0, **one_run))
        found.append(result("kernel", "flash_attn_with_kvcache", STAND_IN, "fragmented", 147.0, **one_run))
    found.append(result("kernel", *ENGINE, "paged", 212.0, spread_k=1, control=True))
    if k == max(SPREAD_K):
        rng = np.random.default_rng(layer)  # whatever came before keeps its samples
        if data == "captured":
            found.append(result("kernel", *ENGINE, "compact", 201.0))
            found.append(result("cache_write", *CACHE_WRITE, "paged", 25.0))
        else:
            found.append(result("kernel", *ENGINE, "random", 197.0))
    return found


def _end_to_end(rng: np.random.Generator, spread_k: list[int]) -> list[Result]:
    found = []
    for k, control in [*((k, False) for k in spread_k), (1, True)]:
        cell = Cell("end_to_end", "prefill", "vLLM 0.32.0", "paged", k, BLOCK_SIZE, None, "captured")
        level = 22_000.0 * (1 + 0.002 * np.log2(k))
        if k == 4:
            found.append(Result(cell, "end_to_end", Status.OUT_OF_MEMORY, "no 2.0 GiB left for the KV cache"))
        else:
            samples = _samples(rng, level)
            found.append(Result(cell, "end_to_end", Status.OK, None, samples, [level * 2], control=control))
    return found


def _in_engine(rng: np.random.Generator) -> list[Result]:
    """The other arms of the end-to-end series."""
    found = []
    levels = {
        "engine": (30, 21_950.0),
        "dense": (1, 21_730.0),
        "no_write": (1, 21_400.0),
        "compact": (8, 22_900.0),
        "wrapped": (30, 21_960.0),
    }
    for arm, (k, level) in levels.items():
        cell = Cell("end_to_end", "prefill", "vLLM 0.32.0", arm, k, BLOCK_SIZE, None, "captured")
        found.append(Result(cell, "end_to_end", Status.OK, None, _samples(rng, level), [level * 2]))
    return found


def gpu_record() -> dict[str, Any]:
    """What run.json of a run on a GPU holds, where the prefill is partly host-bound."""
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
    return record() | {
        "config": {"length": 4096, "seed": 0},
        "device": {"name": "NVIDIA H100 80GB HBM3", "kind": "cuda"},
        "layers": list(range(12)),
        "num_blocks": 256,
        "spread_k": [1, 256],
        "engine_spread_k": {"min": 249, "median": 250, "max": 252},
        "planted_ms": {"ms": 1.2, "ci95_ms": [1.19, 1.21]},
        "profile": profile,
    }


def gpu_results() -> list[Result]:
    """What the account of such a run is made of: the prefill's arms, and the replay at spread_k = 256."""
    rng = np.random.default_rng(9)
    found = []

    def add(stage: str, kernel: str, provider: str, arm: str, k: int, level: float, **more: Any) -> None:
        layer, data = more.pop("layer", None), more.pop("data", "captured")
        series = "end_to_end" if layer is None else f"spread=256 layer={layer}"
        cell = Cell(stage, kernel, provider, arm, k, BLOCK_SIZE, layer, data)
        found.append(Result(cell, series, Status.OK, None, _samples(rng, level, 0.004, rounds=60), **more))

    step = "end_to_end", "prefill", "vLLM 0.26.0"
    add(*step, "engine", 250, 6880.0)
    for k, level, control in ((1, 6900.0, False), (256, 6905.0, False), (1, 6900.0, True)):
        add(*step, "paged", k, level, control=control)
    for arm, k, level in (("dense", 1, 6810.0), ("no_write", 1, 6750.0), ("compact", 256, 7150.0)):
        add(*step, arm, k, level)
    for arm, level in (("spin_0", 6905.0), ("spin", 7505.0)):
        add(*step, arm, 1, level)
    add(*step, "wrapped", 250, 6895.0)
    kernel = "kernel", "flash_attn_varlen_func", "vLLM FA3"
    for layer in range(12):
        for arm, level in (("dense", 73.3), ("paged", 81.7), ("compact", 73.6)):
            add(*kernel, arm, 256, level, layer=layer)
        add(*kernel, "paged", 1, 81.6, layer=layer, one_run_for=256)
        add("cache_write", "reshape_and_cache_flash", "vLLM", "paged", 256, 6.9, layer=layer)
        add("gather", "gather_kv", "torch", "fragmented", 256, 16.1, layer=layer)
    for arm, level in (("dense", 72.4), ("random", 70.9), ("random_unscheduled", 76.0)):
        add(*kernel, arm, 256, level, layer=0, data="synthetic")
    return found


def gpu_account() -> tuple[dict[str, Any], dict[str, Any]]:
    """Record and summary of the run on a GPU."""
    return gpu_record(), summarise(gpu_record(), gpu_results())


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


def comparison() -> Comparison:
    """The frozen run and the other."""
    runs = (("A", "runs/old", record(), results()), ("B", "runs/new", *other_run()))
    return compare([Run.of(*run) for run in runs])


def screen_table(document: Document, spread_k: int) -> str:
    """The table that is printed when a spread_k is measured; "" if there is none."""
    tables = [table for part in document.parts for table in part.details]
    titled = [table for table in tables if table.title == f"Comparison Results (spread={spread_k})"]
    return titled[0].screen() if titled else ""


def main() -> None:
    """Write the frozen run and the expected texts."""
    run = RunDirectory.create(DATA / "run", overwrite=True)
    run.write_record(records.made(record()))
    run.append(results())
    tables = document(record(), summarise(record(), run.results()))
    screen = "\n\n".join([screen_table(tables, k) for k in SPREAD_K] + [tables.screen_summary()])
    (DATA / "screen.txt").write_text(screen + "\n", encoding="utf-8")
    (DATA / "tables.md").write_text(tables.markdown(), encoding="utf-8")
    (DATA / "tables.csv").write_text(tables.csv(), encoding="utf-8")
    of_gpu = document(*gpu_account())
    (DATA / "gpu.txt").write_text(of_gpu.screen_summary() + "\n", encoding="utf-8")
    compared = compare_report.screen(comparison(), Limit("slower", 2))
    (DATA / "compare.txt").write_text(compared + "\n", encoding="utf-8")
    (DATA / "gpu.md").write_text(of_gpu.markdown(), encoding="utf-8")


if __name__ == "__main__":
    main()
