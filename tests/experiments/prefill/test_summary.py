"""summary.json: every cell has its row, every contrast its pairs, and null stands for what is missing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from harness.runs.record import Result, Status
from tests.made_up import builder
from tests.made_up.views import Row, summary_of

ENGINE = "flash_attn_varlen_func"


def result(arm: str, samples: list[float], **more: Any) -> Result:
    """An engine-kernel result in the series of its spread_k (or of one_segment_for) and layer."""
    of: Row = {"spread_k": 1, "layer": 0, "samples_us": samples} | more
    of.setdefault("series", f"spread={of.get('one_segment_for') or of['spread_k']} layer={of['layer']}")
    stage, kernel = of.pop("stage", "kernel"), of.pop("kernel", ENGINE)
    return builder.result(stage, kernel, "vLLM FA3", arm, **of)


def of_rank(rank: int, found: Result) -> Result:
    return replace(found, cell=replace(found.cell, rank=rank), series=f"{found.series} rank={rank}")


def rising(start: float, step: float = 1.0, n: int = 10) -> list[float]:
    return [start + step * i for i in range(n)]


def summary(*results: Result, **record: Any) -> Row:
    record["model"] = {"name": "gpt2"} | record.get("model", {})
    return summary_of(builder.record(record, status="finished"), results)


def only(rows: list[Row], **wanted: Any) -> Row:
    matching = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    assert len(matching) == 1, (wanted, matching)
    return matching[0]


def test_the_mean_over_layers_is_formed_round_by_round() -> None:
    one, two = [10.0, 30.0, 20.0, 50.0], [1.0, 1.0, 9.0]
    rows = summary(result("paged", one, warmup_us=[8.0, 4.0]), result("paged", two, layer=3))["kernels"]
    mean = only(rows, layer="mean")
    assert (mean["median_us"], mean["n"], mean["reason"]) == (np.median([5.5, 15.5, 14.5]), 3, None)
    assert mean["warmup_us"] == 6.0
    assert only(rows, layer=0)["mean_us"] == 27.5
    assert only(rows, layer=3)["n"] == 3


def test_ranks_are_kept_apart_and_the_slowest_is_named() -> None:
    arms = [
        of_rank(rank, result(arm, rising(start + 5 * rank), layer=layer))
        for rank in (0, 1)
        for layer in (0, 1)
        for arm, start in (("dense", 100.0), ("paged", 110.0))
    ]
    found = summary(*arms)
    assert found["slowest_rank"] == 1
    for rank in (0, 1):
        mean = only(found["kernels"], rank=rank, layer="mean", arm="paged")
        assert (mean["median_us"], mean["layers"]) == (114.5 + 5 * rank, 2)
        contrast = only(found["contrasts"], rank=rank, layer="mean")
        assert (contrast["treatment"], contrast["delta_us"]) == ("paged@1", 10.0)
    assert summary(result("paged", rising(10)))["slowest_rank"] is None


def test_a_mean_says_which_layers_it_lacks() -> None:
    lost = result("paged", [], layer=1, status=Status.OUT_OF_MEMORY, reason="2 GiB wanted")
    rows = summary(result("paged", rising(10)), lost, result("paged", rising(20), layer=2))["kernels"]
    mean = only(rows, layer="mean")
    assert (mean["status"], mean["median_us"]) == ("ok", 19.5)
    assert mean["reason"] == "layer 0, 2 only (layer 1 out_of_memory); 2 GiB wanted"
    assert (mean["layers"], only(rows, layer="sum")["layers"]) == (2, 2)
    row = only(rows, layer=1)
    assert row["layers"] is None
    assert (row["status"], row["median_us"], row["ci95_us"], row["n"]) == ("out_of_memory", None, None, 0)


def test_a_mean_says_how_many_of_the_run_s_layers_are_not_measured_yet() -> None:
    found = summary(
        result("paged", rising(10)), result("paged", rising(9), data="synthetic"), layers=[0, 1, 2]
    )
    reasons = {(row["layer"], row["data"]): row["reason"] for row in found["kernels"]}
    assert reasons.pop(("mean", "captured")) == "2 of 3 layers not measured"
    assert reasons.pop(("sum", "captured")) == "2 of 3 layers not measured"
    assert set(reasons.values()) == {None}


def test_if_no_layer_could_be_measured_the_mean_carries_the_reason() -> None:
    lost = [result("dense", [], layer=i, status=Status.UNSUPPORTED, reason="GQA") for i in (0, 1)]
    found = summary(*lost, result("paged", rising(10)))
    mean = only(found["kernels"], layer="mean", arm="dense")
    assert (mean["status"], mean["reason"], mean["median_us"]) == ("unsupported", "GQA", None)
    assert found["contrasts"] == []


def test_throttled_samples_are_kept_but_give_no_verdict() -> None:
    hot = result("paged", rising(20), status=Status.THROTTLED, reason="SM clock fell")
    found = summary(result("dense", rising(10)), hot)
    row = only(found["kernels"], arm="paged", layer="mean")
    assert (row["status"], row["median_us"]) == ("throttled", 24.5)
    contrast = only(found["contrasts"], baseline="dense", treatment="paged@1", layer="mean")
    assert (contrast["delta_us"], contrast["verdict"]) == (10, "unclear")


def test_the_engine_kernel_s_contrasts() -> None:
    found = summary(
        result("dense", rising(100)),
        result("paged", rising(110)),
        result("paged", rising(111), control=True, series="spread=1 layer=0"),
        result("dense", rising(100), spread_k=4),
        result("paged", rising(130), spread_k=4),
        result("paged", rising(112), one_segment_for=4),
        result("paged", rising(112), control=True, series="spread=4 layer=0"),
    )
    rows = [row for row in found["contrasts"] if row["layer"] == "mean"]
    deltas = {(row["baseline"], row["treatment"], row["spread_k"]): row["delta_us"] for row in rows}
    assert deltas == {
        ("dense", "paged@1", 1): 10,
        ("paged@1", "paged@1 again", 1): 1,
        ("dense", "paged", 4): 30,
        ("paged@1", "paged", 4): 18,
        ("paged@1", "paged@1 again", 4): 0,
    }
    tax = only(rows, baseline="dense", treatment="paged@1")
    assert tax["delta_pct"] == pytest.approx(10 / 104.5 * 100)
    assert (tax["ci95_us"], tax["verdict"], tax["n"]) == ([10, 10], "slower", 10)
    assert tax["noise_floor_pct"] == pytest.approx(1 / 114.5 * 100)
    assert only(rows, baseline="paged@1", treatment="paged")["noise_floor_pct"] == 0
    arms = {(row["arm"], row["spread_k"]) for row in found["kernels"]}
    assert arms == {("dense", 1), ("paged", 1), ("dense", 4), ("paged", 4)}


def test_a_noise_floor_is_of_its_own_kernel_and_data() -> None:
    function = {"kernel": "flash_attn_func", "spread_k": 1}
    found = summary(
        *(result("paged", rising(110), data=data) for data in ("captured", "synthetic")),
        result("dense", rising(100)),
        result("paged", rising(111), control=True),
        *(result(arm, rising(50), **function) for arm in ("contiguous", "fragmented")),
    )
    floors = {
        (row["kernel"], row["baseline"]): row["noise_floor_pct"]
        for row in found["contrasts"]
        if row["layer"] == "mean"
    }
    assert floors == {
        (ENGINE, "paged@1"): pytest.approx(1 / 114.5 * 100),
        (ENGINE, "dense"): pytest.approx(1 / 114.5 * 100),
        (ENGINE, "synthetic paged"): None,
        ("flash_attn_func", "contiguous"): None,
    }


def test_a_contrast_s_mean_is_over_the_layers_both_arms_have() -> None:
    found = summary(
        result("dense", rising(10)),
        result("dense", rising(1000), layer=1),
        result("paged", rising(12)),
        result("paged", [], layer=1, status=Status.ERROR, reason="a CUDA error"),
    )
    row = only(found["contrasts"], baseline="dense", treatment="paged@1", layer="mean")
    assert (row["delta_us"], row["baseline_us"], row["layers"]) == (2, 14.5, 1)


def test_a_contrast_s_sum_is_its_mean_times_the_layers() -> None:
    levels = enumerate((10, 1000))
    arms = [(rising(us), rising(us + 3), layer) for layer, us in levels]
    results = [result("dense", one, layer=layer) for one, _, layer in arms]
    rows = summary(*results, *(result("paged", two, layer=layer) for _, two, layer in arms))["contrasts"]
    assert [(row["layer"], row["layers"]) for row in rows] == [(0, None), (1, None), ("mean", 2), ("sum", 2)]
    mean, total = rows[2:]
    assert (mean["delta_us"], total["delta_us"], total["ci95_us"]) == (3, 6, [6, 6])
    assert total["baseline_us"] == 2 * mean["baseline_us"]
    for name in ("delta_pct", "ci95_pct", "verdict", "n"):
        assert total[name] == mean[name]


def test_functions_without_a_block_table_have_their_gather_beside_them() -> None:
    kernel = "flash_attn_func"
    found = summary(
        result("contiguous", rising(10), kernel=kernel, spread_k=2),
        result("fragmented", rising(13), kernel=kernel, spread_k=2),
        result("fragmented", rising(5), kernel="gather_kv", stage="gather", spread_k=2),
        result("fragmented", rising(7), kernel="flash_attn_with_kvcache", spread_k=2),
        result("fragmented", rising(6), kernel="flash_attn_with_kvcache", one_segment_for=2),
    )
    means = [row for row in found["kernels"] if row["layer"] == "mean"]
    gathers = {(row["kernel"], row["arm"]): row["gather_us"] for row in means}
    assert gathers == {
        (kernel, "contiguous"): None,
        (kernel, "fragmented"): 9.5,
        ("flash_attn_with_kvcache", "fragmented"): None,
    }
    assert [row["gather_ci95_us"] for row in means if row["gather_us"]] == [[6.0, 13.0]]
    rows = [row for row in found["contrasts"] if row["layer"] == 0]
    named = {(row["kernel"], row["baseline"]): (row["delta_us"], row["noise_floor_pct"]) for row in rows}
    assert named == {
        (kernel, "contiguous"): (3, None),
        ("flash_attn_with_kvcache", "fragmented@1"): (1, None),
    }


def test_the_gather_s_bandwidth_counts_what_it_packs() -> None:
    model = {"num_heads": 2, "num_kv_heads": 2, "head_dim": 64, "dtype": "bfloat16"}
    names = {"flash_attn_func": "gather_kv", "flash_attn_qkvpacked_func": "gather_qkv"}
    results = [result("fragmented", [10.0] * 6, kernel=kernel) for kernel in names]
    results += [result("fragmented", [2.0] * 6, kernel=name, stage="gather") for name in names.values()]
    results.append(result("paged", [10.0] * 6))
    rows = summary(*results, model=model, config={"length": 1000})["kernels"]
    tensor = 1000 * 2 * 64 * 2  # bytes; each is read once and written once
    assert {(row["kernel"], row["gather_gbps"]) for row in rows} == {
        ("flash_attn_func", 2 * 2 * tensor / 2e3),
        ("flash_attn_qkvpacked_func", 2 * 3 * tensor / 2e3),
        (ENGINE, None),
    }


def test_a_model_that_is_not_causal_does_twice_the_work() -> None:
    model = {"num_heads": 2, "num_kv_heads": 2, "head_dim": 64, "dtype": "bfloat16"}
    known = {"model": model, "config": {"length": 1000}}
    rates = [
        summary(result("paged", [10.0] * 6), **known, **more)["kernels"][0]["tflops"]
        for more in ({}, {"causal": True}, {"causal": False})
    ]
    assert rates[0] == rates[1] == pytest.approx(rates[2] * 1001 / 2000)


def test_what_ended_the_series_is_beside_the_figure() -> None:
    found = summary(
        result("paged", rising(10), stopped="time"),
        result("paged", rising(12), layer=1, stopped="precision"),
        result("dense", rising(9)),
    )
    stopped = {(row["arm"], row["layer"]): row["stopped"] for row in found["kernels"]}
    assert stopped[("paged", 0)] == "time"
    assert stopped[("paged", "mean")] == stopped[("paged", "sum")] == "precision, time"
    assert stopped[("dense", "mean")] is None


def test_a_gather_that_failed_is_said_beside_the_arm() -> None:
    lost = result("fragmented", [], kernel="gather_kv", stage="gather", status=Status.ERROR, reason="boom")
    found = summary(result("fragmented", rising(13), kernel="flash_attn_func"), lost)
    row = only(found["kernels"], layer="mean")
    assert row["gather_us"] is None
    assert "gather: error: boom" in row["warnings"]


def test_captured_against_synthetic_on_the_layers_that_have_both() -> None:
    found = summary(
        result("paged", rising(20)),
        result("paged", rising(90), layer=1),
        result("paged", rising(21), data="synthetic"),
    )
    row = only(found["contrasts"], baseline="synthetic paged", layer="mean")
    assert (row["treatment"], row["delta_us"], row["data"]) == ("captured paged", -1, None)


def test_end_to_end_is_in_ms_and_set_against_one_segment() -> None:
    def prefill(k: int, samples: list[float], **more: Any) -> Result:
        where = {"stage": "end_to_end", "kernel": "prefill", "layer": None, "series": "end_to_end"}
        return result("paged", samples, spread_k=k, **where, **more)

    found = summary(
        prefill(1, rising(7000)),
        prefill(4, rising(7100)),
        prefill(8, [], status=Status.OUT_OF_MEMORY, reason="no blocks"),
        prefill(1, rising(7035), control=True),
    )
    assert [row["median_ms"] for row in found["end_to_end"]] == [7.0045, 7.1045, None]
    assert found["end_to_end"][0]["ci95_ms"] == [7.001, 7.008]
    assert found["end_to_end"][2]["reason"] == "no blocks"
    row = only(found["contrasts"], treatment="paged")
    assert (row["kernel"], row["baseline"], row["spread_k"], row["layer"]) == ("prefill", "paged@1", 4, None)
    assert (row["delta_us"], row["verdict"]) == (100, "slower")
    assert row["noise_floor_pct"] == pytest.approx(35 / 7004.5 * 100)
    assert only(found["contrasts"], treatment="paged@1 again")["verdict"] == "same"


def test_a_cache_write_has_a_row_and_no_share_in_attention() -> None:
    model = {"num_heads": 2, "num_kv_heads": 2, "head_dim": 64, "dtype": "bfloat16"}
    writing = {"stage": "cache_write", "kernel": "reshape_and_cache_flash"}
    found = summary(
        result("paged", rising(110), spread_k=4),
        result("paged", rising(7), spread_k=4, **writing),
        result("paged", rising(5), one_segment_for=4, **writing),
        model=model,
        config={"length": 1000},
    )
    rows = {(row["stage"], row["kernel"]): row for row in found["kernels"] if row["layer"] == "mean"}
    assert list(rows) == [("kernel", ENGINE), ("cache_write", "reshape_and_cache_flash")]
    write = rows["cache_write", "reshape_and_cache_flash"]
    assert (write["median_us"], write["spread_k"], write["status"]) == (11.5, 4, "ok")
    assert (write["tflops"], write["gbps"]) == (None, None)
    assert rows["kernel", ENGINE]["tflops"] > 0
    assert found["contrasts"] == []


def test_the_breakdown_is_there_once_attention_was_steered() -> None:
    def prefill(arm: str, samples: list[float]) -> Result:
        where = {"stage": "end_to_end", "kernel": "prefill", "layer": None, "series": "end_to_end"}
        return result(arm, samples, **where)

    swept = [prefill("paged", rising(7000))]
    assert summary(*swept)["attribution"] is None
    found = summary(*swept, prefill("dense", rising(6900)))
    paging = only(found["attribution"]["measured"], component="paging")
    assert (paging["ms"], paging["pct"]) == (0.1, pytest.approx(10 / 7.0045))
    assert [row["arm"] for row in found["end_to_end"]] == ["paged", "dense"]


def test_a_cell_measured_again_counts_once() -> None:
    first = result("paged", rising(10, n=3), status=Status.INTERRUPTED, reason="Ctrl-C")
    found = summary(first, replace(first, status=Status.OK, reason=None, samples_us=rising(20)))
    assert [(row["status"], row["n"]) for row in found["kernels"]] == [
        ("ok", 10)
    ] * 3  # the layer, mean and sum


def test_the_clock_is_beside_the_figure_and_a_fall_is_said() -> None:
    found = summary(
        result("paged", rising(10), clock_mhz=[1980, 1980]),
        result("paged", rising(12), layer=1, clock_mhz=[1980, 1755, 1755]),
        result("dense", rising(9)),
    )
    clocks = {(row["arm"], row["layer"]): row["clock_mhz"] for row in found["kernels"]}
    assert clocks == {
        ("paged", 0): 1980,
        ("paged", 1): 1755,
        ("paged", "mean"): 1980,
        ("paged", "sum"): 1980,
        ("dense", 0): None,
        ("dense", "mean"): None,
        ("dense", "sum"): None,
    }
    fell = {row["layer"] for row in found["kernels"] if "clock fell" in "; ".join(row["warnings"])}
    assert fell == {1, "mean", "sum"}


def test_the_sum_over_layers_is_the_mean_times_their_number() -> None:
    found = summary(result("paged", rising(10)), result("paged", rising(30), layer=7))
    (mean,) = (row for row in found["kernels"] if row["layer"] == "mean")
    (total,) = (row for row in found["kernels"] if row["layer"] == "sum")
    for name in ("median_us", "mean_us"):
        assert total[name] == 2 * mean[name]
    assert total["ci95_us"] == [2 * bound for bound in mean["ci95_us"]]
    assert total["n"] == mean["n"]


@pytest.mark.parametrize("change", [lambda r: r, lambda r: replace(r, samples_us=[], status=Status.ERROR)])
def test_an_empty_or_broken_run_has_a_summary(change: Callable[[Result], Result]) -> None:
    assert summary()["kernels"] == []
    found = summary(change(result("paged", [5.0])))
    assert [row["ci95_us"] for row in found["kernels"]] == [None] * 3
