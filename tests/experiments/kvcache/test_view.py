"""What is made of a run of `kvcache`: speed-ups, the formula's cache, both plots."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.experiments.kvcache import summary as kvcache_summary
from harness.experiments.kvcache.charts import FORMULA
from tests.made_up.builder import run_record
from tests.made_up.kvcache import OUTPUT, TOKEN_BYTES, cached_bytes, record, results, step_us
from tests.made_up.views import charts_of, document_from, document_of, page_of, summary_of


@pytest.fixture(scope="module")
def summary():
    return summary_of(record(), results())


def test_speed_ups_are_quotients_of_the_samples(summary):
    found = {row["contrast"]: row for row in summary["speed_ups"]}
    totals = {
        mode: sum(step_us(mode, n + 1) for n in range(OUTPUT)) for mode in ("no_cache", "kv_cache", "paged")
    }
    for name, one, two in (
        ("KV cache against no cache", "no_cache", "kv_cache"),
        ("paged against no cache", "no_cache", "paged"),
        ("paged against KV cache", "kv_cache", "paged"),
    ):
        low, high = found[name]["ci95_speed_up"]
        assert low < found[name]["speed_up"] < high
        assert found[name]["speed_up"] == pytest.approx(totals[one] / totals[two], rel=0.01)
        assert found[name]["verdict"] == "faster"
    assert found["A/A"]["verdict"] in ("same", "unclear")


def test_a_verdict_takes_in_what_a_mode_and_itself_differ_by():
    """With transformers' second generations off by up to a factor of 3, 1.7 and 2.3 are no finding."""
    noise = (0.4, 2.9) * 5
    noisy = [
        replace(r, samples_us=[us * x for us, x in zip(r.samples_us, noise, strict=True)]) if r.control else r
        for r in results()
    ]
    found = {row["contrast"]: row for row in summary_of(record(), noisy)["speed_ups"]}
    assert found["KV cache against no cache"]["verdict"] == "unclear"
    assert found["paged against KV cache"]["verdict"] == "unclear"
    assert found["paged against no cache"]["verdict"] == "faster"
    assert found["A/A"]["noise_floor_pct"] == pytest.approx(190, abs=6)
    without = summary_of(record(), [result for result in results() if not result.control])
    assert {row["verdict"] for row in without["speed_ups"]} == {"unclear"}
    assert "noise floor, which is not known" in document_from(record(), without).screen_summary()


def test_the_formula_is_held_against_what_was_measured(summary):
    assert kvcache_summary.token_bytes(run_record(record())) == TOKEN_BYTES
    rows = {(row["arm"], row["step"]): row for row in summary["steps"]}
    assert len(rows) == 3 * OUTPUT
    for (mode, step), row in rows.items():
        assert row["cache_bytes"] == cached_bytes(mode, step)
        assert row["formula_bytes"] == cached_bytes("kv_cache", step)


def test_one_layer_is_singular():
    one = record() | {"model": record()["model"] | {"num_layers": 1, "num_kv_heads": 1}}
    shown = document_of(one, results()).screen_summary()
    assert "2 x 1 layer x 1 KV head x " in " ".join(shown.split())


def test_the_tokens_that_are_the_same_are_counted_up_to_the_first_that_is_not(summary):
    assert {row["arm"]: row["same_tokens"] for row in summary["modes"]} == {
        "no_cache": 8,
        "kv_cache": 8,
        "paged": 5,
    }


def shown_as_the_same(**changes):
    """What stands under `same` for vLLM, and the notes below."""
    changed = record() | changes
    text = document_of(changed, results()).screen_summary()
    table = text.split("Speed-ups")[0]
    line = next(line for line in table.splitlines() if line.startswith("vLLM, paged KV cache"))
    return line.split("3.032")[1].strip(), " ".join(table.split())


def test_tokens_of_other_weights_are_not_compared():
    shown, notes = shown_as_the_same(model=record()["model"] | {"drawn_apart": True})
    assert shown == "- [1]"
    assert "[1] vLLM and transformers draw their own weights, so their tokens cannot be compared" in notes
    rows = summary_of(record() | {"model": record()["model"] | {"drawn_apart": True}}, results())["modes"]
    assert {row["arm"]: row["same_tokens"] for row in rows} == {"no_cache": 8, "kv_cache": 8, "paged": None}


def test_a_first_token_that_differs_is_marked_as_a_tie_or_as_wrong():
    tokens = record()["tokens"] | {"paged": [7, 2, 3, 4, 5, 6, 7, 8]}
    shown, notes = shown_as_the_same(tokens=tokens)
    assert shown == "0/8 [1]"
    assert "[1] a tie: the first logits differ by 0.0041 of their spread" in notes
    wrong = {"paged": {"error": 0.2, "objection": "first token 7, not 1, which leads by 0.8"}}
    shown, notes = shown_as_the_same(tokens=tokens, first_logits=wrong)
    assert shown == "0/8 [1]"
    assert "[1] more than rounding: first token 7, not 1, which leads by 0.8" in notes


def test_a_mode_that_failed_keeps_its_row_and_has_no_speed_up():
    found = summary_of(record(), results("no_cache"))
    assert [row["status"] for row in found["modes"]] == ["out_of_memory", "ok", "ok"]
    assert [row["contrast"] for row in found["speed_ups"]] == ["paged against KV cache", "A/A"]
    assert "out_of_memory" in page_of(record(), results("paged"))


def test_charts_have_times_memory_and_speed_ups(summary):
    modes, steps = charts_of(record(), results())
    whole, peak = modes.charts
    speed_ups = {row["contrast"]: row["speed_up"] for row in summary["speed_ups"]}
    for row, time, memory in zip(summary["modes"], whole.rows, peak.rows, strict=True):
        ((bar,), (of_memory,)) = time.parts, memory.parts
        assert (bar.value, of_memory.value) == (row["median_us"] / 1000, row["peak_bytes"] / 2**20)
        assert list(bar.interval) == [bound / 1000 for bound in row["ci95_us"]]
        against = {"kv_cache": "KV cache against no cache", "paged": "paged against no cache"}.get(row["arm"])
        assert bar.text == (f"{speed_ups[against]:.2f}x" if against else "")
    times, kept = (chart.lines for chart in steps.charts)
    for n, arm in enumerate(("no_cache", "kv_cache", "paged")):
        rows = [row for row in summary["steps"] if row["arm"] == arm]
        assert [(p.x, p.y) for p in times[n].points] == [(r["step"], r["median_us"] / 1000) for r in rows]
        assert [p.y for p in kept[n].points] == [row["cache_bytes"] / 2**20 for row in rows]
    assert kept[3].key.label == "K and V by the formula"
    formula = [row["formula_bytes"] / 2**20 for row in summary["steps"] if row["arm"] == "kv_cache"]
    assert [point.y for point in kept[3].points] == formula


def test_without_the_engine_s_data_type_there_is_no_formula():
    record_without = {key: value for key, value in record().items() if key != "engine"}
    _, kept = charts_of(record_without, results())[1].charts
    assert not kept.lines[3].measured
    assert len(kept.lines[3].points) == len(kept.lines[1].points)


@pytest.mark.parametrize("lost", ["kv_cache", "paged"])
def test_the_formula_is_drawn_where_transformers_has_a_cache(lost):
    _, kept = charts_of(record(), results(lost))[1].charts
    assert (FORMULA in [line.key for line in kept.lines]) == (lost == "paged")
