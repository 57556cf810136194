"""`memory`: two processes of each engine on a GPU; the padded batch ran out of memory in the second."""

from __future__ import annotations

from typing import Any

from harness.experiments.memory.jobs import ENGINES, EngineName, plan
from harness.runs.record import Result, Status
from tests.made_up import builder
from tests.made_up.builder import TOO_MUCH

LENGTHS = (16, 1008, 100)
BLOCK_SIZE, PER_TOKEN, MIB = 16, 36864, 2**20
BASE_MIB = {"start": 0, "model loaded": 240, "warmed up": 260}
POOL = 3000 * BLOCK_SIZE * PER_TOKEN


def record() -> dict[str, Any]:
    """What run.json holds."""
    sources = {
        "allocated": "torch.cuda.memory_allocated, live tensors",
        "reserved": "torch.cuda.memory_reserved, allocated and kept for reuse",
        "NVML": "NVML's figure for this process",
        "RSS": "VmRSS of /proc/self/status, resident pages",
    }
    facts = {
        "experiment": "memory",
        "status": "finished",
        "config": {"lengths": list(LENGTHS), "block_size": 8 * BLOCK_SIZE},  # not what the engine took
        "device": {"name": "NVIDIA H100", "kind": "cuda"},
        "model": {"name": "gpt2", "weights": "seeded random", "dtype": "bfloat16"},
        "kv_bytes_per_token": PER_TOKEN,
        "sources": {"transformers": sources, "vLLM": sources | {"NVML": "NVML's figure for the whole GPU"}},
        "versions": {"torch": "2.11.0", "vllm": "0.26.0", "transformers": "5.0.0"},
        "command": ["python", "-m", "harness", "memory", "--repeats", "2"],
    }
    return builder.record(facts)


def results(processes: int = 2) -> list[Result]:
    """What samples.jsonl holds."""
    return [each for n in range(processes) for engine in ENGINES for each in _process(engine, n)]


def _process(engine: EngineName, number: int) -> list[Result]:
    provider = {"transformers": "transformers 5.0.0", "vLLM": "vLLM 0.26.0"}[engine]
    stages = plan(engine, LENGTHS)
    found = []
    for order, stage in enumerate(stages):
        tokens = sum(stage.lengths)
        used = _kv_cache(engine, stage.lengths) * PER_TOKEN
        held = used if engine == "transformers" else POOL * (order > 0)
        allocated = BASE_MIB.get(stage.name, 260) * MIB + held
        figures = {
            "rss_bytes": (900 + 10 * order + number) * MIB,
            "peak_rss_bytes": (950 + 10 * order) * MIB,
            "allocated_bytes": allocated,
            "peak_allocated_bytes": allocated + 30 * MIB,
            "reserved_bytes": allocated + 40 * MIB,
            "nvml_bytes": allocated + 540 * MIB,
            "cache_used_bytes": used,
            "cache_held_bytes": held,
        }
        of: dict[str, Any] = {"readings": {name: [float(value)] for name, value in figures.items()}}
        if (stage.name, number) == ("all, padded", 1):
            of = {"status": Status.OUT_OF_MEMORY, "reason": TOO_MUCH}
        of |= {"series": f"{engine} process={number}", "series_size": len(stages), "spread_k": 0}
        of["point"] = (("order", order), ("moment", stage.name), ("tokens", tokens))
        of["block_size"] = BLOCK_SIZE if engine == "vLLM" else 0
        found.append(builder.result("memory", "prefill", provider, engine, **of))
    return found


def _kv_cache(engine: EngineName, lengths: tuple[int, ...]) -> int:
    """Tokens that the KV cache of these inputs takes the room of."""
    if engine == "transformers":
        return len(lengths) * max(lengths, default=0)
    return sum(-(-length // BLOCK_SIZE) * BLOCK_SIZE for length in lengths)
