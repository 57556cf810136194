"""report.html as text: whole in itself, everything escaped, and readable whatever a run lacks."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import layout
from harness.experiments import views
from harness.experiments.prefill import block_map as blocks
from harness.experiments.prefill.options import RunConfig
from harness.experiments.prefill.view import answer
from harness.report.charts import svg
from harness.report.charts.scale import Scale, tick_label
from harness.runs.record import Status
from tests.made_up.builder import run_record
from tests.made_up.prefill import ENGINE, ROUNDS, record, results, two_ranks
from tests.made_up.views import Row, page_of, prefill_summary, summary_of
from tests.pages import EVIL, Elements, check

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def whole() -> str:
    return page_of(record(), results())


PARTS = {
    "one series": lambda r: r.series == "spread=2 layer=0",
    "end to end": lambda r: r.cell.layer is None,
    "replay": lambda r: r.cell.layer is not None,
}
CASES = {name: [r for r in results() if part(r)] for name, part in PARTS.items()} | {
    "three rounds": [replace(r, samples_us=r.samples_us[:3]) for r in results()],
    "two ranks": two_ranks(),
    "all wrong": [
        replace(r, status=Status.WRONG_OUTPUT, reason="off by 1", samples_us=[]) for r in results()
    ],
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("more", [{}, {"profile": [], "block_ids": {}}], ids=["", "no profile"])
def test_a_page_of_a_part_is_whole(case: str, more: Row) -> None:
    check(page_of(record() | more, CASES[case]))


def test_parts_come_in_the_order_in_which_they_are_read(whole: str) -> None:
    summary = summary_of(record(), results())
    order = [
        summary["attribution"]["sentence"],
        "What the paged KV cache costs a prefill",
        "Fragmentation: k segments against one",
        "<h2>Layer by layer",
        "<h2>Block tables",
        "<h2>Kernels, whole prefills and their verdicts",
        "<h2>Environment",
        "<h2>Notices and warnings",
        "<h2>Run it again",
    ]
    places = [whole.index(text) for text in order]
    assert places == sorted(places)


def test_what_a_run_calls_its_kernels_is_escaped() -> None:
    named = [replace(r, cell=replace(r.cell, kernel=EVIL)) for r in results() if r.cell.layer is not None]
    check(page_of(record(), named))


def test_a_run_without_a_breakdown_begins_with_what_it_has() -> None:
    sweep = [r for r in results() if r.cell.layer is not None or r.cell.arm == "paged"]
    summary = summary_of(record(), sweep)
    row = next(r for r in summary["contrasts"] if r["kernel"] == "prefill" and r["spread_k"] == 8)
    assert f"8 segments instead of one change the prefill by {row['delta_pct']:+.2f}%" in answer(
        prefill_summary(summary)
    )
    assert "no whole prefill" in page_of(record(), CASES["replay"])


def test_every_layout_has_its_segments_drawn_and_listed(whole: str) -> None:
    paths = re.findall(r'<path d="([^"]*)" class="segments">', whole)
    runs = [len(re.findall("M", path)) for path in paths]
    assert runs == [1, 2, 4, 8, 32]
    assert layout.to_ranges(layout.plan(32, 4, range(1, 99), seed=4)).replace(",", ", ") in whole


def test_of_many_requests_some_are_drawn_and_the_rest_is_counted() -> None:
    """A batch of 64 prompts of 4096 blocks: 16 pictures of a layout, the first and the last prompt's too."""
    plans = layout.plan_batch([4096] * 64, [4096] * 64, range(1, 64 * 4096 + 1), seed=1)
    found = blocks.albums(run_record(block_ids={"4096": [layout.to_ranges(plan) for plan in plans]}))
    (one,) = found
    assert len(one.pictures) == blocks.MOST_REQUESTS == 16
    assert [one.pictures[0].title, one.pictures[-1].title] == ["request 0", "request 63"]
    assert one.rest == "16 of 64 requests, evenly picked from the batch; run.json has the other 48."
    assert sum(len(svg.draw_block_map(picture)) for picture in one.pictures) < 2_000_000
    few = blocks.albums(run_record(block_ids={"1": ["1-4"] * 16, "engine": ["9,8,7,6"] * 16}))
    assert [(len(each.pictures), each.rest) for each in few] == [(16, "")] * 2


def test_a_batch_has_its_requests_on_the_page() -> None:
    row: Row = {"request": 0, "count": 3, "length": 70, "blocks": 3, "spread_k": 3, "layer": 0}
    row |= {
        "kernel": "a_kernel",
        "provider": "vLLM",
        "dense_us": 11.0,
        "one_segment_us": 12.5,
        "paged_us": 13.5,
    }
    row |= {"delta_us": 1.0, "delta_pct": 8.0, "ci95_pct": [7.0, 9.0], "verdict": "slower"}
    row |= {"n": 12, "status": "ok", "reason": None}
    summary = summary_of(record(), results()) | {"requests": [row]}
    html = page_of(record(), results(), summary)
    table = html[html.index("<h3>Per request</h3>") :]
    for cell in ("3x70", "0.0110", "0.0125", "0.0135", "+8.00% [+7.00, +9.00]"):
        assert cell in table


def test_of_several_ranks_the_page_shows_the_slowest() -> None:
    """Twice the run of one rank, all of the second rank's kernels half as long again."""
    summary = summary_of(record(), two_ranks())
    html = page_of(record(), two_ranks(), summary)
    assert "<h3>Ranks</h3>" in html
    label = "cpu_attention_with_kv_cache, spread_k = 8, layer 5: paged against paged@1"
    (tag,) = (a for _, a in Elements(html).found if (a.get("aria-label") or "").startswith(label))
    assert len((tag["data-samples"] or "").split()) == ROUNDS
    label = "cpu_attention_with_kv_cache (vLLM CPU), paged, spread_k = 8; median "
    (tag,) = (a for _, a in Elements(html).found if (a.get("aria-label") or "").startswith(label))
    (row,) = (
        r
        for r in summary["kernels"]
        if (r["kernel"], r["arm"], r["layer"], r["data"], r["rank"], r["spread_k"])
        == ("cpu_attention_with_kv_cache", "paged", "mean", "captured", 1, 8)
    )
    samples = sorted(float(x) for x in (tag["data-samples"] or "").split())
    assert (samples[5] + samples[6]) / 2 == pytest.approx(row["median_us"] / 1000, rel=1e-3)


def test_a_mark_s_samples_are_those_of_the_run(whole: str) -> None:
    label = "prefill, 8 segments; median "
    tag = next(a for _, a in Elements(whole).found if (a.get("aria-label") or "").startswith(label))
    (result,) = (
        r for r in results() if r.cell.layer is None and r.cell.arm == "paged" and r.cell.spread_k == 8
    )
    shown = [float(x) for x in (tag["data-samples"] or "").split()]
    assert shown == pytest.approx([us / 1000 for us in result.samples_us], rel=1e-4)
    assert "n = 12 rounds" in (tag["data-tip"] or "")


def test_of_a_contrast_the_samples_are_paired_differences(whole: str) -> None:
    label = "cpu_attention_with_kv_cache, spread_k = 8, layer 5: paged against paged@1"
    tag = next(a for _, a in Elements(whole).found if (a.get("aria-label") or "").startswith(label))
    paged, one_segment = (
        next(
            r.samples_us
            for r in results()
            if (r.cell.kernel, r.cell.arm, r.cell.layer, r.cell.data) == (ENGINE[0], "paged", 5, "captured")
            and (r.one_segment_for == 8 if one else r.cell.spread_k == 8)
        )
        for one in (False, True)
    )
    level = sorted(one_segment)[5] / 2 + sorted(one_segment)[6] / 2
    expected = [100 * (two - one) / level for one, two in zip(one_segment, paged, strict=True)]
    assert [float(x) for x in (tag["data-samples"] or "").split()] == pytest.approx(expected, abs=1e-3)


OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "model": st.sampled_from(["gpt2", "a model", "it's"]),
        "length": st.integers(1, 9999),
        "attribution": st.booleans(),
        "enforce_eager": st.booleans(),
        "spread_k": st.lists(st.integers(1, 64), min_size=1),
        "layers": st.sampled_from(["all", "sample", [0, 3]]),
        "max_seconds": st.sampled_from([1.0, 0.25, 45.0]),
        "prompt_file": st.just("with space.txt"),
    },
)


@settings(deadline=None)
@given(OPTIONS)
def test_the_command_in_full_asks_for_the_same_run(options: Row) -> None:
    asked = RunConfig.model_validate(options)
    words = shlex.split(views.in_full(run_record(config=asked.model_dump(mode="json"))))
    assert words[:4] == ["python", "-m", "harness", "prefill"]
    found: Row = {}
    for word, value in pairwise([*words[4:], "--"]):
        name = word.removeprefix("--").replace("-", "_")
        if word.startswith("--no-"):
            found[name.removeprefix("no_")] = False
        elif word.startswith("--"):
            is_list = "," in value or name == "spread_k"
            found[name] = (
                True if value.startswith("--") else yaml.safe_load(f"[{value}]" if is_list else value)
            )
    assert RunConfig.model_validate(found) == asked


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_lie_on_the_scale_and_their_labels_differ(low: float, width: float) -> None:
    scale = Scale(low, low + width)
    ticks = scale.ticks()
    labels = [tick_label(tick, ticks) for tick in ticks]
    assert len(set(labels)) == len(ticks)
    for tick, label in zip(ticks, labels, strict=True):
        assert 0 <= scale.at(tick) <= 1
        assert float(label.replace(",", "")) == pytest.approx(tick, abs=width / 100)


def test_a_report_needs_neither_torch_nor_vllm() -> None:
    code = "import sys, harness.report; sys.exit(bool({'torch', 'vllm'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
