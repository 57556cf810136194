"""Made-up runs of the study with injected effects; `python -m tests.made_up.study DIR` writes a page of them.

That page has all points of configs/study on two devices, to be looked at.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.sweep import plan
from tests.made_up import builder
from tests.made_up.builder import Builder
from tests.made_up.views import summary_of

ROOT = Path(__file__).resolve().parents[2]
H100, H200 = "NVIDIA H100 80GB HBM3", "NVIDIA H200"
HEADS = {"gpt2": (12, 12, 64), "llama-3-8b": (32, 8, 128), "qwen2.5-7b": (28, 4, 128)}
ROUNDS = 40


def write_run(
    directory: Path,
    *,
    device: str = H100,
    model: str = "gpt2",
    length: int = 4096,
    block_size: int = 16,
    version: int = 3,
    spread_k: Sequence[int] = (1, 16, 256),
    gap: str = "shuffled",
    paging_pct: float = 10.0,
    fragmentation_pct: float = 0.0,
    noise: float = 0.002,
    started: str = "2026-01-02T03:04:05+00:00",
    status: str = "finished",
) -> Path:
    """A run's directory with run.json and summary.json; returns it."""
    config = {
        "model": model, "length": length, "block_size": block_size, "flash_attn_version": version,
        "gap": gap, "spread_k": list(spread_k), "output_dir": "/somewhere/else",
    }  # fmt: skip
    record = _record(config) | {
        "device": {"name": device, "kind": "cuda", "driver": "580.1"}, "started": started, "status": status,
    }  # fmt: skip
    if status == "failed":
        record["error"] = "OutOfMemoryError: CUDA out of memory."
    made = Builder(
        length + block_size + version + len(model), noise=noise, rounds=ROUNDS, block_size=block_size
    )
    _add_kernels(made, length, version, spread_k, paging_pct, fragmentation_pct)
    if record["model"]["num_layers"] > 1:
        _add_prefills(made, length, spread_k, paging_pct / 5, fragmentation_pct)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "run.json").write_text(json.dumps(record))
    if status == "finished":
        (directory / "summary.json").write_text(json.dumps(summary_of(builder.record(record), made.results)))
    (directory / "samples.jsonl").write_text("{}")
    return directory


def _record(config: dict[str, Any]) -> dict[str, Any]:
    """What run.json holds of a run with these options, less what is of its device and of how it went."""
    return {
        "schema_version": 1,
        "config": config,
        "versions": {
            "vllm": "0.26.0", "torch": "2.11.0", "flash-attn": "2.8.3", "commit": "0123456789abcdef",
        },
        "model": _model(config["model"]),
        "notices": [],
        "layers": [0],
        "spread_k": config["spread_k"],
        "num_blocks": config["length"] // config["block_size"],
        "block_ids": {"1": ["1-256"]},
    }  # fmt: skip


def _model(name: str) -> dict[str, Any]:
    """Of a name that ends in -1-layer, one layer of that shape; of any other twelve."""
    heads, kv_heads, head_dim = HEADS[name.removesuffix("-1-layer")]
    return {
        "name": name,
        "weights": "seeded random",
        "num_layers": 1 if name.endswith("-1-layer") else 12,
        "num_heads": heads,
        "num_kv_heads": kv_heads,
        "head_dim": head_dim,
        "dtype": "bfloat16",
    }


def _add_kernels(
    made: Builder, length: int, version: int, spread_k: Sequence[int], paging_pct: float, split_pct: float
) -> None:
    """The arms of one layer's replay: a call in us is proportional to the length squared."""
    dense = 70.0 * (length / 4096) ** 2
    paged = dense * (1 + paging_pct / 100)
    engine = "kernel", "flash_attn_varlen_func", f"vLLM FA{version}"
    for k in spread_k:
        of: dict[str, Any] = {"spread_k": k, "layer": 0, "series": f"spread={k} layer=0"}
        one_segment = of | ({"spread_k": 1, "one_segment_for": k} if k > 1 else {})
        made.add(*engine, "dense", dense, **of)
        made.add(*engine, "paged", paged * (1 + split_pct / 100) if k > 1 else paged, **of)
        if k > 1:
            made.add(*engine, "paged", paged, **one_segment)
        made.add(*engine, "paged", paged, control=True, **one_segment)
        made.add(*engine, "compact", dense, **of)
        made.add("kernel", "flash_attn_func", "flash-attn 2.8.3", "fragmented", 2 * dense, **of)
        made.add("gather", "gather_kv", "torch", "fragmented", 16.0 * length / 4096, **of)
        made.add("cache_write", "reshape_and_cache_flash", f"vLLM FA{version}", "paged", 7.0, **of)


def _add_prefills(
    made: Builder, length: int, spread_k: Sequence[int], paging_pct: float, split_pct: float
) -> None:
    """The arms of the whole prefill, the cache write being 2% of it."""
    no_cache, most = 6000.0 * length / 4096, max(spread_k)
    dense = no_cache * 1.02
    paged = dense * (1 + paging_pct / 100)
    arms = [("engine", most, paged), ("paged", 1, paged), ("dense", 1, dense), ("no_write", 1, no_cache)]
    arms += [("paged", k, paged * (1 + split_pct / 100)) for k in spread_k if k > 1]
    arms += [("compact", most, 1.05 * dense)]
    step = "end_to_end", "prefill", "vLLM 0.26.0"
    for arm, k, us in arms:
        made.add(*step, arm, us, spread_k=k)
    made.add(*step, "paged", paged, control=True)


def write_all(folder: Path) -> None:
    """Every point of configs/study, on two devices; paging gets cheaper with the block size."""
    for device in (H100, H200):
        for file in sorted((ROOT / "configs" / "study").glob("*.yaml")):
            for point in plan.read(file).points:
                options = point.options
                spreads = options.get("spread_k") or [2**n for n in range(9)]
                write_run(
                    folder / device / file.stem / point.name,
                    device=device,
                    model=options["model"],
                    length=options["length"],
                    block_size=options["block_size"],
                    version=options["flash_attn_version"],
                    spread_k=spreads,
                    gap=options.get("gap", "shuffled"),
                    paging_pct=160 / options["block_size"] + (5 if options["flash_attn_version"] == 2 else 0),
                )
                if "spread_k" not in options:  # the default
                    file_there = folder / device / file.stem / point.name / "run.json"
                    record = json.loads(file_there.read_text())
                    record["config"]["spread_k"] = None
                    file_there.write_text(json.dumps(record))


if __name__ == "__main__":
    from study import collect, page
    from study.points import read

    target = Path(sys.argv[1])
    write_all(target / "runs")
    print(*collect.collect([target / "runs"], target / "data"), sep="\n")
    print(page.write(*read(target / "data"), ROOT / "configs" / "study", target))
