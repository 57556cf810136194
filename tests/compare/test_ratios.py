"""Runs side by side: known ratios, cells that one run lacks, and the exit status that CI looks at."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from harness.analysis import stats
from harness.compare import view as report
from harness.compare.gate import Limit
from harness.compare.ratios import Run, compare, differences, judge
from harness.runs.record import Result
from harness.runs.schema import Model
from tests import made_up
from tests.browser import opened, started
from tests.made_up import builder, comparison, prefill
from tests.made_up.builder import DATA, write_run

ROOT = Path(__file__).resolve().parents[2]


def cell(arm: str = "paged", k: int = 4, layer: int | None = 0, **more: Any) -> Result:
    kernel = "prefill" if layer is None else "a_kernel"
    stage = "end_to_end" if layer is None else "kernel"
    samples = more.pop("samples_us", [100.0 + n % 3 for n in range(20)])
    provider, of = more.pop("provider", "vLLM 1"), {"spread_k": k, "layer": layer, "samples_us": samples}
    return builder.result(stage, kernel, provider, arm, **of, **more)


def run(label: str, results: list[Result], **record: Any) -> Run:
    return Run.of(label, f"runs/{label}", builder.run_record(prefill.record() | record), results)


@settings(max_examples=40)
@given(st.floats(0.2, 5.0), st.integers(6, 60), st.integers(6, 60), st.integers(0, 99))
def test_a_known_ratio_is_found(factor: float, n: int, m: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    base, other = 100 + rng.random(n), factor * (100 + rng.random(m))
    (row,) = compare(
        [run("A", [cell(samples_us=list(base))]), run("B", [cell(samples_us=list(other))])]
    ).ratios
    assert row.ratio == pytest.approx(factor, rel=0.01)
    assert row.ratio == pytest.approx(np.median(other) / np.median(base))
    assert row.ci95 is not None
    assert factor * 0.99 <= row.ci95[0] <= row.ratio <= row.ci95[1] <= factor * 1.01
    assert row.n == (n, m)


def test_the_interval_is_that_of_scipy_s_bootstrap() -> None:
    rng = np.random.default_rng(1)
    one, two = rng.lognormal(0, 0.1, 80), rng.lognormal(0.05, 0.1, 50)

    def ratio(x: Any, y: Any, axis: int) -> Any:
        return np.median(y, axis=axis) / np.median(x, axis=axis)

    theirs = scipy_stats.bootstrap((one, two), ratio, method="percentile", rng=0).confidence_interval
    assert stats.ratio_interval(two, one) == pytest.approx((theirs.low, theirs.high), rel=0.005)


@pytest.mark.parametrize("n", [(6, 6), (7, 40), (10, 10)])
def test_a_ratio_s_interval_covers_the_true_one(n: tuple[int, int]) -> None:
    rng = np.random.default_rng(22)
    runs, covered = 300, 0
    for _ in range(runs):
        first, other = (100 + rng.exponential(3, size) for size in n)
        low, high = stats.ratio_interval(other, first) or (9, 9)
        covered += bool(low <= 1 <= high)
    assert covered / runs > 0.95 - 3 * np.sqrt(0.95 * 0.05 / runs)


def test_of_two_samples_of_one_distribution_few_intervals_miss_one() -> None:
    rng = np.random.default_rng(0)
    missed = 0
    for _ in range(200):
        one, two = rng.lognormal(0, 0.05, (2, 25))
        low, high = stats.ratio_interval(two, one) or (0, 0)
        missed += not low <= 1 <= high
    assert missed <= 16  # 5% of 200, and three standard deviations


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        (None, "unclear"),
        ((0.995, 1.005), "same"),
        ((1.002, 1.018), "same"),
        ((1.005, 1.03), "unclear"),
        ((1.021, 1.03), "slower"),
        ((0.9, 0.979), "faster"),
        ((0.9, 1.1), "unclear"),
    ],
)
def test_a_verdict_needs_the_whole_interval(interval: tuple[float, float] | None, expected: str) -> None:
    assert judge(interval).verdict == expected


def test_few_samples_have_a_ratio_but_no_interval() -> None:
    few = [cell(samples_us=[100.0, 101.0, 102.0])]
    (row,) = compare([run("A", few), run("B", few)]).ratios
    assert (row.ratio, row.ci95, row.verdict) == (1.0, None, "unclear")
    assert Limit("slower", 0).violations(compare([run("A", few), run("B", few)])) == []


def test_only_layers_that_both_have_are_averaged() -> None:
    slow_layer = cell(layer=1, samples_us=[900.0] * 10)
    found = compare([run("A", [cell(), slow_layer]), run("B", [cell()])])
    (row,) = found.ratios
    assert (row.ratio, row.layers) == (1.0, 1)
    other = compare([run("A", [cell(layer=0)]), run("B", [cell(layer=1)])])
    assert other.ratios == []
    assert [row.reason for row in other.lone] == ["measured on other layers"]


def test_versions_do_not_keep_cells_apart_and_are_named() -> None:
    found = compare([run("A", [cell()]), run("B", [cell(provider="vLLM 2")])])
    assert [row.cell["provider"] for row in found.ratios] == ["vLLM 1, vLLM 2"]


def test_vllm_s_own_blocks_match_whatever_their_spread_k() -> None:
    found = compare([run("A", [cell("engine", 250, None)]), run("B", [cell("engine", 3, None)])])
    assert len(found.ratios) == 1
    chosen = compare([run("A", [cell("paged", 250, None)]), run("B", [cell("paged", 3, None)])])
    assert len(chosen.lone) == 2


def test_baselines_inside_a_series_and_probes_are_no_cells() -> None:
    extra = [cell(k=1, control=True), cell(k=1, one_segment_for=4), cell("spin", 1, None)]
    found = compare([run("A", [cell(), *extra]), run("B", [cell(), *extra])])
    assert [row.cell["spread_k"] for row in found.ratios] == [4]


def test_of_a_cell_measured_twice_the_later_counts() -> None:
    again = [cell(samples_us=[1.0] * 10), cell(samples_us=[200.0] * 10)]
    (row,) = compare([run("A", [cell(samples_us=[100.0] * 10)]), run("B", again)]).ratios
    assert row.ratio == 2.0


def test_all_later_runs_are_held_against_the_first() -> None:
    runs = [run(label, [cell(samples_us=[us] * 10)]) for label, us in (("A", 10.0), ("B", 20.0), ("C", 5.0))]
    assert [(row.other, row.ratio) for row in compare(runs).ratios] == [("B", 2.0), ("C", 0.5)]
    with pytest.raises(ValueError, match="two runs"):
        compare(runs[:1])


def test_what_differs_is_named_but_where_a_run_is_stored() -> None:
    one = {
        "device": {"name": "X", "kind": "cpu"},
        "config": {"length": 1, "seed": 0, "output_dir": "a"},
        "versions": {"vllm": "1"},
    }
    two = {"config": {"length": 2, "seed": 1, "output_dir": "b"}, "versions": {"vllm": "1", "torch": None}}
    found = [(fact.name, fact.values) for fact in differences([*map(builder.run_record, (one, two))])]
    assert found == [("config.length", (1, 2)), ("config.seed", (0, 1)), ("device.name", ("X", "abacus"))]


def test_engine_options_of_vllm_s_are_differences_by_their_own_names():
    both: list[dict[str, str]] = [{}, {"kv_cache_dtype": "fp8"}]
    (found,) = differences([builder.run_record({"config": {"engine_options": each}}) for each in both])
    assert (found.name, found.values) == ("config.engine_options.kv_cache_dtype", (None, "fp8"))


def of_experiment(name: str, factor: float = 1.0) -> Run:
    """A made-up run of a companion experiment in which everything takes `factor` times as long."""
    record, results = made_up.RUNS[name].both()
    slower = [replace(r, samples_us=[factor * us for us in r.samples_us]) for r in results]
    return Run.of(
        "A" if factor == 1 else "B",
        f"runs/{factor:g}",
        builder.run_record(record | {"started": "now"}),
        slower,
    )


@pytest.mark.parametrize(
    ("name", "cells"),
    [("kernels", 22), ("cache", 11), ("backends", 39), ("kvcache", 3), ("transfer", 20), ("workload", 4)],
)
def test_runs_of_another_experiment_are_matched_on_their_axes(name: str, cells: int) -> None:
    found = compare([of_experiment(name), of_experiment(name, 1.25)])
    assert [row.ratio for row in found.ratios] == pytest.approx([1.25] * cells)
    assert {row.verdict for row in found.ratios} == {"slower"}
    assert found.lone == []
    text = report.screen(found)
    assert max(map(len, text.splitlines())) <= 80
    names = [(report.heading(row.cell, row.cell["provider"]), report.label(row.cell)) for row in found.ratios]
    assert len(set(names)) == cells, "every cell has a name of its own"


def test_runs_that_cannot_be_compared_are_refused_in_a_line() -> None:
    with pytest.raises(ValueError, match=r"^runs/1: a run of kernels, not of cache$"):
        compare([of_experiment("cache"), of_experiment("kernels")])
    with pytest.raises(ValueError, match=r"^runs/1: a run of memory has no times to compare; "):
        compare([of_experiment("memory"), of_experiment("memory")])


@pytest.mark.parametrize("text", ["slower", "slower:2", "slower:-2%", "same:1%", "slower:2%%", ""])
def test_a_limit_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="slower:2%"):
        Limit.parse(text)


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys; from harness.__main__ import main; status = main(sys.argv[1:]); "
        "assert not {'torch', 'vllm'} & set(sys.modules); sys.exit(status)"
    )
    words = [sys.executable, "-c", code, "compare", *map(str, arguments)]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The made runs on disk."""
    folder = tmp_path_factory.mktemp("runs")
    shutil.copytree(DATA / "run", folder / "old")
    write_run(folder / "new", *prefill.other_run())
    return folder / "old", folder / "new"


def test_the_exit_status_is_one_beyond_the_limit_only(folders: tuple[Path, Path], tmp_path: Path) -> None:
    done = command(*folders, "--output", tmp_path / "out", "--fail-on", "slower:2%")
    assert done.returncode == 1
    assert "Certainly slower by more than 2%" in done.stdout
    html = (tmp_path / "out" / "compare.html").read_text(encoding="utf-8")
    assert "Certainly slower by more than 2%" in html
    with (tmp_path / "out" / "compare.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    found = comparison()
    assert len(rows) == len(found.ratios) + len(found.lone)
    assert [row["arm"] for row in rows if row["measured_in"] == str(folders[1])] == ["paged"]
    assert command(*folders, "--fail-on", "slower:6%").returncode == 1, (
        "cells of the old run failed in the new"
    )
    assert command(folders[1], folders[1], "--fail-on", "slower:0%").returncode == 0
    assert command(*folders, "--fail-on", "faster:9%").returncode == 1


def test_bad_input_is_one_line_and_status_two(folders: tuple[Path, Path], tmp_path: Path) -> None:
    empty = write_run(tmp_path / "empty", prefill.record())
    for arguments, message in (
        ([folders[0]], "name two runs or more"),
        ([folders[0], tmp_path], "holds no run.json"),
        ([*folders, "--fail-on", "slow"], "--fail-on slow: must be like slower:2%"),
        ([folders[0], empty.path, "--fail-on", "slower:2%"], "no cell was measured in both"),
        ([*folders, "--output", folders[0] / "run.json"], "not a directory; choose another"),
    ):
        done = command(*arguments)
        assert done.returncode == 2, arguments
        assert len(done.stderr.splitlines()) == 1
        assert message in done.stderr


def test_the_page_escapes_and_says_the_same_in_a_browser(tmp_path: Path) -> None:
    old, new = comparison().runs
    evil = replace(
        new, record=new.record.model_copy(update={"model": Model(name="<script>alert(1)</script>")})
    )
    found = compare([old, evil])
    report.write(found, tmp_path)
    with started() as browser, opened(browser, tmp_path / "compare.html", 375) as tab:
        assert tab.evaluate("document.documentElement.scrollWidth") <= 375
        assert tab.locator("script").count() == 1
        text = tab.locator("main").inner_text()
        assert "<script>alert(1)</script>" in text
        for row in found.ratios:
            assert report.interval(row) in text
        assert tab.locator(".mark").count() == len(found.ratios)
        assert "compare runs/old runs/new --output DIR" in tab.locator("pre").last.inner_text()
        tab.locator(".mark").first.focus()
        assert "n = 12" in tab.locator("#tip").inner_text()
