"""`transfer` of 64 blocks on one GPU: copies of every block slow down with their number, the gather does not;
vLLM's Triton copy is missing, and there is no second GPU. A prefill's latency is beside it, and two layouts
that traffic left.
"""

from __future__ import annotations

from typing import Any

from harness.runs.record import Result, Status
from tests.made_up import builder
from tests.made_up.builder import Builder

SPREADS = (1, 8, 64)
BLOCKS, LAYERS = 64, 32
YARDSTICK_US = 2500.0  # 128 MiB
MISSING = "vLLM has no vllm.v1.kv_offload.cpu.swap_blocks_triton:swap_blocks_batch"
ONE_GPU = "a transfer between GPUs needs two, this machine has 1"


def record() -> dict[str, Any]:
    """What run.json holds."""
    config = {
        "length": 1024, "num_layers": LAYERS, "num_kv_heads": 8, "head_dim": 128, "dtype": "bfloat16",
        "block_size": 16, "l2": "cold",
    }  # fmt: skip
    return builder.record(
        experiment="transfer",
        status="finished",
        config=config,
        device={"name": "NVIDIA H100", "kind": "cuda"},
        model={"name": "a request's KV cache"},
        versions={"torch": "2.14.0", "vllm": "0.33.0"},
        command=["python", "-m", "harness", "transfer", "--length", "1024", "--spread-k", "1,8,64"],
        num_blocks=BLOCKS,
        kv_bytes_per_token=131072,
        spread_k=list(SPREADS),
    )


def results() -> list[Result]:
    """What samples.jsonl holds."""
    made = Builder(5, noise=0.004, rounds=12, warmup=1, block_size=16, data="synthetic", series_size=7)
    for k in SPREADS:
        made.add(
            "end_to_end",
            "prefill",
            "vLLM 0.33.0",
            "paged",
            30000.0,
            spread_k=k,
            series="prefill",
            series_size=3,
        )
    for direction in ("to_host", "to_peer"):
        for k in SPREADS:
            _series(made, direction, k)
    for order, k in (("stock", 61), ("longest", 6)):
        _series(made, "to_host", k, f"layouts-{order}-16-4096 p50")
    return made.results


def _series(made: Builder, direction: str, k: int, layout: str = "planned") -> None:
    """One direction at one spread_k."""
    where = {"direction": direction, "kv_layout": "interleaved", "layer_tensors": "apart", "layout": layout}
    point = tuple(where.items())
    usual: dict[str, Any] = {
        "spread_k": k,
        "series": f"{direction} interleaved apart spread={k} {layout}",
        "point": point,
    }
    every, merged = LAYERS * BLOCKS, LAYERS * k

    def arm(
        way: str, name: str, level: float, descriptors: int, provider: str = "PyTorch", **more: Any
    ) -> None:
        readings = {"descriptors": [float(descriptors)], "host_us": [descriptors * 2.0] * 12}
        about: dict[str, Any] = usual | {"readings": readings} | more
        if direction == "to_peer":
            about |= {"status": Status.UNSUPPORTED, "reason": ONE_GPU, "readings": {}}
        made.add("transfer", way, provider, name, level, **about)

    gather_us = YARDSTICK_US + 90
    arm("contiguous", "contiguous", YARDSTICK_US, 1)
    arm("gather_copy", "fragmented", gather_us, 1)
    arm("copy_blocks", "fragmented", YARDSTICK_US + 4.0 * every, every)
    arm("copy_merged", "fragmented", YARDSTICK_US + 2.0 * merged - 40, merged)
    missing: dict[str, Any] = {"status": Status.UNSUPPORTED, "reason": MISSING, "readings": {}}
    arm("swap_triton", "fragmented", YARDSTICK_US, every, "vLLM 0.33.0", **missing)
    arm("gather_copy", "fragmented", gather_us, 1, control=True)
    arm("gather_copy", "placebo", gather_us, 1)
