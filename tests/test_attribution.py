"""The account's arithmetic on made-up samples with known answers, and what it says where some are missing."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.attribution import account
from harness.runs.record import Cell, Result, Status

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
PLANTED = {"planted_ms": {"ms": 1.0, "ci95_ms": [0.99, 1.01]}}

# Of a prefill of 10 ms paged in one run, in us: what each arm takes more or less than that.
PREFILLS = {
    ("paged", 1): 0.0,
    ("paged", K): 100.0,
    ("dense", 1): -200.0,
    ("no_cache", 1): -230.0,
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
        cell = Cell("end_to_end", "prefill", "vLLM", arm, k, 16, None, "captured")
        samples = [float(x) for x in shared + us + noise(n, number, scale)]
        control = number == len(levels)
        found.append(Result(cell, "end_to_end", Status.OK, samples_us=samples, control=control))
    return found


def kernel(name: str, us: float, layer: int, n: int = ROUNDS, k: int = K, **more: Any) -> Result:
    """One arm of the replay by its name in KERNELS, or "kernel arm" for another kernel's."""
    stage, kernel_name, arm, one_run = "kernel", ENGINE, name, None
    if name.endswith("@1"):
        arm, one_run = name.removesuffix("@1"), k
    if name.startswith("gather"):
        stage, kernel_name, arm = "gather", name, "fragmented"
    elif name.startswith("cache_write"):
        stage, kernel_name, arm = "cache_write", "reshape_and_cache_flash", "paged"
    elif " " in name:
        kernel_name, arm = name.split(" ")
    data, seed = more.pop("data", "captured"), more.pop("seed", len(name))
    block_size, scale = more.pop("block_size", 16), more.pop("scale", 0.05)
    cell = Cell(stage, kernel_name, "vLLM FA3", arm, 1 if one_run else k, block_size, layer, data)
    samples = [float(us + x) for x in noise(n, 1000 * layer + seed, scale)]
    given_samples = {"samples_us": samples} | more
    status = given_samples.pop("status", Status.OK)
    return Result(cell, f"spread={k} layer={layer}", status, one_run_for=one_run, **given_samples)


def replay(
    changes: dict[str, float] | None = None, layers: Iterable[int] = range(LAYERS), **more: Any
) -> list[Result]:
    levels = KERNELS | (changes or {})
    return [kernel(name, us, layer, **more) for layer in layers for name, us in levels.items()]


def made(results: list[Result], record: Row | None = None) -> Row:
    """The account, which must survive JSON unchanged."""
    found = account(CUDA | (record or {}), results)
    assert found is not None
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    return found


def component(found: Row, part: str, name: str) -> Row:
    (row,) = (row for row in found[part] if row["component"] == name)
    return row


def changed(results: list[Result], arm: str, **more: Any) -> list[Result]:
    return [replace(r, **more) if r.cell.arm == arm else r for r in results]


def failed(results: list[Result], arm: str, reason: str = "2 GiB wanted") -> list[Result]:
    return changed(results, arm, status=Status.OUT_OF_MEMORY, reason=reason, samples_us=[])


class TestAccount:
    def test_what_is_measured_predicted_and_left(self) -> None:
        found = made(prefills() + replay(), PLANTED)
        expected = {"fragmentation": 0.1, "paging": 0.2, "cache_write": 0.03, "total": 0.33}
        for name, ms in expected.items():
            row = component(found, "measured", name)
            assert row["ms"] == pytest.approx(ms, abs=0.002)
            assert row["ci95_ms"][0] < ms < row["ci95_ms"][1]
            assert row["pct"] == pytest.approx(100 * row["ms"] / found["engine_ms"])
            assert row["ci95_pct"] == [100 * bound / found["engine_ms"] for bound in row["ci95_ms"]]
            assert (row["n"], row["reason"]) == (ROUNDS, None)
            assert component(found, "predicted", name)["ms"] == pytest.approx(ms, abs=0.001)
            closure = component(found, "closure", name)
            assert closure["closed"] is True
            assert closure["ci95_ms"][0] <= 0 <= closure["ci95_ms"][1]
        assert (found["spread_k"], found["layers"], found["layers_replayed"]) == (K, LAYERS, LAYERS)
        assert found["engine_ms"] == pytest.approx(10, abs=0.03)
        assert found["engine_ci95_ms"][0] < found["engine_ms"] < found["engine_ci95_ms"][1]
        assert 0 < found["noise_floor_pct"] < 0.02
        assert found["closure_pct"] < 1

    def test_each_component_names_what_is_taken_from_what(self) -> None:
        pairs = {
            row["component"]: (row["treatment"], row["baseline"], row["verdict"])
            for row in made(prefills() + replay())["measured"]
        }
        assert pairs == {
            "fragmentation": ("paged@8", "paged@1", "slower"),
            "paging": ("paged@1", "dense", "slower"),
            "cache_write": ("dense", "no_cache", "same"),  # 0.3%, within the tolerance
            "total": ("paged@8", "no_cache", "slower"),
            "allocation": ("wrapped", "paged@1", "same"),
            "hooks": ("wrapped", "engine", "same"),
            "compact": ("compact", "paged@8", "faster"),
        }

    def test_what_compaction_saves_is_negative_and_predicted_with_its_gather(self) -> None:
        found = made(prefills() + replay())
        assert component(found, "measured", "compact")["ms"] == pytest.approx(-0.16, abs=0.002)
        assert component(found, "predicted", "compact")["ms"] == pytest.approx(4 * -0.040, abs=0.001)
        closure = component(found, "closure", "compact")
        assert closure["closed"] is True
        assert abs(closure["pct_of_measured"]) < 2

    def test_a_step_that_hides_a_kernel_s_difference_is_not_closed(self) -> None:
        hidden = {
            ("paged", 1): -180.0,
            ("paged", K): -170.0,
            ("wrapped", 6): -180.0,
            ("engine", 6): -180.0,
            ("spin", 1): 120.0,
        }
        found = made(prefills(hidden) + replay(), PLANTED)
        closure = component(found, "closure", "paging")
        assert closure["ms"] == pytest.approx(-0.18, abs=0.003)
        assert closure["pct_of_measured"] == pytest.approx(-900, rel=0.1)
        assert (closure["closed"], found["closure_pct"]) == (False, abs(closure["pct_of_measured"]))
        host = found["host_bound"]
        assert (host["verdict"], host["planted_ms"], host["reason"]) == ("host-bound", 1.0, None)
        assert host["planted_ci95_ms"] == [0.99, 1.01]
        assert host["pass_through_pct"] == pytest.approx(12, abs=0.3)
        assert (
            "The step is host-bound: 12% [12, 12] of added GPU time reaches the latency." in found["sentence"]
        )

    def test_a_layout_that_is_faster_is_negative_throughout(self) -> None:
        faster = {("paged", 1): -300.0, ("engine", 6): -300.0}
        found = made(prefills(faster) + replay({"paged@1": 125.0}))
        row = component(found, "measured", "paging")
        assert (row["ms"], row["verdict"]) == (pytest.approx(-0.1, abs=0.002), "faster")
        assert component(found, "predicted", "paging")["ms"] == pytest.approx(-0.1, abs=0.001)
        assert component(found, "closure", "paging")["closed"] is True
        assert "paging -1.03% [-1." in found["sentence"]

    def test_no_arm_but_the_sweep_and_the_engine_is_no_account(self) -> None:
        others = ("wrapped", "dense", "no_cache", "compact", "spin", "spin_0")
        assert account(CUDA, prefills(without=others) + replay()) is None
        assert account({}, []) is None
        assert account(CUDA, replay()) is None

    def test_without_the_engine_s_own_blocks_percent_are_of_one_run(self) -> None:
        found = made(prefills(without=["engine"]) + replay())
        assert (found["engine_ms"], found["engine_ci95_ms"]) == (None, None)
        assert component(found, "measured", "paging")["pct"] == pytest.approx(2, abs=0.03)
        hooks = component(found, "measured", "hooks")
        assert (hooks["ms"], hooks["reason"]) == (None, "engine was not measured")
        assert "Percentages are of paged@1" in found["sentence"]

    def test_a_cell_that_failed_is_a_reason_not_a_zero(self) -> None:
        found = made(failed(prefills(), "no_cache") + replay())
        for name in ("cache_write", "total"):
            row = component(found, "measured", name)
            nulls = [row[key] for key in ("ms", "ci95_ms", "pct", "ci95_pct", "verdict")]
            assert (nulls, row["n"]) == ([None] * 5, 0)
            assert row["reason"] == "no_cache: out_of_memory: 2 GiB wanted"
            closure = component(found, "closure", name)
            assert (closure["ms"], closure["closed"], closure["pct_of_measured"]) == (None, None, None)
            assert closure["reason"] == f"measured: {row['reason']}"
        assert component(found, "measured", "paging")["ms"] is not None
        assert found["closure_pct"] is not None
        assert found["sentence"].startswith("What layout explains of the prefill of gpt2 at 4096 tokens")
        assert "cache write not measured (no_cache: out_of_memory: 2 GiB wanted)." in found["sentence"]

    def test_samples_of_a_cell_that_is_not_ok_count_for_nothing(self) -> None:
        hot = changed(prefills(), "dense", status=Status.THROTTLED, reason="the clock fell")
        found = made(hot + replay())
        assert component(found, "measured", "paging")["reason"] == "dense: throttled: the clock fell"
        assert found["closure_pct"] is None

    def test_every_arm_lost_is_an_account_of_reasons(self) -> None:
        results = prefills()
        for arm in {r.cell.arm for r in results}:
            results = failed(results, arm)
        found = made(results)
        assert {row["ms"] for row in found["measured"] + found["predicted"]} == {None}
        assert all(row["reason"] for part in ("measured", "predicted", "closure") for row in found[part])
        assert (found["noise_floor_pct"], found["components"], found["break_even"]) == (None, [], [])
        assert found["sentence"].startswith("What layout explains of the prefill of gpt2 at 4096 tokens on")
        assert " was not measured: fragmentation not measured (paged@1: out_of_memory" in found["sentence"]

    def test_a_remark_on_an_arm_goes_with_its_figures(self) -> None:
        results = changed(prefills(), "dense", reason="dense K and V are packed")
        results = changed(results, "no_cache", reason="dense K and V are packed")
        found = made(results + replay())
        for name in ("paging", "cache_write", "total"):
            assert component(found, "measured", name)["reason"] == "dense K and V are packed"

    def test_one_spread_has_no_fragmentation(self) -> None:
        one = [r for r in prefills(without=["compact"]) if r.cell.spread_k == 1]
        found = made(one + replay({"paged": 200.0}, k=1))
        for part in ("measured", "predicted"):
            row = component(found, part, "fragmentation")
            assert (row["ms"], row["reason"]) == (None, "only spread_k = 1 was measured")
        assert component(found, "measured", "total")["treatment"] == "paged@1"
        assert component(found, "predicted", "total")["ms"] == pytest.approx(0.23, abs=0.001)
        assert component(found, "closure", "total")["closed"] is True

    def test_fewer_than_six_rounds_on_either_side_have_no_interval(self) -> None:
        for results in (prefills(n=5) + replay(), prefills() + replay(n=5)):
            closure = component(made(results, PLANTED), "closure", "paging")
            assert closure["ms"] == pytest.approx(0, abs=0.01)
            assert (closure["ci95_ms"], closure["closed"]) == (None, None)
        found = made(prefills(n=5) + replay(), PLANTED)
        row = component(found, "measured", "paging")
        assert (row["ci95_ms"], row["ci95_pct"], row["verdict"], row["n"]) == (None, None, "unclear", 5)
        assert found["sentence"].startswith("There are too few rounds to say what layout explains of")
        assert "paging 2.0% (no interval: 5 rounds)" in found["sentence"]

    def test_the_same_samples_give_the_same_account(self) -> None:
        results = prefills() + replay()
        assert made(results, PLANTED) == made(results, PLANTED)

    @given(
        fragmentation=st.integers(-3000, 3000),
        paging=st.integers(-3000, 3000),
        writing=st.integers(-3000, 3000),
    )
    @settings(max_examples=20)
    def test_constant_offsets_add_up(self, fragmentation: int, paging: int, writing: int) -> None:
        changes = {
            ("paged", K): float(fragmentation),
            ("dense", 1): float(-paging),
            ("no_cache", 1): float(-paging - writing),
        }
        found = made(prefills(changes, n=7, scale=0.0))
        parts = [
            component(found, "measured", name)["ms"] for name in ("fragmentation", "paging", "cache_write")
        ]
        assert component(found, "measured", "total")["ms"] == pytest.approx(sum(parts), abs=1e-9)
        assert parts == pytest.approx([fragmentation / 1000, paging / 1000, writing / 1000], abs=1e-9)


class TestPredicted:
    def test_sampled_layers_stand_for_all(self) -> None:
        found = made(prefills() + replay(layers=[0, 2]))
        row = component(found, "predicted", "paging")
        assert row["ms"] == pytest.approx(0.2, abs=0.001)
        assert (row["layers"], row["reason"]) == (2, "2 of 4 layers, times 4")
        assert (found["layers"], found["layers_replayed"]) == (4, 2)

    def test_layers_are_averaged_up_to_the_shortest_and_in_pairs(self) -> None:
        short = replay({"dense": 100.0, "paged@1": 300.0}, layers=[0], n=9)
        row = component(made(prefills() + short + replay(layers=[1, 2, 3])), "predicted", "paging")
        assert (row["ms"], row["n"]) == (pytest.approx(0.2 + 3 * 0.05, abs=0.001), 9)

    def test_a_layer_that_failed_is_left_out_and_named(self) -> None:
        lost = [
            replace(r, status=Status.ERROR, reason="a CUDA error", samples_us=[])
            if (r.cell.arm, r.cell.layer) == ("dense", 1)
            else r
            for r in replay()
        ]
        found = made(prefills() + lost)
        row = component(found, "predicted", "paging")
        assert row["reason"] == "3 of 4 layers, times 4; without layer 1: dense: error: a CUDA error"
        assert row["ms"] == pytest.approx(0.2, abs=0.001)
        assert component(found, "predicted", "fragmentation")["layers"] == 4

    def test_what_was_not_replayed_is_said(self) -> None:
        found = made(prefills() + [r for r in replay() if r.cell.stage != "cache_write"])
        row = component(found, "predicted", "cache_write")
        assert (row["ms"], row["n"], row["reason"]) == (None, 0, "cache_write was not replayed")
        assert component(found, "predicted", "total")["reason"] == "cache_write was not replayed"
        assert component(made(prefills()), "predicted", "paging")["reason"] == "paged@1 was not replayed"

    def test_only_the_largest_spread_s_replay_counts(self) -> None:
        found = made(prefills() + replay() + replay({"dense": 10.0}, k=4))
        assert component(found, "predicted", "paging")["ms"] == pytest.approx(0.2, abs=0.001)

    def test_writing_into_many_runs_is_a_part_of_fragmentation(self) -> None:
        found = made(prefills() + replay({"cache_write": 9.5, "cache_write@1": 7.5}))
        sums = {row["component"]: row["ms"] for row in found["predicted"]}
        assert sums["cache_write"] == pytest.approx(0.030, abs=0.001)
        assert sums["fragmentation"] == pytest.approx(0.108, abs=0.001)
        parts = sums["fragmentation"] + sums["paging"] + sums["cache_write"]
        assert sums["total"] == pytest.approx(parts, abs=0.001)

    def test_without_the_number_of_layers_there_is_no_sum(self) -> None:
        found = made(prefills() + replay(), {"model": {}})
        row = component(found, "predicted", "paging")
        assert (row["ms"], row["reason"]) == (None, "the model's number of layers is not known")
        assert found["layers"] is None


def profile(arm: str, k: int = 1, busy_ms: float = 4.0, device: str = "cuda", attention: float = 3.0) -> Row:
    categories = {"attention": attention, "matrix products": busy_ms - attention}
    times = {"profiled_ms": 15.0, "busy_ms": busy_ms, "categories": categories, "top": []}
    return {"arm": arm, "spread_k": k, "device": device, **times}


class TestHostBound:
    @pytest.mark.parametrize(
        ("added_us", "verdict"),
        [(0, "host-bound"), (200, "host-bound"), (500, "partly host-bound"), (1000, "GPU-bound")],
    )
    def test_by_what_a_planted_delay_does(self, added_us: float, verdict: str) -> None:
        found = made(prefills({("spin", 1): added_us}), PLANTED)["host_bound"]
        assert found["verdict"] == verdict
        assert found["pass_through_pct"] == pytest.approx(added_us / 10, abs=0.2)

    def test_an_interval_across_a_limit_is_partly(self) -> None:
        wide = {"planted_ms": {"ms": 1.0, "ci95_ms": [0.5, 1.5]}}
        found = made(prefills({("spin", 1): 240.0}), wide)["host_bound"]
        assert found["verdict"] == "partly host-bound"
        low, high = found["ci95_pct"]
        assert (low, high) == (pytest.approx(16, abs=1), pytest.approx(48, abs=1))  # 24% over 1.5 and 0.5

    @pytest.mark.parametrize(("busy_ms", "verdict"), [(4, "host-bound"), (7, "unknown"), (None, "unknown")])
    def test_a_delay_that_may_have_been_hidden_or_shown_tells_nothing(
        self, busy_ms: float | None, verdict: str
    ) -> None:
        wide = {"planted_ms": {"ms": 1.0, "ci95_ms": [0.4, 2.0]}}
        wide["profile"] = [profile("engine", 6, busy_ms=busy_ms)] if busy_ms else []
        found = made(prefills({("spin", 1): 400.0}), wide)
        host = found["host_bound"]
        assert (host["verdict"], host["pass_through_pct"]) == (verdict, pytest.approx(40, abs=0.2))
        assert "the delay's interval takes in both 25% and 75%" in host["reason"]
        assert "of added GPU time" not in found["sentence"]

    @pytest.mark.parametrize(("busy_ms", "verdict"), [(9.6, "GPU-bound"), (7, "unknown"), (4, "host-bound")])
    def test_without_a_delay_by_the_gpu_s_busy_share(self, busy_ms: float, verdict: str) -> None:
        profiles = [profile("paged", 1, busy_ms=1), profile("engine", 6, busy_ms=busy_ms)]
        found = made(prefills(without=["spin", "spin_0"]), {"profile": profiles})
        host = found["host_bound"]
        assert (host["verdict"], host["pass_through_pct"], host["ci95_pct"]) == (verdict, None, None)
        assert host["gpu_busy_pct"] == pytest.approx(10 * busy_ms, rel=0.01)
        assert "by the GPU's busy share alone" in host["reason"]
        assert "spin was not measured" in host["reason"]
        assert ("by the GPU's busy share alone" in found["sentence"]) == (verdict != "unknown")

    def test_a_gpu_that_always_works_is_what_the_step_waits_for_whatever_a_delay_does(self) -> None:
        busy = PLANTED | {"profile": [profile("engine", 6, busy_ms=9.9)]}
        found = made(prefills({("spin", 1): 590.0}), busy)
        host = found["host_bound"]
        assert (host["verdict"], host["pass_through_pct"]) == ("GPU-bound", pytest.approx(59, abs=0.2))
        assert "clocks higher" in host["reason"]
        assert found["sentence"].endswith("The step is GPU-bound: the GPU works 99% of the time.")

    def test_the_one_run_stands_in_for_the_engine(self) -> None:
        found = made(prefills(), PLANTED | {"profile": [profile("paged", K, 9), profile("paged", 1, 5)]})
        assert found["host_bound"]["gpu_busy_pct"] == pytest.approx(50, rel=0.01)

    def test_neither_is_unknown(self) -> None:
        for results, record in (
            (prefills(without=["spin"]), PLANTED),
            (prefills(), {}),
            (prefills(n=5), PLANTED),
        ):
            found = made(results, record)["host_bound"]
            assert found["verdict"] == "unknown"
            assert found["reason"].endswith("no prefill of engine or paged@1 was profiled")
            assert "The step is" not in made(results, record)["sentence"]

    def test_a_cpu_waits_for_no_gpu(self) -> None:
        found = made(prefills(), CPU | PLANTED | {"profile": [profile("engine", 6, device="cpu")]})
        host = found["host_bound"]
        assert (host["verdict"], host["gpu_busy_pct"]) == ("not applicable", None)
        assert "The step is" not in found["sentence"]


class TestProfiles:
    def test_categories_add_up_to_the_median_prefill(self) -> None:
        found = made(prefills(), {"profile": [profile("engine", 6), profile("dense")]})
        rows = [row for row in found["components"] if row["arm"] == "engine"]
        assert [row["category"] for row in rows] == [
            *("attention", "cache write", "matrix products", "norms, activations, rope"),
            *("sampling", "copies", "other", "GPU idle"),
        ]
        assert sum(row["ms"] for row in rows) == pytest.approx(found["engine_ms"])
        assert sum(row["pct"] for row in rows) == pytest.approx(100)
        (_, dense) = found["profiled"]
        assert dense["unprofiled_ms"] == pytest.approx(9.8, abs=0.03)
        assert dense["overhead_pct"] == pytest.approx(100 * (15 / dense["unprofiled_ms"] - 1))

    def test_a_gpu_is_not_idle_for_less_than_nothing_and_a_cpu_not_at_all(self) -> None:
        busy = made(prefills(), {"profile": [profile("dense", busy_ms=11.0)]})["components"][-1]
        assert (busy["category"], busy["ms"], busy["pct"]) == ("GPU idle", 0, 0)
        rest = made(prefills(), CPU | {"profile": [profile("dense", device="cpu")]})["components"][-1]
        assert (rest["category"], rest["ms"]) == ("outside operators", pytest.approx(5.8, abs=0.03))

    def test_without_the_arm_s_timings_there_are_no_shares(self) -> None:
        found = made(failed(prefills(), "compact"), {"profile": [profile("compact", K)]})
        assert {row["pct"] for row in found["components"]} == {None}
        assert [row["ms"] for row in found["components"]][-1] is None
        (row,) = found["profiled"]
        assert (row["profiled_ms"], row["unprofiled_ms"], row["overhead_pct"]) == (15.0, None, None)


class TestSentence:
    def test_what_can_be_quoted(self) -> None:
        changes = {("paged", K): 0.0, ("dense", 1): -210.0, ("no_cache", 1): -240.0}
        wave = 4 * np.array([5, -3, 1, -5, 3, 0, -1, 4, -4, 2, -2])  # its interval is [-16, 16]
        results = [
            replace(r, samples_us=[float(x) for x in r.samples_us + wave])
            if r.cell.arm == "dense" or r.cell.spread_k == K
            else r
            for r in prefills(changes, n=len(wave), scale=0.0, without=["spin"])
        ]
        assert made(results)["sentence"] == (
            "Layout explains 2.4% [2.2, 2.6] of the prefill of gpt2 at 4096 tokens on NVIDIA H100: "
            "fragmentation 0.0% [-0.2, +0.2], paging 2.1% [1.9, 2.3], cache write 0.3% [0.1, 0.5]."
        )

    def test_narrow_intervals_have_two_decimals(self) -> None:
        text = made(prefills(scale=0.1))["sentence"]
        assert "fragmentation 1.00% [1.00, 1.00], paging 2.00% [2.00, 2.00], cache write 0.30% [" in text

    def test_effects_below_the_noise_floor_are_none(self) -> None:
        small = {("paged", K): 10.0, ("dense", 1): -10.0, ("no_cache", 1): -20.0}
        found = made(prefills(small, scale=200.0))
        floor = found["noise_floor_pct"]
        assert floor > 0.5
        expected = f"No layout effect above the noise floor of {floor:.1f}% was found in the prefill of gpt2"
        assert found["sentence"].startswith(expected)
        assert "On a CPU" not in found["sentence"]

    def test_without_a_noise_floor_zero_is_the_limit(self) -> None:
        alone = [r for r in prefills() if not r.control]
        assert made(alone)["noise_floor_pct"] is None
        assert made(alone)["sentence"].startswith("Layout explains 3.")
        same = dict.fromkeys([("paged", K), ("dense", 1), ("no_cache", 1)], 0.0)
        alone = [r for r in prefills(same) if not r.control]
        start = "No layout effect was found in the prefill of gpt2 at 4096 tokens on NVIDIA H100, whose noise"
        assert made(alone)["sentence"].startswith(start)

    def test_a_cpu_s_limits_are_said(self) -> None:
        found = made(prefills(), CPU)
        floor = f"{found['noise_floor_pct']:.2f}%"
        expected = f"On a CPU, effects below the noise floor of {floor} cannot be seen."
        assert found["sentence"].endswith(expected)
        none = made(prefills({("paged", K): 0.0, ("dense", 1): 0.0, ("no_cache", 1): 0.0}, scale=200.0), CPU)
        assert none["sentence"].startswith("No layout effect above the noise floor of ")
        assert none["sentence"].endswith("On a CPU, effects below that floor cannot be seen.")

    def test_little_is_known_of_the_run(self) -> None:
        found = account({}, prefills())
        assert found is not None
        assert " of the prefill of the model: fragmentation" in found["sentence"]


class TestBreakEven:
    def row(self, found: Row, kernel_name: str = ENGINE) -> Row:
        (row,) = (row for row in found["break_even"] if row["kernel"] == kernel_name)
        return row

    def test_the_engine_s_kernel(self) -> None:
        row = self.row(made(prefills() + replay({"gather_kv": 140.0})))
        assert (row["gather_us"], row["paged_us"]) == (pytest.approx(140, 0.01), pytest.approx(225, 0.01))
        assert row["saving_us"] == pytest.approx(70, abs=0.1)
        assert row["reuses"] == pytest.approx(2, abs=0.01)
        assert row["reuses_ci95"][0] < 2.01
        assert row["reuses_ci95"][1] > 1.99
        assert row["length_for_one_use"] == round(4096 * row["reuses"])
        assert (row["block_size"], row["reason"]) == (16, None)

    @pytest.mark.parametrize(
        ("gather_us", "pays"),
        [(35.0, "on the first use"), (70.0, "unclear"), (350.0 * 1.01, "from 6 uses")],
    )
    def test_when_it_pays(self, gather_us: float, pays: str) -> None:
        assert self.row(made(prefills() + replay({"gather_kv": gather_us})))["pays"] == pays

    @pytest.mark.parametrize("compact_us", [225.0, 240.0])
    def test_a_kernel_that_saves_nothing_never_pays(self, compact_us: float) -> None:
        row = self.row(made(prefills() + replay({"compact": compact_us})))
        assert (row["pays"], row["reason"]) == ("never", "the contiguous kernel saves nothing")
        assert (row["reuses"], row["reuses_ci95"], row["length_for_one_use"]) == (None, None, None)
        assert row["saving_ci95_us"] is not None

    def test_noise_is_no_proof_that_nothing_is_saved(self) -> None:
        row = self.row(made(prefills() + replay({"compact": 224.9}, scale=50.0)))
        assert (row["pays"], row["reuses"]) == ("unclear", None)
        assert "the interval includes 0" in row["reason"]

    def test_too_few_rounds(self) -> None:
        row = self.row(made(prefills() + replay(n=5)))
        assert (row["pays"], row["saving_ci95_us"], row["reuses"]) == ("unclear", None, None)
        assert row["saving_us"] == pytest.approx(70, abs=0.2)
        assert "too few" in row["reason"]

    def test_a_window_has_no_length(self) -> None:
        row = self.row(made(prefills() + replay(), {"layer_windows": {"1": [1023, 0]}}))
        assert row["reuses"] is not None
        assert (row["length_for_one_use"], "sliding window" in row["reason"]) == (None, True)

    def test_the_upstream_functions(self) -> None:
        more = [kernel("flash_attn_func contiguous", 100.0, layer) for layer in range(LAYERS)]
        more += [
            kernel("flash_attn_with_kvcache fragmented", 110.0, layer, block_size=256)
            for layer in range(LAYERS)
        ]
        gqa = {"status": Status.UNSUPPORTED, "reason": "GQA", "samples_us": []}
        for name in ("flash_attn_qkvpacked_func contiguous", "gather_qkv"):
            more += [kernel(name, 0, layer, **gqa) for layer in range(LAYERS)]
        found = made(prefills() + replay() + more)
        assert len(found["break_even"]) == 3
        row = self.row(found, "flash_attn_func")
        assert (row["block_size"], row["reuses"]) == (256, pytest.approx(3, abs=0.05))
        assert row["reason"] == "the gather is from 16-token blocks"
        packed = self.row(found, "flash_attn_qkvpacked_func")
        assert (packed["pays"], packed["saving_us"], packed["gather_us"]) == ("unclear", None, None)
        assert packed["reason"] == "flash_attn_qkvpacked_func contiguous: unsupported: GQA"


class TestInputs:
    def synthetic(self, **more: float) -> list[Result]:
        return [
            kernel(name, us, 0, data="synthetic", seed=n)
            for n, (name, us) in enumerate(({"random": 140.0, "dense": 145.0} | more).items())
        ]

    def rows(self, results: list[Result], record: Row | None = None) -> dict[str, Row]:
        return {row["step"]: row for row in made(prefills() + results, record)["captured_vs_synthetic"]}

    def test_one_thing_changes_from_step_to_step(self) -> None:
        record = {"profile": [profile("dense", attention=0.64)]}
        rows = self.rows(replay() + self.synthetic(random_unscheduled=152.0), record)
        deltas = {step: row["delta_us"] and round(row["delta_us"]) for step, row in rows.items()}
        assert deltas == {
            "random, contiguous, no schedule": None,
            "random, contiguous": -12,
            "random, engine's strides": 5,
            "captured (replay)": 5,
            "engine (profiled)": 10,
        }
        assert list(deltas) == list(rows)
        strides = rows["random, engine's strides"]
        assert (strides["us"], strides["verdict"], strides["n"]) == (
            pytest.approx(145, 0.01),
            "slower",
            ROUNDS,
        )
        assert strides["delta_pct"] == pytest.approx(100 * 5 / 140, rel=0.01)
        assert strides["delta_ci95_us"][0] < strides["delta_us"] < strides["delta_ci95_us"][1]
        engine = rows["engine (profiled)"]
        assert (engine["us"], engine["ci95_us"], engine["verdict"], engine["n"]) == (160, None, None, 1)
        assert engine["delta_ci95_us"] is None

    def test_random_inputs_are_set_against_their_own_layers(self) -> None:
        uneven = replay(layers=[0]) + replay({"dense": 400.0}, layers=[1, 2, 3])
        rows = self.rows(uneven + self.synthetic(), {"profile": [profile("dense", attention=1.35)]})
        assert rows["captured (replay)"]["us"] == pytest.approx(150, abs=0.1)
        assert rows["engine (profiled)"]["delta_us"] == pytest.approx(0, abs=0.1)

    def test_a_step_that_failed_parts_its_neighbours(self) -> None:
        lost = changed(self.synthetic(random_unscheduled=152.0), "random", status=Status.ERROR, samples_us=[])
        rows = self.rows(replay() + lost)
        assert rows["random, contiguous"]["us"] is None
        assert rows["random, contiguous"]["reason"] == "synthetic random: error"
        after = rows["random, engine's strides"]
        assert (after["delta_us"], after["verdict"]) == (None, None)
        assert after["us"] == pytest.approx(145, abs=0.1)
        assert "synthetic random: error" in after["reason"]

    def test_nothing_random_and_nothing_profiled_is_said(self) -> None:
        rows = self.rows(replay())
        assert "random, contiguous, no schedule" not in rows
        assert {row["us"] for row in rows.values()} == {None}
        assert all(row["reason"] for row in rows.values())
        assert made(prefills())["captured_vs_synthetic"] == []
