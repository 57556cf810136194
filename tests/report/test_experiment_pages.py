"""report.html of every other experiment and of a comparison, as text and in a real browser."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.config import load
from harness.experiments import EXPERIMENTS, views
from harness.report.tables import ms
from harness.sweep import view as sweep
from harness.units import pluralise
from tests import made_up
from tests.browser import opened, started
from tests.made_up import COMPANIONS, backends, kernels
from tests.made_up.builder import run_record
from tests.made_up.views import Row, page_of, summary_of

Pages = dict[str, tuple[Path, Row]]
FIGURES = {
    "kernels": 2, "cache": 3, "memory": 3, "backends": 3, "kvcache": 4, "transfer": 2, "advise": 2,
    "allocate": 2, "workload": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Pages:
    """Each experiment's page and summary."""
    folder = tmp_path_factory.mktemp("pages")
    found = {}
    for name in COMPANIONS:
        record, results = made_up.RUNS[name].both()
        found[name] = folder / f"{name}.html", summary_of(record, results)
        found[name][0].write_text(page_of(record, results, found[name][1]), encoding="utf-8")
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with started() as browser:
        yield browser


@pytest.mark.parametrize("name", COMPANIONS)
@pytest.mark.parametrize(("width", "scheme"), [(1100, "light"), (390, "dark")])
def test_every_figure_is_drawn_and_nothing_sticks_out(
    browser: Any, pages: Pages, name: str, width: int, scheme: str
) -> None:
    with opened(browser, pages[name][0], width, color_scheme=scheme) as tab:
        assert tab.locator("h1").inner_text().endswith(("on NVIDIA H100", "on a CPU"))
        assert tab.locator(".question").inner_text() == EXPERIMENTS[name].question
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        assert tab.locator("figure").count() == FIGURES[name]
        assert tab.locator("figure:not(:has(.mark))").count() == 0
        for box in tab.evaluate(
            "[...document.querySelectorAll('.mark, .drawing text')].map(m => m.getBoundingClientRect())"
        ):
            assert box["width"] > 0
            assert box["left"] >= 0
            assert box["right"] <= width


def tips(tab: Any) -> dict[str, list[str]]:
    """What every mark says, by its first line."""
    said = tab.locator(".mark").evaluate_all("marks => marks.map(mark => mark.dataset.tip)")
    return {text.split("\n")[0]: text.split("\n") for text in said}


def median(row: Row) -> str:
    low, high = (bound / 1000 for bound in row["ci95_us"])
    return f"median {row['median_us'] / 1000:.4f} ms [{low:.4f}, {high:.4f}]"


def delta(row: Row) -> str:
    low, high = row["ci95_pct"]
    return f"{row['delta_pct']:+.2f}% [{low:+.2f}, {high:+.2f}], {row['verdict']}"


def test_kernels_figures_are_the_summary_s(browser: Any, pages: Pages) -> None:
    path, summary = pages["kernels"]
    with opened(browser, path) as tab:
        said, answer = tips(tab), tab.locator(".sentence").inner_text()
    for row in summary["cells"]:
        name = f"{row['kernel']} ({row['provider']}), {row['arm']}, spread_k = {row['spread_k']}"
        assert (name in said) == bool(row["n"])
        if row["n"]:
            assert said[name][1] == median(row)
            assert f"n = {row['n']} rounds; no clock read" in said[name]
    drawn = {"flash_attn_with_kvcache": ("fragmentation", "one segment")}
    for row in summary["contrasts"]:
        contrast, against = drawn.get(row["kernel"], ("core", "contiguous"))
        if row["contrast"] == contrast:
            split = pluralise(row["spread_k"], "segment")
            assert said[f"{row['kernel']}, {split} against {against}"][1] == delta(row)
            assert (delta(row) in answer) == (row["spread_k"] == 8)


def test_cache_figures_are_the_summary_s(browser: Any, pages: Pages) -> None:
    path, summary = pages["cache"]
    with opened(browser, path) as tab:
        said, answer = tips(tab), tab.locator(".sentence").inner_text()
        assert "out_of_memory" in tab.locator("#figures").inner_text()
    for row in summary["cells"]:
        of = "one prompt" if row["batch_size"] == 1 else f"{row['batch_size']} prompts"
        if row["n"]:
            lines = said[f"{of}, {row['share_pct']}%, {row['arm']}"]
            assert f"hit rate {row['hit_rate_pct']:.1f}%" in lines[2]
            shown = re.fullmatch(r"median ([\d.]+) ms \[.*\]", lines[1])
            assert shown
            assert float(shown[1]) == pytest.approx(row["median_us"] / 1000, abs=0.005)
    (best,) = (r for r in summary["contrasts"] if (r["contrast"], r["share_pct"]) == ("warm", 100))
    assert delta(best) in answer
    assert said["one prompt, 100%: warm against reset"][1] == delta(best)


def test_memory_figures_are_the_summary_s(browser: Any, pages: Pages) -> None:
    path, summary = pages["memory"]
    with opened(browser, path) as tab:
        said, answer = tips(tab), tab.locator(".sentence").inner_text()
    counters = {"RSS": "rss_bytes", "allocated": "allocated_bytes", "KV used": "cache_used_bytes"}
    for row in summary["cells"]:
        if row["n"]:
            stage = f"{row['arm']}, {row['moment']}" + (f", {row['tokens']} tokens" if row["tokens"] else "")
            for name, key in counters.items():
                assert (f"{stage}: {name}" in said) == bool(row[key])
                if row[key]:
                    assert said[f"{stage}: {name}"][1].startswith(f"{row[key] / 2**20:,.1f} MiB")
    for row in summary["waste"]:
        if row["way"] != "needed":
            assert f"{row['unused_pct']:.1f}%" in answer


def test_backends_figures_are_the_summary_s(browser: Any, pages: Pages) -> None:
    path, summary = pages["backends"]
    with opened(browser, path) as tab:
        said, answer = tips(tab), tab.locator(".sentence").inner_text()
        keys = tab.locator("#figures .legend").all_inner_texts()
        ringed = tab.locator(".mark", has=tab.locator("svg.marker:nth-of-type(2)")).count()
    places = ("backend", "input_len", "batch_size")
    turns = {tuple(row[key] for key in places) for row in summary["compute_bound"] if row["batch_size"]}
    assert ringed == len(turns)
    assert sum("compute-bound from here" in text for text in keys) == len({tokens for _, tokens, _ in turns})
    for row in summary["cells"]:
        name = f"{row['backend']}, batch size {row['batch_size']}, {row['input_len']} tokens"
        assert (name in said) == bool(row["n"])
        if row["n"]:
            rate = row["tokens_per_s"]
            shown = f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}"
            assert said[name][2].startswith(f"{shown} tokens/s [")
            here = (row["backend"], row["input_len"], row["batch_size"])
            assert ("compute-bound from here on" in said[name]) == (here in turns)
    wins = [row["winner"] for row in summary["winners"]]
    assert f"FLASH_ATTN in {wins.count('FLASH_ATTN')}" in answer


def test_with_one_backend_the_answer_is_the_dense_buffer_s() -> None:
    engines = ("FLASH_ATTN again", "TRITON_ATTN", "FLEX_ATTENTION")
    kept = [result for result in backends.results() if result.series not in engines]
    html = page_of(backends.record(), kept)
    row = next(
        r
        for r in summary_of(backends.record(), kept)["contrasts"]
        if (r["batch_size"], r["input_len"]) == (16, 512) and r["verdict"] == "slower"
    )
    assert "so there is no winner. For 4 prompts of 2048 tokens, PyTorch&#39;s attention needs" in html
    assert f"24.00 MiB; without it, block by block, it takes {1 + row['delta_pct'] / 100:.0f}" in html
    html = page_of(backends.record(), [result for result in kept if result.cell.stage != "kernel"])
    assert "dense buffer of" not in html


def test_kvcache_figures_are_the_summary_s(browser: Any, pages: Pages) -> None:
    path, summary = pages["kvcache"]
    with opened(browser, path) as tab:
        said, answer = tips(tab), tab.locator(".sentence").inner_text()
        labels = tab.locator("#figures text.label").all_text_contents()
    for row in summary["modes"]:
        assert any(ms(row["median_us"], 2 if row["median_us"] >= 10_000 else 4) in text for text in labels)
    for row in summary["speed_ups"]:
        shown = f"{row['contrast']} {row['speed_up']:.2f}x"
        assert (shown in answer) == (row["contrast"] != "A/A")
    names = {"no_cache": "transformers, no cache", "kv_cache": "transformers, KV cache"}
    for row in summary["steps"]:
        if row["arm"] in names:
            lines = said[f"{names[row['arm']]}, token {row['step']} after {row['tokens']}"]
            assert lines[1] == f"{row['cache_bytes'] / 2**20:,.3f} MiB are kept"


@pytest.mark.parametrize("name", COMPANIONS)
def test_tables_and_verdicts_are_on_the_page(browser: Any, pages: Pages, name: str) -> None:
    path, summary = pages[name]
    with opened(browser, path) as tab:
        shown = tab.locator("#tables .verdict").all_text_contents()
        assert tab.locator("#tables table").count() >= 1 + (name != "allocate")
        tab.locator("#again pre").last.scroll_into_view_if_needed()
        commands = tab.locator("#again pre").all_text_contents()
        assert tab.pdf(format="A4").startswith(b"%PDF")
        assert tab.locator("details:not([open])").count() == 0
    assert any(command.startswith(f"python -m harness {name}") for command in commands)
    rows = [row for rows in summary.values() if isinstance(rows, list) for row in rows]
    verdicts = {row["verdict"] for row in rows if "verdict" in row}
    assert {text.split()[-1] for text in shown} <= {"slower", "faster", "same", "unclear"}
    assert not verdicts or shown


def test_the_command_in_full_asks_for_the_same_run() -> None:
    asked = {"length": 2048, "block_size": 64, "causal": False, "max_seconds": 2.5, "spread_k": [1, 8]}
    config = load(EXPERIMENTS["kernels"].config, asked, None)
    record = kernels.record() | {"config": config.model_dump(mode="json")}
    words = shlex.split(views.in_full(run_record(record)))
    assert words[:4] == ["python", "-m", "harness", "kernels"]
    options = "--length 2048 --block-size 64 --no-causal --max-seconds 2.5 --spread-k 1,8"
    assert sorted(words[4:]) == sorted(options.split())


def test_a_sweep_s_page_has_each_point_s_breakdown(browser: Any, tmp_path: Path) -> None:
    sweep.write(made_up.sweep.write(tmp_path))
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    with opened(browser, tmp_path / "report.html", 390) as tab:
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
        for box in tab.evaluate(
            "[...document.querySelectorAll('.drawing text')].map(m => m.getBoundingClientRect())"
        ):
            assert box["right"] <= 390
        said = tips(tab)
        labels = tab.locator("#figures text.label").all_text_contents()
        assert tab.locator(".alert").is_visible()
        note = tab.locator("#figures figure .note").all_text_contents()
    assert [text.partition(":")[0] for text in note] == ["no breakdown"]
    number = len(summary["points"])
    assert len(labels) == 2 * number  # the prefill, and below it the kernel
    for point, label, of_kernel in zip(summary["points"], labels, labels[number:], strict=False):
        assert label.startswith(point["name"])
        assert label.endswith(": no breakdown") == (
            point["status"] == "finished" and not point["attribution"]
        )
        assert of_kernel == point["name"] + ("" if point["kernel"] else f": {point['status']}")
        if point["kernel"] and (row := point["kernel"]["paging"]):
            assert said[f"{point['name']}: paging tax"][1].startswith(
                f"{row['kernel']}: {row['delta_pct']:+.2f}%"
            )
        for row in point["attribution"]["measured"] if point["attribution"] else []:
            if row["component"] in sweep.COMPONENTS:
                lines = said[f"{point['name']}: {row['component'].replace('_', ' ')}"]
                assert lines[1].startswith(f"{row['pct']:+.2f}% [{row['ci95_pct'][0]:+.2f}")
