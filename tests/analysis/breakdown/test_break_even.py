"""From how many uses a gather pays, and what captured inputs do to a kernel that random ones do not."""

from __future__ import annotations

from typing import Any

import pytest

from harness.runs.record import Result, Status
from tests.made_up.breakdown import (
    ENGINE,
    LAYERS,
    ROUNDS,
    Row,
    changed,
    kernel,
    made,
    prefills,
    profile,
    replay,
)


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
        ("gather_us", "pays"), [(35.0, "on the first use"), (70.0, "unclear"), (350.0 * 1.01, "from 6 uses")]
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
        gqa: dict[str, Any] = {"status": Status.UNSUPPORTED, "reason": "GQA", "samples_us": []}
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

    def test_a_prefill_that_was_not_profiled_is_said(self) -> None:
        engine = self.rows(replay() + self.synthetic())["engine (profiled)"]
        assert engine["us"] is None
        assert engine["reason"]

    def test_nothing_random_is_no_comparison(self) -> None:
        assert self.rows(replay(), {"profile": [profile("dense", attention=0.64)]}) == {}
        assert self.rows([]) == {}
