"""The breakdown's arithmetic on made-up samples with known answers, and what it says where some are
missing.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.analysis.breakdown import break_down, sentence
from harness.runs.record import Status
from tests.made_up.breakdown import (
    CPU,
    CUDA,
    INJECTED,
    LAYERS,
    ROUNDS,
    K,
    changed,
    component,
    failed,
    made,
    prefills,
    replay,
)
from tests.made_up.builder import run_record


class TestBreakdown:
    def test_what_is_measured_predicted_and_left(self) -> None:
        found = made(prefills() + replay(), INJECTED)
        expected = {"fragmentation": 0.1, "paging": 0.2, "cache_write": 0.03, "total": 0.33}
        for name, ms in expected.items():
            row = component(found, "measured", name)
            assert row["ms"] == pytest.approx(ms, abs=0.002)
            assert row["ci95_ms"][0] < ms < row["ci95_ms"][1]
            assert row["pct"] == pytest.approx(100 * row["ms"] / found["engine_ms"])
            assert row["ci95_pct"] == [100 * bound / found["engine_ms"] for bound in row["ci95_ms"]]
            assert (row["n"], row["reason"]) == (ROUNDS, None)
            assert component(found, "predicted", name)["ms"] == pytest.approx(ms, abs=0.001)
            residual = component(found, "residual", name)
            assert residual["includes_zero"] is True
            assert residual["ci95_ms"][0] <= 0 <= residual["ci95_ms"][1]
        assert (found["spread_k"], found["layers"], found["layers_replayed"]) == (K, LAYERS, LAYERS)
        assert found["engine_ms"] == pytest.approx(10, abs=0.03)
        assert found["engine_ci95_ms"][0] < found["engine_ms"] < found["engine_ci95_ms"][1]
        assert 0 < found["noise_floor_pct"] < 0.02
        assert found["residual_pct"] < 1

    def test_each_component_names_what_is_taken_from_what(self) -> None:
        pairs = {
            row["component"]: (row["treatment"], row["baseline"], row["verdict"])
            for row in made(prefills() + replay())["measured"]
        }
        assert pairs == {
            "fragmentation": ("paged@8", "paged@1", "slower"),
            "paging": ("paged@1", "dense", "slower"),
            "cache_write": ("dense", "no_write", "same"),  # 0.3%, within the tolerance
            "total": ("paged@8", "no_write", "slower"),
            "allocation": ("wrapped", "paged@1", "same"),
            "hooks": ("wrapped", "engine", "same"),
            "compact": ("compact", "paged@8", "faster"),
        }

    def test_the_same_layout_elsewhere_in_the_pool_is_part_of_the_noise_floor(self) -> None:
        placebo = [replace(r, cell=replace(r.cell, arm="placebo")) for r in prefills() if r.control]
        placebo = [replace(r, control=False, samples_us=[us + 40 for us in r.samples_us]) for r in placebo]
        with_it, without = made(prefills() + placebo), made(prefills())
        assert component(with_it, "measured", "placebo")["pct"] == pytest.approx(0.4, abs=0.02)
        assert with_it["noise_floor_pct"] == pytest.approx(0.4, abs=0.03)
        assert without["noise_floor_pct"] < 0.02
        assert all(row["component"] != "placebo" for row in without["measured"])

    def test_what_compaction_saves_is_negative_and_predicted_with_its_gather(self) -> None:
        found = made(prefills() + replay())
        assert component(found, "measured", "compact")["ms"] == pytest.approx(-0.16, abs=0.002)
        assert component(found, "predicted", "compact")["ms"] == pytest.approx(4 * -0.040, abs=0.001)
        residual = component(found, "residual", "compact")
        assert residual["includes_zero"] is True
        assert abs(residual["pct_of_measured"]) < 2

    def test_a_step_that_hides_a_kernel_s_difference_is_not_closed(self) -> None:
        hidden = {
            ("paged", 1): -180.0,
            ("paged", K): -170.0,
            ("wrapped", 6): -180.0,
            ("engine", 6): -180.0,
            ("spin", 1): 120.0,
        }
        found = made(prefills(hidden) + replay(), INJECTED)
        residual = component(found, "residual", "paging")
        assert residual["ms"] == pytest.approx(-0.18, abs=0.003)
        assert residual["pct_of_measured"] == pytest.approx(-900, rel=0.1)
        assert (residual["includes_zero"], found["residual_pct"]) == (False, abs(residual["pct_of_measured"]))
        host = found["host_bound"]
        assert (host["verdict"], host["injected_ms"], host["reason"]) == ("host-bound", 1.0, None)
        assert host["injected_ci95_ms"] == [0.99, 1.01]
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
        assert component(found, "residual", "paging")["includes_zero"] is True
        assert "paging -1.03% [-1." in found["sentence"]

    def test_no_arm_but_the_sweep_and_the_engine_is_no_breakdown(self) -> None:
        others = ("wrapped", "dense", "no_write", "compact", "spin", "spin_0")
        assert break_down(run_record(CUDA), prefills(without=others) + replay()) is None
        assert break_down(run_record(), []) is None
        assert break_down(run_record(CUDA), replay()) is None

    def test_without_the_engine_s_own_blocks_percent_are_of_one_segment(self) -> None:
        found = made(prefills(without=["engine"]) + replay())
        assert (found["engine_ms"], found["engine_ci95_ms"]) == (None, None)
        assert component(found, "measured", "paging")["pct"] == pytest.approx(2, abs=0.03)
        hooks = component(found, "measured", "hooks")
        assert (hooks["ms"], hooks["reason"]) == (None, "engine was not measured")
        assert "Percentages are of paged@1" in found["sentence"]

    def test_without_anything_whole_there_are_no_percentages(self) -> None:
        found = made(failed(prefills(without=["engine"]), "paged") + replay())
        row = component(found, "measured", "cache_write")
        assert row["ms"] == pytest.approx(0.03, abs=0.01)
        assert (row["pct"], row["ci95_pct"]) == (None, None)

    def test_a_cell_that_failed_is_a_reason_not_a_zero(self) -> None:
        found = made(failed(prefills(), "no_write") + replay())
        for name in ("cache_write", "total"):
            row = component(found, "measured", name)
            nulls = [row[key] for key in ("ms", "ci95_ms", "pct", "ci95_pct", "verdict")]
            assert (nulls, row["n"]) == ([None] * 5, 0)
            assert row["reason"] == "no_write: out_of_memory: 2 GiB wanted"
            residual = component(found, "residual", name)
            assert (residual["ms"], residual["includes_zero"], residual["pct_of_measured"]) == (
                None,
                None,
                None,
            )
            assert residual["reason"] == f"measured: {row['reason']}"
        assert component(found, "measured", "paging")["ms"] is not None
        assert found["residual_pct"] is not None
        assert found["sentence"].startswith("What the paged KV cache costs the prefill of gpt2 at ")
        assert " on NVIDIA H100 was measured in part: fragmentation 1." in found["sentence"]
        assert "cache write not measured (no_write: out_of_memory: 2 GiB wanted)." in found["sentence"]

    def test_samples_of_a_cell_that_is_not_ok_count_for_nothing(self) -> None:
        hot = changed(prefills(), "dense", status=Status.THROTTLED, reason="the clock fell")
        found = made(hot + replay())
        assert component(found, "measured", "paging")["reason"] == "dense: throttled: the clock fell"
        assert found["residual_pct"] is None

    def test_every_arm_lost_is_a_breakdown_of_reasons(self) -> None:
        results = prefills()
        for arm in {r.cell.arm for r in results}:
            results = failed(results, arm)
        found = made(results)
        assert {row["ms"] for row in found["measured"] + found["predicted"]} == {None}
        assert all(row["reason"] for part in ("measured", "predicted", "residual") for row in found[part])
        assert (found["noise_floor_pct"], found["components"], found["break_even"]) == (None, [], [])
        start = (
            "What the paged KV cache costs the prefill of gpt2 at 4096 tokens on NVIDIA H100 was not measured"
        )
        assert found["sentence"].startswith(f"{start}: fragmentation not measured (paged@1: out_of_memory")

    def test_a_remark_on_an_arm_goes_with_its_figures(self) -> None:
        results = changed(prefills(), "dense", reason="dense K and V are packed")
        results = changed(results, "no_write", reason="dense K and V are packed")
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
        assert component(found, "residual", "total")["includes_zero"] is True

    def test_fewer_than_six_rounds_on_either_side_have_no_interval(self) -> None:
        for results in (prefills(n=5) + replay(), prefills() + replay(n=5)):
            residual = component(made(results, INJECTED), "residual", "paging")
            assert residual["ms"] == pytest.approx(0, abs=0.01)
            assert (residual["ci95_ms"], residual["includes_zero"]) == (None, None)
        found = made(prefills(n=5) + replay(), INJECTED)
        row = component(found, "measured", "paging")
        assert (row["ci95_ms"], row["ci95_pct"], row["verdict"], row["n"]) == (None, None, "unclear", 5)
        assert found["sentence"].startswith("There are too few rounds to say what the paged KV cache costs")
        assert "paging 2.0% (no interval: 5 rounds)" in found["sentence"]

    def test_without_a_prefill_to_refer_to_rounds_are_not_blamed(self) -> None:
        found = made(failed(failed(prefills(), "engine"), "paged") + replay(), INJECTED)
        assert component(found, "measured", "cache_write")["ci95_pct"] is None
        assert found["sentence"].startswith(
            "What the paged KV cache costs the prefill of gpt2 at 4096 tokens"
        )
        assert "was measured in part" in found["sentence"]

    def test_the_same_samples_give_the_same_breakdown(self) -> None:
        results = prefills() + replay()
        assert made(results, INJECTED) == made(results, INJECTED)

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
            ("no_write", 1): float(-paging - writing),
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

    def test_how_layers_differ_is_in_the_interval_where_some_were_left_out(self) -> None:
        """Layer 0 pays twice what the others do: times 4 it misses the mark."""
        first = replay({"paged@1": 250.0}, layers=[0])
        every = made(prefills() + first + replay(layers=[1, 2, 3]))
        some = made(prefills() + first + replay(layers=[1]))
        one = made(prefills() + first)
        residuals = [component(found, "residual", "paging") for found in (every, some, one)]
        assert [residual["includes_zero"] for residual in residuals] == [False, True, None]
        assert residuals[0]["verdict"] == "less than predicted"
        assert residuals[2]["ci95_ms"] is None
        low, high = component(some, "predicted", "paging")["ci95_ms"]
        # Two of four layers, 100 and 50 us: Student's t for one degree of freedom, without replacement.
        error_ms = 4 * (50 / np.sqrt(2)) * np.sqrt((1 - 2 / 4) / 2) / 1000
        assert (high - low) / 2 == pytest.approx(12.706 * error_ms, rel=0.01)

    def test_attention_is_predicted_at_the_clock_of_the_prefills(self) -> None:
        """Prefills at 1500 MHz, short replays at 2000: as many cycles take a third more time."""
        slow = [replace(r, clock_mhz=[1500, 1510, 1490]) for r in prefills()]
        fast = [replace(r, clock_mhz=[2000, 2000]) for r in replay()]
        found, same = made(slow + fast), made(prefills() + replay())
        assert (found["clock_mhz"], found["replay_clock_mhz"]) == (1500, 2000)
        at = {name: component(found, "predicted", name)["ms"] for name in ("paging", "cache_write")}
        unscaled = {name: component(same, "predicted", name)["ms"] for name in at}
        assert at["paging"] == pytest.approx(unscaled["paging"] * 2000 / 1500)
        assert at["cache_write"] == unscaled["cache_write"], "memory has another clock"
        assert found["break_even"] == same["break_even"]
        assert (same["clock_mhz"], same["replay_clock_mhz"]) == (None, None)

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

    def test_writing_into_many_segments_is_a_part_of_fragmentation(self) -> None:
        found = made(prefills() + replay({"cache_write": 9.5, "cache_write@1": 7.5}))
        sums = {row["component"]: row["ms"] for row in found["predicted"]}
        assert sums["cache_write"] == pytest.approx(0.030, abs=0.001)
        assert sums["fragmentation"] == pytest.approx(0.108, abs=0.001)
        parts = sums["fragmentation"] + sums["paging"] + sums["cache_write"]
        assert sums["total"] == pytest.approx(parts, abs=0.001)

    def test_without_the_number_of_layers_there_is_no_sum(self) -> None:
        found = made(prefills() + replay(), {"model": {"name": "gpt2"}})
        row = component(found, "predicted", "paging")
        assert (row["ms"], row["reason"]) == (None, "the model's number of layers is not known")
        assert found["layers"] is None


class TestSentence:
    def test_what_can_be_quoted(self) -> None:
        changes = {("paged", K): 0.0, ("dense", 1): -210.0, ("no_write", 1): -240.0}
        wave = 4 * np.array([5, -3, 1, -5, 3, 0, -1, 4, -4, 2, -2])  # its mean is 0
        results = [
            replace(r, samples_us=[float(x) for x in r.samples_us + wave])
            if r.cell.arm == "dense" or r.cell.spread_k == K
            else r
            for r in prefills(changes, n=len(wave), scale=0.0, without=["spin"])
        ]
        assert made(results)["sentence"] == (
            "The paged KV cache costs 2.4% [2.3, 2.5] of the prefill of gpt2 at 4096 tokens on NVIDIA H100: "
            "fragmentation 0.0% [-0.1, +0.1], paging 2.1% [2.0, 2.2], cache write 0.3% [0.2, 0.4]."
        )

    def test_narrow_intervals_have_two_decimals(self) -> None:
        text = made(prefills(scale=0.1))["sentence"]
        assert "fragmentation 1.00% [1.00, 1.00], paging 2.00% [2.00, 2.00], cache write 0.30% [" in text

    def test_no_cost_is_a_bound(self) -> None:
        small = {("paged", K): 10.0, ("dense", 1): -10.0, ("no_write", 1): -20.0}
        found = made(prefills(small, scale=200.0))
        total = component(found, "measured", "total")
        assert total["verdict"] == "unclear"
        assert found["sentence"].startswith(
            f"The paged KV cache costs less than {total['ci95_pct'][1]:.2f}% (95%) of the prefill of gpt2 "
            "at 4096 tokens on NVIDIA H100: "
        )
        assert "On a CPU" not in found["sentence"]

    def test_a_cpu_s_limits_are_said(self) -> None:
        found = made(prefills(), CPU)
        floor = f"{found['noise_floor_pct']:.2f}%"
        expected = f"On a CPU, effects smaller than the noise floor of {floor} cannot be detected."
        assert found["sentence"].endswith(expected)

    def test_little_is_known_of_the_run(self) -> None:
        found = break_down(run_record(), prefills())
        assert found is not None
        assert " of the prefill of gpt2 on abacus: fragmentation" in sentence.of(run_record(), found)
