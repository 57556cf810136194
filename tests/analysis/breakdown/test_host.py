"""Whether a step waits for the host or the GPU, and what profiles tell of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from harness.analysis.breakdown.host import judge
from tests.made_up.breakdown import CPU, INJECTED, K, failed, made, prefills, profile

BUSY = INJECTED | {"profile": [profile("engine", 6, busy_ms=9.9)]}


class TestHostBound:
    @pytest.mark.parametrize(
        ("added_us", "verdict"),
        [(0, "host-bound"), (200, "host-bound"), (500, "partly host-bound"), (1000, "GPU-bound")],
    )
    def test_by_what_an_injected_delay_does(self, added_us: float, verdict: str) -> None:
        found = made(prefills({("spin", 1): added_us}), INJECTED)["host_bound"]
        assert found["verdict"] == verdict
        assert found["pass_through_pct"] == pytest.approx(added_us / 10, abs=0.2)

    @pytest.mark.parametrize(
        ("added_us", "injected", "busy_ms", "verdict"),
        [
            (240.0, [0.5, 1.5], 4, "host-bound"),  # 16 to 48% of a delay: hidden, or in part
            (240.0, [0.5, 1.5], 7, "unknown"),
            (240.0, [0.5, 1.5], None, "unknown"),
            (600.0, [0.7, 1.3], 4, "unknown"),  # 46 to 86%: not hidden
            (400.0, [0.4, 2.0], 4, "host-bound"),  # 20 to 100%: anything
            (400.0, [0.4, 2.0], 7, "unknown"),
            (400.0, [0.4, 2.0], None, "unknown"),
        ],
    )
    def test_an_interval_across_a_limit_tells_nothing(
        self, added_us: float, injected: list[float], busy_ms: float | None, verdict: str
    ) -> None:
        wide: dict[str, Any] = {"injected_ms": {"ms": 1.0, "ci95_ms": injected}}
        wide["profile"] = [profile("engine", 6, busy_ms=busy_ms)] if busy_ms else []
        found = made(prefills({("spin", 1): added_us}), wide)
        host = found["host_bound"]
        assert (host["verdict"], host["pass_through_pct"]) == (verdict, pytest.approx(added_us / 10, abs=0.2))
        low, high = host["ci95_pct"]
        assert (low, high) == (
            pytest.approx(added_us / 10 / injected[1], abs=1),
            pytest.approx(added_us / 10 / injected[0], abs=1),
        )
        crossed = " and ".join(f"{limit}%" for limit in (25, 75) if low < limit < high)
        assert f"the delay's interval contains {crossed}" in host["reason"]
        assert ("by the GPU's busy share alone" in host["reason"]) == (verdict == "host-bound")
        assert "of added GPU time" not in found["sentence"]

    @pytest.mark.parametrize(("busy_ms", "verdict"), [(9.6, "GPU-bound"), (7, "unknown"), (4, "host-bound")])
    def test_without_a_delay_by_the_gpu_s_busy_share(self, busy_ms: float, verdict: str) -> None:
        profiles = [profile("paged", 1, busy_ms=1), profile("engine", 6, busy_ms=busy_ms)]
        found = made(prefills(without=["spin", "spin_0"]), {"profile": profiles})
        host = found["host_bound"]
        assert (host["verdict"], host["pass_through_pct"], host["ci95_pct"]) == (verdict, None, None)
        assert host["gpu_busy_pct"] == pytest.approx(10 * busy_ms, rel=0.01)
        assert ("by the GPU's busy share alone" in host["reason"]) == (verdict != "unknown")
        assert "spin was not measured" in host["reason"]
        assert ("by the GPU's busy share alone" in found["sentence"]) == (verdict != "unknown")

    @pytest.mark.parametrize("interval", [(10, 25), (25, 60), (30, 75), (75, 90)])
    def test_an_interval_that_touches_a_limit_does_not_tell(self, interval: tuple[float, float]) -> None:
        assert judge(70, interval) == "unknown"

    def test_a_delay_at_an_unknown_clock_hides_nothing_from_a_gpu_that_always_works(self) -> None:
        found = made(prefills({("spin", 1): 590.0}), BUSY)
        host = found["host_bound"]
        assert (host["verdict"], host["pass_through_pct"]) == ("GPU-bound", pytest.approx(59, abs=0.2))
        assert "clocks higher" in host["reason"]
        assert found["sentence"].endswith("The step is GPU-bound: the GPU works 99% of the time.")

    @pytest.mark.parametrize(
        ("spin_mhz", "added_us", "passed_pct", "verdict"),
        [
            (1500, 590.0, 59, "partly host-bound"),  # however busy the GPU is
            (1564, 590.0, 100, "GPU-bound"),  # a higher clock after the pause won the rest back
        ],
    )
    def test_prefills_with_and_without_the_delay_are_compared_at_one_clock(
        self, spin_mhz: int, added_us: float, passed_pct: float, verdict: str
    ) -> None:
        results = [
            replace(r, clock_mhz=[spin_mhz if r.cell.arm == "spin" else 1500] * len(r.samples_us))
            for r in prefills({("spin", 1): added_us})
        ]
        host = made(results, BUSY)["host_bound"]
        assert (host["verdict"], host["reason"]) == (verdict, None)
        assert host["pass_through_pct"] == pytest.approx(passed_pct, abs=1)

    @pytest.mark.parametrize(
        ("profiled_ms", "busy_pct", "verdict"),
        [(9.4, 93.6, "GPU-bound"), (10.0, 88.0, "unknown"), (15.0, 88.0, "unknown")],
    )
    def test_the_busy_share_is_of_the_shorter_of_profiled_prefill_and_median(
        self, profiled_ms: float, busy_pct: float, verdict: str
    ) -> None:
        """At a median of 10 ms: a profiled prefill at higher clocks, one as long, one slowed on the host."""
        profiles = [profile("engine", 6, busy_ms=8.8, profiled_ms=profiled_ms)]
        found = made(prefills(scale=0.0, without=["spin"]), {"profile": profiles})
        host = found["host_bound"]
        assert (host["verdict"], host["gpu_busy_pct"]) == (verdict, pytest.approx(busy_pct, abs=0.3))

    def test_the_one_segment_stands_in_for_the_engine(self) -> None:
        found = made(prefills(), INJECTED | {"profile": [profile("paged", K, 9), profile("paged", 1, 5)]})
        assert found["host_bound"]["gpu_busy_pct"] == pytest.approx(50, rel=0.01)

    def test_neither_is_unknown(self) -> None:
        for results, record in (
            (prefills(without=["spin"]), INJECTED),
            (prefills(), {}),
            (prefills(n=5), INJECTED),
        ):
            found = made(results, record)["host_bound"]
            assert found["verdict"] == "unknown"
            assert found["reason"].endswith("no prefill of engine or paged@1 was profiled")
            assert "The step is" not in made(results, record)["sentence"]

    def test_a_cpu_waits_for_no_gpu(self) -> None:
        found = made(prefills(), CPU | INJECTED | {"profile": [profile("engine", 6, device="cpu")]})
        host = found["host_bound"]
        assert (host["verdict"], host["gpu_busy_pct"]) == ("not applicable", None)
        assert "The step is" not in found["sentence"]


class TestProfiles:
    def test_categories_add_up_to_the_median_prefill_if_profiling_slows_it(self) -> None:
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

    def test_what_a_profiled_prefill_is_faster_by_is_not_idle(self) -> None:
        profiles = [
            profile("engine", 6, busy_ms=9.0, profiled_ms=9.4),
            profile("dense", busy_ms=4.0, profiled_ms=15.0),
        ]
        found = made(prefills(scale=0.0), {"profile": profiles})
        parts = {(row["arm"], row["category"]): (row["ms"], row["pct"]) for row in found["components"]}
        assert parts["engine", "GPU idle"] == pytest.approx((0.4, 100 * 0.4 / 9.4))
        assert parts["engine", "attention"] == pytest.approx((3.0, 100 * 3 / 9.4))
        assert parts["dense", "GPU idle"] == pytest.approx((5.8, 100 * 5.8 / 9.8), abs=0.1)

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
