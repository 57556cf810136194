"""Samples of a main job with known answers, and the breakdown made of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from harness.analysis.breakdown import break_down, sentence
from harness.runs.record import Result, Status
from tests.made_up.builder import result, run_record

ENGINE = "flash_attn_varlen_func"
K = 8
LAYERS = 4
ROUNDS = 40
Row = dict[str, Any]

CUDA = {
    "status": "finished",
    "model": {"name": "gpt2", "num_layers": LAYERS},
    "config": {"length": 4096},
    "device": {"name": "NVIDIA H100", "kind": "cuda"},
}
CPU = CUDA | {"device": {"name": "A CPU, 2 cores", "kind": "cpu"}}
INJECTED = {"injected_ms": {"ms": 1.0, "ci95_ms": [0.99, 1.01]}}

# Of a prefill of 10 ms paged in one segment, in us: what each arm takes more or less than that.
PREFILLS = {
    ("paged", 1): 0.0,
    ("paged", K): 100.0,
    ("dense", 1): -200.0,
    ("no_write", 1): -230.0,
    ("engine", 6): 0.0,
    ("compact", K): -60.0,
    ("spin_0", 1): 0.0,
    ("spin", 1): 1000.0,
    ("wrapped", 6): 0.0,
}
# Of a layer, in us: sums over 4 layers are what PREFILLS has in the step.
KERNELS = {
    "dense": 150.0,
    "paged": 225.0,
    "paged@1": 200.0,
    "compact": 155.0,
    "cache_write": 7.5,
    "gather_kv": 30.0,
}


def noise(size: int, seed: int, scale: float = 1.0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(0, scale, size)


def prefills(
    changes: dict[tuple[str, int], float] | None = None,
    n: int = ROUNDS,
    scale: float = 1.0,
    without: Iterable[str] = (),
) -> list[Result]:
    """The end-to-end series, A/A included; a round's own disturbance is the same in all of its arms."""
    levels = {arm: us for arm, us in (PREFILLS | (changes or {})).items() if arm[0] not in set(without)}
    shared = 10_000 + noise(n, 99, 50)
    found = []
    for number, ((arm, k), us) in enumerate([*levels.items(), (("paged", 1), 0.0)]):
        of: Row = {"samples_us": [float(x) for x in shared + us + noise(n, number, scale)], "spread_k": k}
        of["control"] = number == len(levels)
        found.append(result("end_to_end", "prefill", "vLLM", arm, **of))
    return found


def kernel(name: str, us: float, layer: int, n: int = ROUNDS, k: int = K, **more: Any) -> Result:
    """One arm of the replay by its name in KERNELS, or "kernel arm" for another kernel's."""
    stage, kernel_name, arm, one_segment = "kernel", ENGINE, name, None
    if name.endswith("@1"):
        arm, one_segment = name.removesuffix("@1"), k
    if name.startswith("gather"):
        stage, kernel_name, arm = "gather", name, "fragmented"
    elif name.startswith("cache_write"):
        stage, kernel_name, arm = "cache_write", "reshape_and_cache_flash", "paged"
    elif " " in name:
        kernel_name, arm = name.split(" ")
    drawn = noise(n, 1000 * layer + more.pop("seed", len(name)), more.pop("scale", 0.05))
    of: Row = {"spread_k": 1 if one_segment else k, "layer": layer, "series": f"spread={k} layer={layer}"}
    of |= {"samples_us": [float(us + x) for x in drawn], "one_segment_for": one_segment}
    return result(stage, kernel_name, "vLLM FA3", arm, **of | more)


def replay(
    changes: dict[str, float] | None = None, layers: Iterable[int] = range(LAYERS), **more: Any
) -> list[Result]:
    levels = KERNELS | (changes or {})
    return [kernel(name, us, layer, **more) for layer in layers for name, us in levels.items()]


def made(results: list[Result], record: Row | None = None) -> Row:
    """The breakdown, which must survive JSON unchanged."""
    of_run = run_record(CUDA | (record or {}))
    found = break_down(of_run, results)
    assert found is not None
    found.sentence = sentence.of(of_run, found)
    plain = found.to_json()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    return plain


def component(found: Row, part: str, name: str) -> Row:
    (row,) = (row for row in found[part] if row["component"] == name)
    return row


def changed(results: list[Result], arm: str, **more: Any) -> list[Result]:
    return [replace(r, **more) if r.cell.arm == arm else r for r in results]


def failed(results: list[Result], arm: str, reason: str = "2 GiB wanted") -> list[Result]:
    return changed(results, arm, status=Status.OUT_OF_MEMORY, reason=reason, samples_us=[])


def profile(
    arm: str,
    k: int = 1,
    busy_ms: float = 4.0,
    device: str = "cuda",
    attention: float = 3.0,
    profiled_ms: float = 15.0,
) -> Row:
    attention = min(attention, busy_ms)
    categories = {"attention": attention, "matrix products": busy_ms - attention}
    times = {"profiled_ms": profiled_ms, "busy_ms": busy_ms, "categories": categories, "top": []}
    return {"arm": arm, "spread_k": k, "device": device, **times}
