"""Made-up runs of the study with known effects; `python -m tests.made_up.study DIR` writes a page of them."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from chores import pack
from harness.runs.store import RunDirectory
from harness.sweep import plan
from study import kernels, page, points
from tests.made_up import builder
from tests.made_up.builder import Builder

PLANS = Path(__file__).resolve().parents[2] / "configs" / "study"
KERNEL = ("kernel", "flash_attn_varlen_func", "vLLM FA3")
STEP = ("end_to_end", "prefill", "vLLM 0.33.0")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
SEEDS = range(5)
NOISE = 0.001  # of a sample
APART_PCT = 0.05  # what processes differ by in every part


def record(experiment: str, config: dict[str, Any], **more: Any) -> dict[str, Any]:
    """What run.json holds of a run on a clean commit."""
    usual = {
        "experiment": experiment,
        "status": "finished",
        "config": {"gap": "shuffled", "seed": 0} | config,
        "device": {"name": points.DEVICE, "kind": "cuda"},
        "versions": {"vllm": points.VLLM, "commit": COMMIT},
    }
    return builder.record(usual | more)


def apart(made: Builder, count: int) -> list[float]:
    """What a process has more than others, in percent."""
    return [APART_PCT * (factor - 1) / NOISE for factor in made.factors(count)]


def prefill_run(
    folder: Path,
    *,
    model: str = "gpt2",
    length: int = 4096,
    gap: str = "shuffled",
    seed: int = 0,
    busy: float = 0.97,
    parts_pct: tuple[float, float, float] = (0.0, 2.0, 1.0),
    predicted: float = 1.0,
    **more: Any,
) -> RunDirectory:
    """A main job whose prefill takes 1 ms without a cache.

    Args:
        busy: share of the prefill that the GPU works.
        parts_pct: fragmentation, paging and cache write, in percent of 1 ms.
        predicted: what the replay predicts, over what the engine has.
    """
    made = Builder(7 * seed + length, noise=NOISE, rounds=12)
    split, paging, write = (part + each for part, each in zip(parts_pct, apart(made, 3), strict=True))
    dense, one, most = 1000 + 10 * write, 1000 + 10 * (write + paging), 1000 + 10 * (write + paging + split)
    k = length // 16
    for arm, of, level in (("engine", k, most), ("dense", 1, dense), ("no_write", 1, 1000.0)):
        made.add(*STEP, arm, level, spread_k=of)
    for of, level, control in ((1, one, False), (k, most, False), (1, one, True)):
        made.add(*STEP, "paged", level, spread_k=of, control=control)
    call = 100.0 / predicted
    tax, extra = 10 * paging * predicted, 10 * split * predicted
    for of in (1, k):
        where: dict[str, Any] = {"spread_k": of, "layer": 0, "series": f"spread={of} layer=0"}
        made.add(*KERNEL, "dense", call, **where)
        made.add(*KERNEL, "paged", call + tax + (extra if of > 1 else 0), **where)
        made.add("cache_write", "write", "vLLM", "paged", 10 * write * predicted, **where)
        if of > 1:
            made.add(*KERNEL, "paged", call + tax, **where | {"spread_k": 1}, one_segment_for=of)
    config = {
        "model": model, "length": length, "block_size": 16, "flash_attn_version": 3, "gap": gap, "seed": seed,
        "spread_k": [1, k],
    }  # fmt: skip
    profile = {
        "arm": "engine",
        "spread_k": k,
        "profiled_ms": 1.0,
        "busy_ms": busy,
        "categories": {},
        "top": [],
    }
    facts: dict[str, Any] = {
        "layers": [0],
        "spread_k": [1, k],
        "model": {"name": model, "num_layers": 1},
        "profile": [profile | {"device": "cuda"}],
    }
    return builder.write_run(
        folder, record("prefill", config | more.pop("config", {}), **facts | more), made.results
    )


def kernels_run(
    folder: Path,
    *,
    shape: str = "gpt2",
    length: int = 4096,
    block_size: int = 16,
    gap: str = "shuffled",
    seed: int = 0,
    tax_pct: dict[int, float] | None = None,
    split_pct: float = 0.0,
    **more: Any,
) -> RunDirectory:
    """A run of `kernels`: FA2 takes 200 us without a block table, FA3 100."""
    made = Builder(
        seed + length + block_size, noise=NOISE, rounds=12, data="synthetic", block_size=block_size
    )
    k = length // block_size
    for version, dense in ((2, 200.0), (3, 100.0)):
        (process,) = apart(made, 1)
        one = dense * (1 + (tax_pct or {2: 20.0, 3: 160 / block_size})[version] / 100 + process / 100)
        what = ("kernel", f"vllm-fa{version}", f"vLLM FA{version}")
        where: dict[str, Any] = {"spread_k": k, "series": f"spread={k}"}
        made.add(*what, "contiguous", dense, **where)
        made.add(*what, "fragmented", one * (1 + split_pct / 100), **where)
        for control in (True, False):
            made.add(*what, "fragmented", one, **where | {"spread_k": 1}, one_segment_for=k, control=control)
    config = {"length": length, "block_size": block_size, "gap": gap, "seed": seed} | kernels.HEADS[shape]
    config |= more.pop("config", {})
    return builder.write_run(folder, record("kernels", config, spread_k=[k], **more), made.results)


def write_all(folder: Path, seeds: Iterable[int] = SEEDS) -> None:
    """Every planned point: gpt2's prefills wait for the host, whom the cache write costs 5%."""
    host: dict[str, Any] = {"busy": 0.4, "parts_pct": (0.0, 0.0, 5.0)}
    for file in sorted(PLANS.glob("*.yaml")):
        for point in plan.read(file).points:
            of: dict[str, Any] = {"gap": "shuffled", **point.options}
            where = {name: of[name] for name in ("model", "length", "gap", "seed")}
            more = dict(host) if of["model"] == "gpt2" else {}
            if "cudagraph_mode" in of:
                more["config"] = {"cudagraph_mode": of["cudagraph_mode"]}
            if of["seed"] in seeds:
                prefill_run(folder / file.stem / point.name, **where, **more)
    for seed in seeds:
        for n, call in enumerate(kernels.CALLS):
            kernels_run(folder / "kernels" / f"{n}-{seed}", seed=seed, **call)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    write_all(target / "sweeps")
    print(*(pack.pack(sweep, target / "runs") for sweep in sorted((target / "sweeps").iterdir())), sep="\n")
    print(page.write(points.read(target / "runs", PLANS), target))
