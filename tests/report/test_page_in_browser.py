"""report.html in a real browser: what is drawn, what a mark says, what a phone and paper show."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.experiments import views
from harness.runs.store import RunDirectory
from tests.browser import opened, started
from tests.made_up import prefill_gpu
from tests.made_up.builder import DATA
from tests.made_up.views import Row, page_of


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with started() as browser:
        yield browser


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Row]]:
    """Page and summary of the frozen run on a CPU, and of a run on a GPU."""
    folder = tmp_path_factory.mktemp("pages")
    shutil.copytree(DATA / "run", folder / "run")
    views.write(RunDirectory.open(folder / "run"))
    record, of_gpu = prefill_gpu.breakdown()
    html = page_of(record, prefill_gpu.results(), of_gpu)
    (folder / "gpu.html").write_text(html, encoding="utf-8")
    summary = json.loads((folder / "run" / "summary.json").read_text(encoding="utf-8"))
    return {"cpu": (folder / "run" / "report.html", summary), "gpu": (folder / "gpu.html", of_gpu)}


@pytest.mark.parametrize("name", ["cpu", "gpu"])
@pytest.mark.parametrize(("width", "scheme"), [(1100, "light"), (1100, "dark"), (375, "light")])
def test_every_figure_is_drawn_and_nothing_sticks_out(
    browser: Any, pages: dict[str, tuple[Path, Row]], name: str, width: int, scheme: str
) -> None:
    with opened(browser, pages[name][0], width, color_scheme=scheme) as tab:
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        assert tab.locator("figure").count() >= 8
        assert tab.locator("figure:not(:has(.mark))").count() == 0
        for box in tab.evaluate(
            "[...document.querySelectorAll('.mark, .drawing text')].map(m => m.getBoundingClientRect())"
        ):
            assert box["width"] > 0
            assert box["height"] > 0
            assert box["left"] >= 0
            assert box["right"] <= width
        background = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(255, 255, 255)") == (scheme == "light")


def tips(tab: Any) -> list[list[str]]:
    """What every mark says, read from the tip that the keyboard brings up."""
    found = []
    drawings = tab.locator("svg[role=group]")
    for n in range(drawings.count()):
        marks = drawings.nth(n).locator(".mark")
        marks.first.focus()
        for _ in range(marks.count()):
            found.append(tab.locator("#tip").inner_text().splitlines())
            tab.keyboard.press("ArrowRight")
    return found


def shown(row: Row) -> str:
    low, high = row["ci95_pct"]
    return f"{row['delta_pct']:+.2f}% [{low:+.2f}, {high:+.2f}], {row['verdict']}"


def test_the_keyboard_reaches_every_figure_of_the_summary(
    browser: Any, pages: dict[str, tuple[Path, Row]]
) -> None:
    path, summary = pages["cpu"]
    with opened(browser, path) as tab:
        said = tips(tab)
    by_title = {lines[0]: lines for lines in said}
    rows = [r for r in summary["contrasts"] if r["data"] == "captured" and r["treatment"] == "paged"]
    wanted = [r for r in rows if r["layer"] in ("mean", None) or (r["layer"] != "sum" and r["spread_k"] == 8)]
    wanted = [r for r in wanted if r["baseline"] == "paged@1"]
    assert len(wanted) == 3 + 2 + 2  # spread_k of the kernel, of the prefill but one, layers
    for row in wanted:
        layer = f", layer {row['layer']}" if isinstance(row["layer"], int) else ""
        lines = by_title[f"{row['kernel']}, spread_k = {row['spread_k']}{layer}: paged against paged@1"]
        assert lines[1] == shown(row)
        assert lines[3].startswith(f"n = {row['n']} pairs")
    for row in summary["end_to_end"]:
        if row["arm"] == "paged" and row["median_ms"] is not None:
            split = "1 segment" if row["spread_k"] == 1 else f"{row['spread_k']} segments"
            low, high = row["ci95_ms"]
            median = f"median {row['median_ms']:.3f} ms [{low:.3f}, {high:.3f}]"
            assert by_title[f"prefill, {split}"][1] == median
    kernels = [r for r in summary["kernels"] if (r["layer"], r["data"]) == ("mean", "captured")]
    for row in kernels:
        title = f"{row['kernel']} ({row['provider']}), {row['arm']}, spread_k = {row['spread_k']}"
        drawn = row["median_us"] is not None and row["arm"] != "compact" and row["stage"] == "kernel"
        assert (title in by_title) == drawn
        if drawn:
            assert by_title[title][1].startswith(f"median {row['median_us'] / 1000:.4f} ms [")
    for row in summary["attribution"]["measured"]:
        name = row["component"].replace("_", " ")
        lines = by_title[f"{name}: {row['treatment']} minus {row['baseline']}"]
        assert lines[1].startswith(f"measured {row['ms']:+.3f} ms [")
        assert f"n = {row['n']} pairs" in lines
    for part in summary["attribution"]["components"]:
        if part["ms"]:
            arm = f"paged {part['spread_k']}" if part["arm"] == "paged" else part["arm"].replace("_", " ")
            assert by_title[f"{arm}: {part['category']}"][1].startswith(f"{part['ms']:.3f} ms")


def test_tables_on_the_page_have_the_summary_s_numbers(
    browser: Any, pages: dict[str, tuple[Path, Row]]
) -> None:
    path, summary = pages["gpu"]
    with opened(browser, path) as tab:
        assert tab.locator(".sentence").inner_text() == summary["attribution"]["sentence"]
        tab.locator("#breakdown details summary").first.click()
        text = tab.locator("#breakdown table").first.inner_text()
        for row in summary["attribution"]["measured"]:
            assert f"{row['ms']:+.3f} [{row['ci95_ms'][0]:+.3f}, {row['ci95_ms'][1]:+.3f}]" in text
        overview = tab.locator("#kernels table").first.inner_text()
        for row in summary["contrasts"]:
            if (row["layer"], row["treatment"], row["baseline"]) == ("mean", "paged", "paged@1"):
                assert f"{row['delta_pct']:+.2f}% [{row['ci95_pct'][0]:+.2f}" in overview
                assert row["verdict"] in overview


def test_the_pointer_reaches_every_mark_also_where_they_crowd(
    browser: Any, pages: dict[str, tuple[Path, Row]]
) -> None:
    with opened(browser, pages["cpu"][0]) as tab:
        marks = tab.locator("#spread .mark")
        assert marks.count() > 20
        for n in range(marks.count()):
            halo = marks.nth(n).locator(".halo")
            halo.scroll_into_view_if_needed()
            box = halo.bounding_box()
            tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
            shown = tab.locator("#tip").inner_text().splitlines()[0]
            assert shown == marks.nth(n).get_attribute("data-tip").splitlines()[0]


def test_a_tip_stays_on_a_phone_s_screen_and_goes_with_escape(
    browser: Any, pages: dict[str, tuple[Path, Row]]
) -> None:
    with opened(browser, pages["gpu"][0], 375) as tab:
        tab.locator("#spread .mark").first.focus()
        tip = tab.locator("#tip")
        assert tip.is_visible()
        assert "n = 60 pairs" in tip.inner_text()
        assert tip.locator("circle").count() == 60
        box = tip.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 375
        tab.keyboard.press("Escape")
        assert not tip.is_visible()


def test_each_figure_is_one_stop_of_the_tab_key(browser: Any, pages: dict[str, tuple[Path, Row]]) -> None:
    with opened(browser, pages["cpu"][0]) as tab:
        drawings = tab.locator("svg[role=group]").count()
        assert tab.locator(".mark[tabindex='0']").count() == drawings
        tab.locator("svg[role=group] .mark").first.focus()
        tab.keyboard.press("ArrowRight")
        assert tab.locator(".mark[tabindex='0']").count() == drawings


def test_paper_shows_what_was_folded_away(browser: Any, pages: dict[str, tuple[Path, Row]]) -> None:
    with opened(browser, pages["cpu"][0], color_scheme="dark") as tab:
        assert tab.pdf(format="A4").startswith(b"%PDF")
        assert tab.locator("details:not([open])").count() == tab.locator(".block-table details").count()
        tab.emulate_media(media="print")
        assert not tab.locator("nav").is_visible()
        assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
