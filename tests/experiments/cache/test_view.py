"""What is made of a run of `cache`: texts as they were, figures, and every point in the plot."""

from __future__ import annotations

import csv
import io

import pytest

from harness.experiments.cache import view as cache
from harness.report.tables import WIDTH
from tests.cache_run import DATA, SHARES, markdown, record, results, screen


@pytest.fixture(scope="module")
def summary():
    return cache.summarise(record(), results())


def test_the_tables_read_as_they_did():
    assert screen() == (DATA / "cache.txt").read_text(encoding="utf-8")
    assert markdown() == (DATA / "cache.md").read_text(encoding="utf-8")


def test_the_screen_s_tables_fit_it():
    assert max(map(len, screen().splitlines())) <= WIDTH


def test_a_cell_for_every_arm_and_two_contrasts_where_both_were_measured(summary):
    cells = {(row["batch_size"], row["share_pct"], row["arm"]) for row in summary["cells"]}
    assert cells == {(n, share, arm) for n in (1, 4) for share in SHARES for arm in ("reset", "warm")}
    names = [(row["contrast"], row["batch_size"], row["share_pct"]) for row in summary["contrasts"]]
    assert sorted(names) == sorted(
        {(name, n, share) for name in ("A/A", "warm") for n in (1, 4) for share in SHARES}
        - {("warm", 4, 100)}
    )


def test_the_reset_s_cost_is_that_of_the_resets_ahead_of_the_timed_prompts(summary):
    assert summary["reset"]["median_us"] == pytest.approx(180, rel=0.01)
    assert summary["reset"]["n"] == 2 * 2 * len(SHARES) * 12


def test_a_batch_of_half_cached_prompts_is_that_much_faster(summary):
    row = next(
        row
        for row in summary["contrasts"]
        if (row["contrast"], row["batch_size"], row["share_pct"]) == ("warm", 4, 50)
    )
    assert row["delta_pct"] == pytest.approx(-100 * 20 * 1024 / (3000 + 20 * 2048), abs=0.5)
    assert row["verdict"] == "faster"


def test_csv_has_a_row_a_cell_with_its_status(summary):
    rows = list(csv.DictReader(io.StringIO(cache.document(record(), summary).csv())))
    assert len(rows) == len(summary["cells"])
    assert [row["status"] for row in rows].count("out_of_memory") == 1


def test_the_plot_has_a_line_an_arm_and_names_what_is_missing(summary, tmp_path):
    left, right = cache.draw(record(), summary).axes
    names = {str(line.get_label()): line.get_linestyle() for line in left.get_lines()}
    assert names == {
        "one prompt, reset": "-",
        "one prompt, warm": "--",
        "batch of 4, reset": "-",
        "batch of 4, warm, out_of_memory": "--",
    }
    assert len(right.get_legend_handles_labels()[1]) == 3
    cache.plots(record(), summary, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"cache.png", "cache.svg"}


@pytest.mark.parametrize("kept", [[], results()[:1]])
def test_a_run_that_hardly_began_has_a_report(kept, tmp_path):
    begun = {key: value for key, value in record().items() if key not in ("outputs", "engine")}
    summary = cache.summarise(begun, kept)
    document = cache.document(begun, summary)
    assert document.screen_summary()
    assert document.markdown()
    cache.plots(begun, summary, tmp_path)
