"""Engines that differ in one option: which are asked for, and what their samples say. No engine here."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from harness.analysis import other_engines as variants
from harness.analysis import stats
from harness.analysis.contrasts import series_pairs
from harness.analysis.other_engines import Variant
from harness.experiments.prefill.options import RunConfig
from harness.experiments.prefill.other_engines import kv_cache_bytes, list_variants, with_variant
from harness.models.shape import read_shape
from harness.runs.record import Result, Status, status_of
from tests.made_up.variants import record as variant_record
from tests.made_up.variants import results as variant_results
from tests.made_up.views import summary_of

Row = dict[str, Any]
SETTINGS = {"block_size": 16, "flash_attn_version": 3, "attention_backend": ["FLASH_ATTN"]}


def rows_of(results: list[Result]) -> dict[str, Row]:
    found = summary_of(variant_record(), results)["variants"]
    return {row["variant"]: row for row in found}


def shifted(engine: str, arm: str, us: float) -> list[Result]:
    """The results with one arm's samples so many us longer."""
    return [
        replace(r, samples_us=[s + us for s in r.samples_us]) if r is of(results, engine, arm) else r
        for results in [variant_results()]
        for r in results
    ]


def of(results: list[Result], engine: str, arm: str) -> Result:
    return variants.by_engine(results)[engine][arm]


def test_the_main_job_s_own_values_are_not_run_as_variants() -> None:
    config = RunConfig(
        block_sizes=[16, 64, 16], flash_attn_versions=[2, 3], attention_backends=["flash_attn", "triton_attn"]
    )
    assert [variant.name for variant in list_variants(config, SETTINGS)] == [
        "block_size=64",
        "flash_attn_version=2",
        "attention_backend=TRITON_ATTN",
    ]


def test_a_variant_changes_one_option_and_is_known_by_its_name() -> None:
    config = RunConfig(block_size=16, block_sizes=[64])
    for variant in (Variant("block_size", 64), Variant("attention_backend", "TRITON_ATTN")):
        changed = with_variant(config, variant).model_dump()
        before = config.model_dump()
        assert {name: changed[name] for name in changed if changed[name] != before[name]} == {
            variant.option: variant.value
        }
        assert Variant.from_name(variant.name) == variant
    assert Variant.from_name(variants.BASELINE) is None


def test_an_engine_that_is_not_what_was_asked_for_is_told_from_one_that_differs_in_more() -> None:
    variant = Variant("block_size", 64)
    assert variant.objection(SETTINGS) == "vLLM took block_size 16 in place of 64"
    got = SETTINGS | {"block_size": 64, "num_blocks_in_pool": 7}
    assert variant.objection(got) is None
    assert variant.also_differs(got, SETTINGS) is None
    eager = Variant("cudagraph_mode", "EAGER")
    assert eager.objection({"cudagraph_mode": "NONE", "enforce_eager": True}) is None
    assert eager.objection({"cudagraph_mode": "NONE", "enforce_eager": False}) is not None
    other = got | {"flash_attn_version": 2}
    assert variant.also_differs(other, SETTINGS) == "differs in flash_attn_version 2, not 3 too"
    backend = {"attention_backend": ["TRITON_ATTN"], "flash_attn_version": None}
    switched = Variant("attention_backend", "TRITON_ATTN")
    assert switched.objection(SETTINGS | backend) is None
    assert switched.also_differs(SETTINGS | backend, SETTINGS) is None


@pytest.mark.parametrize("block_size", [16, 128, 256])
def test_the_kv_cache_holds_the_prompt_twice_at_every_block_size(block_size: int) -> None:
    config = {"hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 2, "vocab_size": 10}
    source: Any = read_shape(config, "config")
    for length in (1, 100, 256, 4097):
        size = kv_cache_bytes(RunConfig(length=length), source, "bfloat16", 256)
        bytes_per_block = 2 * 3 * 2 * 64 * 2 * block_size
        needed = 2 * -(-(length + 1) // block_size) + 1  # and vLLM's null block
        assert size // bytes_per_block >= needed


def test_every_engine_is_held_against_the_baseline_and_its_arms_against_each_other() -> None:
    results = variant_results()
    pairs = {
        (results[one].cell.variant, results[one].cell.arm, results[two].cell.variant, results[two].cell.arm)
        for one, two in series_pairs(results)
    }
    assert ("baseline", "engine", "block_size=64", "engine") in pairs
    assert ("baseline", "engine", "baseline", "engine") in pairs, "A/A"
    assert ("block_size=64", "dense", "block_size=64", "paged") in pairs
    assert ("block_size=64", "no_write", "block_size=64", "dense") in pairs
    assert all(a == b for _, a, _, b in pairs if a == "engine")
    across = {(one, two) for one, _, two, _ in pairs if one != two}
    assert {one for one, _ in across} == {"baseline"}


def test_differences_are_paired_and_shares_are_of_their_own_engine() -> None:
    results = variant_results()
    rows = rows_of(results)
    row, first = rows["block_size=64"], of(results, "baseline", "engine")
    one, two = stats.pull_in([first.samples_us, of(results, "block_size=64", "engine").samples_us])
    assert row["delta_ms"] == pytest.approx(np.mean(two - one) / 1000)
    assert row["delta_pct"] == pytest.approx(100 * row["delta_ms"] / rows["baseline"]["engine_ms"])
    assert row["ci95_pct"][0] < row["delta_pct"] < row["ci95_pct"][1]
    paging = row["paging"]
    assert paging["pct"] == pytest.approx(100 * paging["ms"] / row["engine_ms"])
    assert (row["option"], row["value"], row["baseline"]) == ("block_size", 64, "block_size=16")
    assert rows["baseline"]["delta_ms"] is None
    assert rows["baseline"]["verdict"] is None


def test_a_verdict_allows_for_what_two_engines_of_one_configuration_differ_by() -> None:
    rows = rows_of(variant_results())
    assert (rows["block_size=64"]["verdict"], rows["flash_attn_version=2"]["verdict"]) == ("faster", "slower")
    apart = rows_of(shifted("baseline again", "engine", 300.0))
    assert apart["baseline again"]["verdict"] == "slower"
    assert apart["block_size=64"]["ci95_pct"] == rows["block_size=64"]["ci95_pct"]
    assert apart["block_size=64"]["noise_floor_pct"] > 4
    assert apart["block_size=64"]["verdict"] == "unclear", "the baseline differs from itself by as much"
    alone = rows_of([r for r in variant_results() if not r.control])
    assert alone["block_size=64"]["noise_floor_pct"] is None
    assert alone["block_size=64"]["verdict"] == "unclear"


def test_an_engine_that_died_keeps_what_it_gave_but_gets_no_verdict() -> None:
    died: dict[str, Any] = {"status": Status.ERROR, "reason": "the engine's process ended with SIGKILL"}
    results = [
        replace(r, samples_us=r.samples_us[:8], **died) if r.cell.variant == "block_size=64" else r
        for r in variant_results()
    ]
    row = rows_of(results)["block_size=64"]
    assert (row["status"], row["n"], row["verdict"]) == ("error", 8, "unclear")
    assert row["delta_ms"] is not None
    assert row["paging"]["reason"].startswith("dense: error: the engine's process ended")


def test_the_other_figures_of_a_run_do_not_see_the_variants() -> None:
    summary = summary_of(variant_record(), variant_results())
    assert summary["kernels"] == summary["contrasts"] == summary["end_to_end"] == []
    assert summary["attribution"] is None


@pytest.mark.parametrize(
    "text",
    [
        "Free memory on device cuda:0 (3.1/79.2 GiB) on startup is less than desired GPU memory utilization",
        "No available memory for the cache blocks. Try increasing `gpu_memory_utilization`",
        "2.0 GiB KV cache is needed, which is larger than the available KV cache memory (1.0 GiB)",
        "Available memory on node 0 (1.0/24 GiB) on kv cache allocation is less than requested memory for kv",
    ],
)
def test_vllm_s_words_for_too_little_memory_are_a_status(text: str) -> None:
    assert status_of(ValueError(text))[0] is Status.OUT_OF_MEMORY
