"""The Python API: frames of a run that is stored, and the main job in three lines."""

from __future__ import annotations

import doctest
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import harness
from harness import api, models
from harness.config import ConfigError
from harness.experiments import EXPERIMENTS, starting, views
from harness.running.recorder import recording
from harness.runs.store import RunDirectory
from tests import toy_experiment
from tests.made_up import RUNS, cache, prefill
from tests.made_up.builder import DATA, write_run

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def run(tmp_path: Path) -> harness.Run:
    shutil.copytree(DATA / "run", tmp_path / "run")
    return harness.open(tmp_path / "run")


def test_frames_have_every_row_of_the_summary(run: harness.Run) -> None:
    views.write(RunDirectory.open(run.path))
    summary = json.loads((run.path / "summary.json").read_text(encoding="utf-8"))
    opened = harness.open(str(run.path))
    for each in (run, opened):
        for name in ("kernels", "contrasts", "end_to_end"):
            frame = getattr(each, name)
            assert len(frame) == len(summary[name])
            stored = list(summary[name][0])
            assert list(frame.columns)[: len(stored)] == stored
            more = [f"ci95_{end}_{unit}" for unit in ("us", "pct") for end in ("low", "high")]
            assert list(frame.columns)[len(stored) :] == (more if name == "contrasts" else [])
        assert each.sentence == summary["attribution"]["sentence"]
    row = next(r for r in summary["attribution"]["residual"] if r["component"] == "paging")
    assert run.attribution.loc["paging", "residual_ms"] == pytest.approx(row["ms"])
    assert list(run.attribution.index) == [r["component"] for r in summary["attribution"]["measured"]]


def test_samples_are_those_on_disk(run: harness.Run) -> None:
    results = RunDirectory.open(run.path).results()
    assert len(run.samples) == sum(len(r.samples_us) for r in results)
    assert run.samples.us.sum() == pytest.approx(sum(sum(r.samples_us) for r in results))


def test_a_run_without_figures_has_empty_frames(tmp_path: Path) -> None:
    run = harness.open(write_run(tmp_path / "run", prefill.record() | {"status": "running"}).path)
    frames = (run.kernels, run.contrasts, run.end_to_end, run.attribution, run.samples)
    assert all(frame.empty for frame in frames)
    assert (run.status, run.sentence) == ("running", None)
    with pytest.raises(FileNotFoundError, match="holds no run"):
        harness.open(tmp_path)


@pytest.mark.parametrize(
    ("name", "lists"),
    [
        ("kernels", ["cells", "contrasts"]),
        ("cache", ["cells", "contrasts"]),
        ("memory", ["cells", "waste"]),
        ("backends", ["cells", "winners", "engines_again", "compute_bound", "exponents", "contrasts"]),
        ("kvcache", ["modes", "speed_ups", "steps"]),
        ("advise", ["cells", "contrasts", "candidates", "break_even"]),
        ("workload", ["arms", "contrasts", "kinds", "layout", "steps"]),
    ],
)
def test_an_experiment_s_frames_are_its_summary_s_lists(name: str, lists: list[str], tmp_path: Path) -> None:
    directory = write_run(tmp_path, *RUNS[name].both())
    unread = harness.open(tmp_path)  # without a summary.json yet
    views.write(directory)
    summary = json.loads(directory.summary_path.read_text(encoding="utf-8"))
    for run in (unread, harness.open(tmp_path)):
        assert (run.experiment, list(run.lists)) == (name, lists)
        for rows in lists:
            frame = run.frame(rows)
            assert list(frame.columns) == list(pd.DataFrame(summary[rows]).columns)
            assert len(frame) == len(summary[rows])
        assert (run.sentence, run.attribution.empty) == (None, True)
        with pytest.raises(ValueError, match=f"^end_to_end: .* has no such list; it has {', '.join(lists)}$"):
            run.end_to_end  # noqa: B018
    points = {axis for result in RUNS[name].results() for axis, _ in result.cell.point if result.samples_us}
    assert points <= set(run.samples.columns)


def test_what_is_no_run_is_one_error_that_names_it(tmp_path: Path) -> None:
    directory = write_run(tmp_path, {"experiment": "poetry"})
    with pytest.raises(ValueError, match=f"^{tmp_path}: a run of poetry: this version knows prefill"):
        harness.open(tmp_path)
    directory = write_run(tmp_path, cache.record())
    directory.samples_path.write_text("{}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"samples\.jsonl, line 1: not a result"):
        harness.open(tmp_path)
    directory.record_path.write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=f"^{directory.record_path}: damaged"):
        harness.open(tmp_path)


def test_the_examples_in_docstrings_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = doctest.testmod(api, optionflags=doctest.ELLIPSIS)
    assert found.failed == 0
    assert found.attempted > 22


def test_importing_harness_imports_nothing_heavy() -> None:
    code = (
        "import sys, harness; assert 'prefill' in dir(harness); "
        "heavy = {'numpy', 'pandas', 'torch', 'vllm', 'pydantic', 'matplotlib'} & set(sys.modules); "
        "assert not heavy, heavy; harness.open; assert not {'torch', 'vllm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_bad_options_are_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="lenght: unknown option; the nearest is length"):
        harness.prefill(lenght=5)
    with pytest.raises(ConfigError, match="--length 0: must be at least 1"):
        harness.prefill(length=0)
    with pytest.raises(ConfigError, match="examples"):
        harness.prefill(config_file=tmp_path / "none.yaml")
    with pytest.raises(AttributeError, match="no attribute 'decode'"):
        harness.decode  # noqa: B018


class TestRun:
    """Any experiment from Python; the toy's, as an experiment that was added is run like the others."""

    @pytest.fixture(autouse=True)
    def _toy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(EXPERIMENTS, "toy", toy_experiment.EXPERIMENT)

    def test_it_returns_its_run(self, tmp_path: Path) -> None:
        run = harness.run("toy", sizes=[5, 7], repeats=8, output_dir=tmp_path, quiet=True)
        assert (run.status, run.experiment, run.path) == ("finished", "toy", tmp_path)
        assert list(run.cells["size"]) == [5, 7]
        with pytest.raises(harness.ConfigError, match="already holds a run"):
            harness.run("toy", output_dir=tmp_path)

    def test_the_model_is_looked_up_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        source = models.inspect("gpt2", length=8)
        found: list[object] = []
        ran: list[object] = []

        def find_model(config: Any) -> models.ModelSource:
            found.append(config)
            return source

        with_model = replace(toy_experiment.EXPERIMENT, find_model=find_model)
        monkeypatch.setitem(EXPERIMENTS, "toy", with_model)
        monkeypatch.setattr(toy_experiment, "run", lambda config, source: ran.append(source))
        starting.run("toy", {"output_dir": tmp_path})
        assert (len(found), ran) == (1, [source])

    def test_ctrl_c_is_raised_once_the_directory_is_complete(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def stop(config: Any, recorder: Any) -> None:
            toy_experiment.job(config, recorder)
            raise KeyboardInterrupt

        monkeypatch.setattr(toy_experiment, "run", lambda c, _: recording(c, "it", stop, views.write))
        with pytest.raises(harness.Interrupted):
            harness.run("toy", sizes=[5], repeats=8, output_dir=tmp_path, quiet=True)
        assert (harness.open(tmp_path).status, len(harness.open(tmp_path).cells)) == ("interrupted", 1)

    def test_a_run_without_a_figure_fails(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def idle(*_: Any) -> None:
            pass

        monkeypatch.setattr(toy_experiment, "run", lambda c, _: recording(c, "it", idle, views.write))
        with pytest.raises(harness.RunFailed, match="no cell produced a measurement"):
            harness.run("toy", output_dir=tmp_path, quiet=True)
        assert harness.open(tmp_path).status == "failed"

    def test_an_experiment_that_there_is_none_of_is_refused(self) -> None:
        with pytest.raises(
            harness.ConfigError, match="poetry: no such experiment; choose from prefill, kernels"
        ):
            harness.run("poetry")


def test_runs_are_compared_as_frames(tmp_path: Path) -> None:
    elsewhere = prefill.record() | {"device": {"name": "another", "kind": "cpu"}}
    write_run(tmp_path, elsewhere, [r for r in prefill.results() if r.cell.spread_k != 8])
    compared = harness.compare_runs(DATA / "run", tmp_path)
    assert set(compared.ratios.verdict) == {"same"}
    assert set(compared.lone.spread_k) == {8}
    assert list(compared.differences.columns) == ["name", "A", "B"]
    assert "device.name" in set(compared.differences.name)


@pytest.mark.engine
def test_the_main_job_in_three_lines(tiny_gpt2: Path, tmp_path: Path) -> None:
    """As in a notebook, and on a compiled engine; what is left has every view."""
    small: dict[str, Any] = {"length": 100, "block_size": 32, "repeats": 6, "layers": "sample"}
    run = harness.prefill(model=str(tiny_gpt2), spread_k=[1, 2], output_dir=str(tmp_path / "run"), **small)
    assert run.status == "finished"
    assert set(run.kernels.spread_k) == {1, 2}
    assert run.sentence
    assert len(harness.open(tmp_path / "run").kernels) == len(run.kernels)
    html = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert run.record.command is None
    assert "command: none, started from Python" in (run.path / "tables.md").read_text(encoding="utf-8")
    assert "As it was typed" not in html
    assert "--length 100" in html
    assert html.count('class="segments"') == 3  # two layouts, and vLLM's own blocks
    assert run.record.engine.enforce_eager is False
    blocks = run.record.block_ids
    assert set(blocks) == {"1", "2", "engine"}
