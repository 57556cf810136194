"""What is made of a run of `memory`: figures, and the plot."""

from __future__ import annotations

import pytest

from harness.experiments.memory import view as memory
from tests.made_up.memory import BLOCK_SIZE, LENGTHS, PER_TOKEN, record, results
from tests.made_up.views import charts_of, document_from, summary_of

MIB = 2**20


@pytest.fixture(scope="module")
def summary():
    return summary_of(record(), results())


def test_a_stage_s_figures_are_medians_over_the_processes(summary):
    loaded = {row["arm"]: row for row in summary["cells"] if row["moment"] == "model loaded"}
    assert loaded["vLLM"]["rss_bytes"] == 910.5 * MIB
    assert loaded["transformers"]["n"] == 2
    assert loaded["transformers"]["ci95_rss_bytes"] is None


def test_intervals_from_six_processes_on():
    summary = summary_of(record(), results(6))
    row = next(row for row in summary["cells"] if row["moment"] == "done")
    assert row["ci95_rss_bytes"] == [970 * MIB, 975 * MIB]
    assert "Medians of 6 processes of each; 95% intervals are up to 0.55% wide" in " ".join(
        document_from(record(), summary).screen_summary().split()
    )


def test_what_failed_in_one_process_has_the_others_figures_and_a_status(summary):
    (row,) = (row for row in summary["cells"] if row["status"] != "ok")
    assert (row["moment"], row["n"], row["status"]) == ("all, padded", 1, "out_of_memory")
    assert row["reason"].startswith("in 1 of 2 processes: ")
    assert row["cache_used_bytes"] == 3 * 1008 * PER_TOKEN


def test_waste_is_what_has_no_token(summary):
    needed, blocks, padded = summary["waste"]
    tokens = sum(LENGTHS)
    assert needed["used_bytes"] == tokens * PER_TOKEN
    assert blocks["unused_bytes"] == (16 + 1008 + 112 - tokens) * PER_TOKEN
    assert padded["unused_bytes"] == (3 * 1008 - tokens) * PER_TOKEN
    assert padded["unused_pct"] == pytest.approx(100 * (1 - tokens / 3024))
    assert blocks["requests_that_fit"] == 3000 * BLOCK_SIZE * 3 // (16 + 1008 + 112)
    assert padded["requests_that_fit"] == 3000 * BLOCK_SIZE * 3 // (3 * 1008)


def test_a_cpu_has_no_cuda_counters():
    on_cpu = results()
    for result in on_cpu:
        for name in [name for name in result.readings if not name.startswith(("rss", "peak_rss", "cache"))]:
            del result.readings[name]
    summary = summary_of(record(), on_cpu)
    lines = document_from(record(), summary).screen_summary().splitlines()
    assert next(line for line in lines if line.startswith("model loaded")).split()[2:5] == ["-", "-", "-"]
    (sheet,) = charts_of(record(), on_cpu)
    assert [key.label for key in sheet.charts[1].legend_keys()] == ["RSS", "KV used", "KV held"]


def test_a_stage_has_a_point_a_counter_and_each_way_a_bar_in_two_parts():
    summary = summary_of(record(), results())
    (sheet,) = charts_of(record(), results())
    *stages, waste = sheet.charts
    for engine, chart in zip(memory.ENGINES, stages, strict=True):
        rows = [row for row in summary["cells"] if row["arm"] == engine]
        for row, shown in zip(rows, chart.rows, strict=True):
            counted = {name: row.get(key) for name, key in memory.COUNTERS.items()}
            expected = {name: size / 2**20 for name, size in counted.items() if size}
            assert {dot.key.label: dot.value for dot in shown.dots} == expected
            assert row["status"] == "ok" or shown.label.endswith(row["status"])
    for row, shown in zip(summary["waste"], waste.rows, strict=True):
        sizes = {part.key.label: part.value for part in shown.parts}
        assert sum(sizes.values()) == pytest.approx(row["used_bytes"] / 2**20)
        assert sizes.get("without", 0) == pytest.approx(row["unused_bytes"] / 2**20)
