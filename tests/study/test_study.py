"""The study: runs packed, points over processes, a page that claims what was found and bounds the rest."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest

from chores import pack
from harness.analysis import stats
from harness.analysis.effects import Effect, Group
from harness.experiments.kernels import options as kernels_options
from harness.experiments.prefill.summary import summarise
from harness.experiments.starting import check
from study import answers, figures, kernels, page, points
from tests.made_up import builder, variants
from tests.made_up.study import PLANS, SEEDS, kernels_run, prefill_run, write_all

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete study, packed and written."""
    folder = tmp_path_factory.mktemp("study")
    write_all(folder / "sweeps")
    for sweep in (folder / "sweeps").iterdir():
        pack.pack(sweep, folder / "runs")
    page.write(points.read(folder / "runs", PLANS), folder)
    return folder


@pytest.fixture(scope="module")
def text(study: Path) -> str:
    return (study / "README.md").read_text()


def section(text: str, heading: str) -> str:
    return text.partition(f"## {heading}")[2].partition("\n## ")[0]


def data_of(folder: Path, tmp_path: Path) -> points.Data:
    pack.pack(folder, tmp_path / "runs")
    return points.read(tmp_path / "runs", PLANS)


def test_what_costs_nothing_is_below_a_bound_and_what_costs_something_has_an_interval(text: str) -> None:
    layout = section(text, "What does fragmentation")
    assert len(re.findall(r"no measurable effect.* below 0\.\d\d% \(95%\)", layout)) == 4
    assert len(re.findall(r"On average over these: [-+0].*below 0\.\d\d% \(95%\)", layout)) == 3
    table = section(text, "What does the block table")
    assert re.search(r"FA3, blocks of 16: \+(10\.0|9\.9)% \[.*gpt2 at 4096.*llama-3-8b at 16384", table)
    assert re.search(r"FA3, blocks of 128: \+1\.2", table)
    assert "Whole prefills, host-bound: no measurable effect" in table
    write = section(text, "What does the cache write")
    assert re.search(r"host-bound: \+4\.[789]\d% .*gpt2", write)
    assert re.search(r"GPU-bound: \+(1\.0|0\.9)\d% ", write)
    assert re.search(r"CUDA graphs: PIECEWISE: \+[45]\.\d+% .*gpt2", write)
    assert re.search(r"128.* rather than 16.*-(8\.0|7\.9)", section(text, "What should a user set"))
    assert re.search(r"rather than 2.*-54\.", section(text, "What should a user set"))
    assert re.search(r"All: (1\.0|0\.9)\d \[.*10 processes", section(text, "Measured against"))


def test_the_page_is_short_and_its_figures_are_there(study: Path, text: str) -> None:
    assert len(text.splitlines()) <= 300
    assert "## Missing" not in text
    shown = re.findall(r"\(figures/(\S+\.png)\)", text)
    assert sorted(shown) == ["block-table.png", "cache-write.png", "fragmentation.png"]
    for name in shown:
        assert matplotlib.image.imread(study / "figures" / name)[..., :3].std() > 0.05


def test_the_csv_has_every_figure_of_every_point(study: Path) -> None:
    lines = (study / "points.csv").read_text().splitlines()
    start = "prefill,gpt2,4096,3,16,shuffled,"
    row = next(line for line in lines if line.startswith(start) and ",total," in line)
    cells = dict(zip(lines[0].split(","), row.split(","), strict=True))
    assert cells["processes"] == "5"
    assert float(cells["ci95_low_mean"]) < float(cells["mean"]) < float(cells["ci95_high_mean"])


def test_a_cost_of_splitting_is_claimed(tmp_path: Path) -> None:
    for seed in SEEDS:
        prefill_run(tmp_path / "all" / f"p{seed}", seed=seed, parts_pct=(3.0, 2.0, 1.0))
        kernels_run(tmp_path / "all" / f"k{seed}", seed=seed, split_pct=2.0)
    text = page.render(data_of(tmp_path / "all", tmp_path), [])
    layout = section(text, "What does fragmentation")
    assert re.search(r"Whole prefills, side by side: \+2\.[89]\d% \[", layout)
    assert re.search(r"Attention calls, side by side: \+\d\.\d\d% \[", layout)
    assert "Whole prefills, scattered: not measured yet" in layout
    assert "Keeping a prompt's blocks together gives less than" in text
    assert "an attention call of gpt2 at 4096, FA3, blocks of 128" in section(text, "Missing")


def test_without_any_run_the_page_lists_what_is_missing(tmp_path: Path) -> None:
    text = page.render(points.read(tmp_path, PLANS), [])
    assert "18 planned points lack their 5 processes" in text
    assert not re.search(
        r"\d%", text.partition("## What does fragmentation")[2].replace("(95%)", "").partition("5%")[0]
    )


def test_fewer_than_five_processes_are_not_quoted(tmp_path: Path) -> None:
    for seed in range(4):
        prefill_run(tmp_path / "all" / f"{seed}", seed=seed)
    data = data_of(tmp_path / "all", tmp_path)
    assert data.points[0].mean("paging") is None
    assert "a prefill of gpt2 at 4096, FA3, blocks of 16" in page.render(data, [])


def test_a_run_under_graphs_that_cover_the_step_has_its_own_line(tmp_path: Path) -> None:
    for seed in SEEDS:
        prefill_run(tmp_path / "all" / f"{seed}", seed=seed, config={"cudagraph_mode": "PIECEWISE"})
    text = page.render(data_of(tmp_path / "all", tmp_path), [])
    assert re.search(
        r"prefills, CUDA graphs: PIECEWISE: \+\d\.\d\d% \[.*gpt2 at 4096, .*CUDA graphs: PIECEWISE",
        section(text, "What does the cache"),
    )


def test_engines_under_graphs_beside_the_main_one_are_points_of_their_own() -> None:
    results = [
        replace(result, cell=replace(result.cell, variant="cudagraph_mode=FULL"))
        for result in variants.results()
        if result.cell.variant == "block_size=64"
    ]
    summary = summarise(builder.run_record(variants.record()), variants.results() + results)
    found = figures.of_graphs(summary)
    assert found["FULL"] == pytest.approx({"engine ms": 6.44, "paging": -2.1, "cache_write": 6.8}, abs=0.1)
    assert list(found) == ["FULL"]


def test_of_two_points_of_one_name_the_one_with_more_processes_is_quoted(tmp_path: Path) -> None:
    for seed in range(6):
        prefill_run(tmp_path / "all" / f"{seed}", seed=seed)
        prefill_run(tmp_path / "all" / f"more{seed}", seed=seed, config={"max_seconds": 9}) if seed else None
    data = data_of(tmp_path / "all", tmp_path)
    assert sorted(len(point.processes) for point in data.points if point.key.kind == "prefill") == [5, 6]
    assert [len(point.processes) for point in data.quoted if point.key.kind == "prefill"] == [6]


def test_what_the_replay_predicts_too_low_is_a_slope_above_one(tmp_path: Path) -> None:
    for seed in SEEDS:
        prefill_run(tmp_path / "all" / f"{seed}", seed=seed, predicted=0.75)
    found = answers.agreement(data_of(tmp_path / "all", tmp_path).points)
    assert (found.prefills, found.verdict) == (5, "missed")
    assert found.interval[0] < 4 / 3 < found.interval[1]


def test_a_pack_is_what_was_measured_and_the_same_again(tmp_path: Path) -> None:
    run = kernels_run(tmp_path / "sweep" / "one", seed=3)
    first = pack.pack(tmp_path / "sweep", tmp_path / "a").read_bytes()
    second = pack.pack(tmp_path / "sweep", tmp_path / "b")
    assert first == second.read_bytes()
    ((record, results),) = pack.read(second)
    assert (record, results) == (run.record(), run.results())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"versions": {"commit": "0123-dirty"}}, "measured on commit 0123-dirty; measure again on a clean"),
        ({"versions": {}}, "commit unknown"),
        ({"status": "interrupted"}, "its status is interrupted; finish it"),
    ],
)
def test_what_may_not_be_published_is_refused_in_one_line(
    change: dict[str, Any], told: str, tmp_path: Path
) -> None:
    builder.change(kernels_run(tmp_path / "sweep" / "one"), **change)
    command = [
        sys.executable,
        "-m",
        "chores.pack",
        str(tmp_path / "sweep"),
        "--output",
        str(tmp_path / "runs"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert told in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_directory_without_a_run_and_a_run_that_is_too_large_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(pack.PackError, match=r"holds no run\.json"):
        pack.pack(tmp_path, tmp_path)
    kernels_run(tmp_path / "sweep" / "one")
    monkeypatch.setattr(pack, "LARGEST_BYTES", 100)
    with pytest.raises(pack.PackError, match="100 allowed; measure for fewer seconds"):
        pack.pack(tmp_path / "sweep", tmp_path / "runs")


def test_one_seed_twice_is_an_error_and_not_a_sixth_process(tmp_path: Path) -> None:
    for name in ("a", "b"):
        kernels_run(tmp_path / name / "one", seed=1)
        pack.pack(tmp_path / name, tmp_path / "runs")
    with pytest.raises(ValueError, match=r"b\.tar\.xz: seed 1 of gpt2 at 4096.* is there twice"):
        points.read(tmp_path / "runs", PLANS)


@pytest.mark.parametrize(
    "change", [{"batch_size": 2}, {"seq_len_q": 512}, {"block_size": 8}, {"causal": False}], ids=str
)
def test_a_run_of_another_question_is_not_quoted(change: dict[str, Any], tmp_path: Path) -> None:
    kernels_run(tmp_path / "all" / "0", config=change)
    data = data_of(tmp_path / "all", tmp_path)
    assert data.points == []
    ((why, names),) = data.unused.items()
    assert "another question" in why
    assert names == {"all"}


def test_a_run_with_other_options_is_no_process_of_the_point(tmp_path: Path) -> None:
    for seed in SEEDS:
        kernels_run(tmp_path / "all" / f"{seed}", seed=seed)
    kernels_run(tmp_path / "all" / "longer", seed=0, config={"max_seconds": 60})
    data = data_of(tmp_path / "all", tmp_path)
    assert sorted(len(point.processes) for point in data.points) == [1, 1, 5, 5]


def test_stored_runs_of_a_dirty_commit_are_read_and_not_quoted() -> None:
    data = points.read(ROOT / "docs" / "runs", PLANS)
    dirty = [name for why, names in data.unused.items() if "-dirty" in why for name in names]
    assert {"vllm-0.33-8b-4096-fa3-16", "vllm-0.26-gpt2-4096-fa3-128"} <= set(dirty)


def test_the_page_in_the_repository_is_made_from_its_runs(tmp_path: Path) -> None:
    page.write(points.read(ROOT / "docs" / "runs", PLANS), tmp_path)
    for name in ("README.md", "points.csv"):
        assert (tmp_path / name).read_text() == (ROOT / "docs" / "study" / name).read_text()


def effects(*means: float, error: float = 0.1) -> Group:
    return Group([Effect(str(n), stats.Mean(value, error, 4, 5)) for n, value in enumerate(means)])


def test_effects_are_claimed_together() -> None:
    alone, beside = effects(0.3), effects(0.3, *[0.0] * 9)  # t = 3 with 4 degrees of freedom: p = 0.04
    assert [each.name for each in alone.claimed] == ["0"]
    assert beside.claimed == []
    assert beside.bound == pytest.approx(0.3 + 2.776 * 0.1, abs=1e-3)


def test_a_bound_holds_on_both_sides_of_zero() -> None:
    assert effects(-0.2).bound == pytest.approx(0.2 + 2.776 * 0.1, abs=1e-3)


@pytest.mark.parametrize("call", kernels.CALLS, ids=lambda call: "-".join(map(str, call.values())))
def test_the_calls_can_run(call: dict[str, Any]) -> None:
    config = check("kernels", kernels.options_of(call), "cuda")
    assert isinstance(config, kernels_options.KernelsConfig)
    assert config.spreads() == [config.num_blocks()]
