"""`advise` of 512 requests. Graphs and the plugin help, alone and together; blocks of 128 are in the noise, a
step of more tokens is useless, stock is slower without its prefix cache, and time was too short for one more.
"""

from __future__ import annotations

from typing import Any

from harness.runs.record import Result, Status
from tests.made_up import builder
from tests.made_up.builder import Builder

ROUNDS = 12
FILE_US, ALONE_US = 1_000_000.0, 8_000.0  # of stock
REQUESTS, TOKENS = 512, 262_144
AGAIN = 1.004  # of stock: what another engine of it takes
# What a candidate takes of stock's time: the whole file, and one request alone.
TIMES = {
    "graphs": (0.88, 0.70),
    "plugin-step": (0.80, 0.85),
    "prefix-caching": (1.25, 1.00),
    "block-size=128": (0.995, 1.00),
    "graphs+plugin-step": (0.70, 0.50),
}
HERE, FILLED, WARM = 40.0, 90.0, 0.5  # hit rates of stock, in percent, and its time from a filled cache
LOST = {
    "tokens=32768": (Status.UNSUPPORTED, "all 262144 tokens fit into one step of stock"),
    "async": (Status.INTERRUPTED, "not tried: --max-seconds 280 are too few; --resume with more tries it"),
}
CHANGES = {
    "stock": "",
    "stock again": "",
    "graphs": "--compilation-config '{\"cudagraph_capture_sizes\": [1, 512, 16384]}'",
    "plugin-step": "VLLM_PREFILL_ONLY=step --no-enable-prefix-caching --no-enable-chunked-prefill",
    "prefix-caching": "--no-enable-prefix-caching",
    "block-size=128": "--block-size 128",
    "tokens=32768": "--max-num-batched-tokens 32768",
    "async": "--no-async-scheduling",
    "graphs+plugin-step": "VLLM_PREFILL_ONLY=step --no-enable-prefix-caching --no-enable-chunked-prefill "
    "--compilation-config '{\"cudagraph_capture_sizes\": [1, 512, 16384]}'",
}


def record() -> dict[str, Any]:
    """What run.json holds."""
    return builder.record(
        experiment="advise",
        status="finished",
        config={"prompts": "prompts.jsonl", "goal": "throughput"},
        device={"name": "NVIDIA H100", "kind": "cuda"},
        model={"name": "qwen3-0.6b", "weights": "dummy"},
        versions={"torch": "2.14.0", "vllm": "0.33.0"},
        command=["python", "-m", "harness", "advise", "--prompts", "prompts.jsonl"],
        prompt=f"{REQUESTS} requests of prompts.jsonl (token ids), {TOKENS} tokens",
        candidates={name: {"change": change, "serve": serve(change)} for name, change in CHANGES.items()},
    )


def serve(change: str) -> str:
    """The command of a change."""
    variable, _, rest = change.rpartition("VLLM_PREFILL_ONLY=step")
    front = f"VLLM_PREFILL_ONLY=step {variable}" if "VLLM" in change else ""
    return f"{front}vllm serve qwen3-0.6b --max-model-len 513 {rest.strip()}".rstrip()


def results() -> list[Result]:
    """What samples.jsonl holds."""
    made = Builder(7, noise=0.002, rounds=ROUNDS, warmup=2, spread_k=0, block_size=16)
    for name, times in {"stock again": (AGAIN, AGAIN), **TIMES}.items():
        _add(made, name, "throughput", FILE_US, times[0])
        _add(made, name, "latency", ALONE_US, times[1])
    for name, (status, reason) in LOST.items():
        of: dict[str, Any] = {
            "series": f"{name}: throughput",
            "series_size": 1,
            "point": _point(name, "throughput"),
        }
        made.add("end_to_end", "prefill", "vLLM 0.33.0", name, None, status=status, reason=reason, **of)
    return made.results


def _add(made: Builder, name: str, metric: str, level_us: float, factor: float) -> None:
    """Stock and a candidate; of prefix caching also stock with a filled cache."""
    whole = metric == "throughput"
    again = name == "stock again"
    arms = [("stock", 1.0, HERE, False), ("stock" if again else name, factor, HERE, again)]
    if name == "prefix-caching" and whole:
        arms.append(("warm", WARM, FILLED, False))
    factors = made.factors(2 + ROUNDS)  # what disturbs a round as a whole
    for arm, of_stock, rate, control in arms:
        cached = whole and not (arm == name and ("plugin" in name or name == "prefix-caching"))
        own = [one * (1 + (two - 1) / 4) for one, two in zip(factors, made.factors(2 + ROUNDS), strict=True)]
        made.add(
            "end_to_end", "prefill", "vLLM 0.33.0", arm, level_us * of_stock, factors=own,
            series=f"{name}: {metric}", series_size=len(arms), control=control, point=_point(name, metric),
            readings={"hit_rate_pct": [rate] * ROUNDS} if cached else {},
        )  # fmt: skip


def _point(name: str, metric: str) -> tuple[tuple[str, str | int], ...]:
    whole = metric == "throughput"
    counts = (("requests", REQUESTS if whole else 256), ("tokens", TOKENS if whole else TOKENS // 2))
    return (("candidate", name), ("metric", metric), *counts)
