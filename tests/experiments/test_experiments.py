"""What every experiment gets for free: options, run directory, statuses, resuming, report."""

from __future__ import annotations

import csv
import json
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness import __main__, cli
from harness.config import ConfigError, expects, load
from harness.experiments import EXPERIMENTS, views
from harness.running.recorder import recording
from harness.runs.record import Cell, Result, Status
from harness.runs.store import RunDirectory
from tests import toy_experiment
from tests.made_up import builder
from tests.toy_experiment import EXPERIMENT, ToyConfig


@pytest.fixture(autouse=True)
def _toy(monkeypatch):
    monkeypatch.setitem(EXPERIMENTS, "toy", EXPERIMENT)


def toy(folder: Path, *argv: str) -> int:
    return __main__.main(["toy", "--output-dir", str(folder), "--repeats", "8", "--quiet", *argv])


def run_as(patched: pytest.MonkeyPatch, job: Callable[[ToyConfig, Any], None]) -> None:
    """Have another job done in the toy's place."""

    def run(config: ToyConfig, source: None) -> None:
        recording(config, "a list", job, views.write)

    patched.setattr(toy_experiment, "run", run)


def test_a_run_leaves_the_same_files_as_the_main_job_s(tmp_path, capsys):
    assert toy(tmp_path, "--sizes", "5,7") == 0
    run = RunDirectory.open(tmp_path)
    record = run.record()
    assert (record.experiment, record.status) == ("toy", "finished")
    assert record.config["sizes"] == [5, 7]
    results = run.results()
    assert [result.cell.at("size") for result in results] == [5, 7]
    assert {len(result.samples_us) for result in results} == {8}
    cells = json.loads(run.summary_path.read_text())["cells"]
    assert [(cell["size"], cell["list_bytes"], cell["status"]) for cell in cells] == [
        (5, 40, "ok"),
        (7, 56, "ok"),
    ]
    assert "# Sums, on " in run.tables_path.read_text()
    html = run.page_path.read_text()
    assert all(
        text in html for text in (EXPERIMENT.question, "2 sums were measured.", "How long a sum takes")
    )
    rows = list(csv.DictReader(run.csv_path.open()))
    assert [row["size"] for row in rows] == ["5", "7"]
    assert float(rows[0]["ci95_low_us"]) <= float(rows[0]["median_us"]) <= float(rows[0]["ci95_high_us"])
    assert "<svg" in html
    assert "5 numbers; median" in html
    assert {path.name for path in run.plots_path.iterdir()} == {"toy.pdf", "toy.png", "toy.svg"}
    assert capsys.readouterr().out == "2 sums were measured.\n"


@pytest.fixture
def other_screens(tmp_path, capsys):
    """What a toy run prints with other options of the screen: a function of these."""

    def printed(*options: str) -> str:
        words = ["toy", "--output-dir", str(tmp_path), "--overwrite", "--repeats", "8", *options]
        assert __main__.main(words) == 0
        return capsys.readouterr().out

    return printed


def test_the_screen_is_a_summary_the_answer_alone_or_json(other_screens, tmp_path):
    page = tmp_path.resolve() / "report.html"
    assert other_screens().endswith(f"\n2 sums were measured.\n\nreport: {page}\n")
    assert other_screens("--quiet") == "2 sums were measured.\n"
    stored = json.loads(other_screens("--json"))
    assert stored == json.loads((tmp_path / "summary.json").read_text())


def test_a_report_has_the_same_screens(other_screens, tmp_path, capsys):
    whole = other_screens()
    for options, text in (([], whole), (["--quiet"], "2 sums were measured.\n")):
        assert __main__.main(["report", str(tmp_path), *options]) == 0
        assert capsys.readouterr().out == text
    assert __main__.main(["report", str(tmp_path), "--json"]) == 0
    assert [cell["size"] for cell in json.loads(capsys.readouterr().out)["cells"]] == [10, 100]


def test_two_of_its_runs_compare(tmp_path, capsys):
    for name in "ab":
        toy(tmp_path / name)
    capsys.readouterr()
    assert __main__.main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert "sum (Python)" in capsys.readouterr().out


def test_its_report_is_made_again_from_the_run_directory(tmp_path, capsys):
    toy(tmp_path)
    run = RunDirectory.open(tmp_path)
    before = run.tables_path.read_text()
    run.tables_path.unlink()
    capsys.readouterr()
    assert __main__.main(["report", str(tmp_path)]) == 0
    assert run.tables_path.read_text() == before
    assert capsys.readouterr().out.startswith("How long a sum takes")


def test_a_killed_run_goes_on_and_measures_nothing_twice(tmp_path):
    toy(tmp_path)
    run = RunDirectory.open(tmp_path)
    builder.change(run, status="running")
    samples = run.samples_path.read_bytes()
    assert toy(tmp_path, "--resume") == 0
    assert run.samples_path.read_bytes() == samples
    assert run.record().status == "finished"


@pytest.fixture(params=[signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def number(request):
    """A signal as a shell leaves it; nohup, for one, has SIGHUP ignored."""
    usual = signal.default_int_handler if request.param == signal.SIGINT else signal.SIG_DFL
    before = signal.signal(request.param, usual)
    yield request.param
    signal.signal(request.param, before)


def test_a_signal_ends_a_run_that_keeps_what_it_has_and_goes_on(tmp_path, monkeypatch, capsys, number):
    def ended(config, recorder):
        toy_experiment.job(config, recorder)
        signal.raise_signal(number)

    before = signal.getsignal(number)
    with monkeypatch.context() as patched:
        run_as(patched, ended)
        assert toy(tmp_path) == cli.INTERRUPTED
    assert signal.getsignal(number) is before
    run = RunDirectory.open(tmp_path)
    assert run.record().status == "interrupted"
    assert {result.status for result in run.results()} == {Status.OK}
    assert capsys.readouterr().out == "2 sums were measured.\n"
    assert toy(tmp_path, "--resume") == 0
    assert run.record().status == "finished"


def test_a_run_that_could_measure_nothing_is_one_line_and_status_1(tmp_path, monkeypatch, capsys):
    def lost(config, recorder):
        cells = (Cell("sum", "sum", "Python", arm, 0, 0, None, "synthetic", (("size", 9),)) for arm in "ab")
        recorder.add(
            [Result(c, "toy", Status.OUT_OF_MEMORY, "no 2 GiB left", readings={"x": []}) for c in cells]
        )

    run_as(monkeypatch, lost)
    assert toy(tmp_path) == cli.FAILED
    run = RunDirectory.open(tmp_path)
    said = (
        f"no cell produced a measurement (out_of_memory: no 2 GiB left); the reasons are in {run.tables_path}"
    )
    assert capsys.readouterr().err == f"python -m harness: error: {said}\n"
    assert (run.record().status, run.record().error) == ("failed", f"NothingMeasured: {said}")
    assert [result.status for result in run.results()] == [Status.OUT_OF_MEMORY] * 2
    assert run.tables_path.is_file()


@pytest.mark.parametrize("figures", [{"samples_us": [1.0]}, {"readings": {"list_bytes": [8.0]}}])
def test_one_figure_is_enough(tmp_path, monkeypatch, figures):
    def most_lost(config, recorder):
        cell = Cell("sum", "sum", "Python", "list", 0, 0, None, "synthetic", (("size", 9),))
        result = Result(cell, "toy", Status.OUT_OF_MEMORY, "no 2 GiB left")
        recorder.add([replace(result, series="other"), replace(result, status=Status.OK, **figures)])

    run_as(monkeypatch, most_lost)
    assert toy(tmp_path) == cli.OK


def test_a_run_of_another_experiment_does_not_go_on_as_this_one(tmp_path, capsys):
    builder.write_run(tmp_path, {})
    assert toy(tmp_path, "--resume") == cli.BAD_INPUT
    assert f"the run in {tmp_path} is one of prefill, not of toy" in capsys.readouterr().err


def test_a_run_that_this_version_does_not_know_is_one_line(tmp_path, capsys):
    builder.write_run(tmp_path, {"experiment": "poetry"})
    assert __main__.main(["report", str(tmp_path)]) == cli.BAD_INPUT
    said = capsys.readouterr().err
    assert f"{tmp_path}: a run of poetry: this version knows prefill" in said
    assert said.count("\n") == 1


def test_options_come_from_a_file_and_the_command_line_wins(tmp_path):
    file = tmp_path / "toy.yaml"
    file.write_text("sizes: [3]\nseed: 5\n")
    assert toy(tmp_path / "run", "--config", str(file), "--seed", "6") == 0
    config = RunDirectory.open(tmp_path / "run").record().config
    assert (config["sizes"], config["seed"]) == ([3], 6)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--sizes", "3,x"], "--sizes 3,x: must be a list of whole numbers"),
        (["--sizes", "0"], "--sizes 0: must be at least 1"),
        (["--size", "3"], "--size: unknown argument; the nearest is --sizes"),
        (["--resume", "--overwrite"], "--resume and --overwrite: exclude each other"),
    ],
)
def test_bad_input_is_one_line_and_status_2(tmp_path, capsys, argv, message):
    assert toy(tmp_path, *argv) == cli.BAD_INPUT
    said = capsys.readouterr().err
    assert said.startswith("python -m harness: error: ")
    assert message in said
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_key_of_the_main_job_is_unknown_here(tmp_path):
    file = tmp_path / "toy.yaml"
    file.write_text("spread_k: [3]\n")
    with pytest.raises(ConfigError, match="spread_k: unknown key; --help lists the options"):
        load(ToyConfig, {}, file)


def test_help_shows_the_groups_and_what_an_option_takes(capsys):
    with pytest.raises(SystemExit):
        __main__.main(["toy", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "--sizes N,N,... numbers to add up (default: 10,100)" in said
    assert "--precision X" in said


@pytest.mark.parametrize(("name", "experiment"), [*EXPERIMENTS.items(), ("toy", EXPERIMENT)])
def test_each_experiment_s_options_are_in_one_group_and_described(name, experiment):
    grouped = [field for fields in experiment.groups.values() for field in fields]
    # vLLM's own options are the keys of `engine_options`, and the YAML's and Python's name for them.
    assert sorted(grouped) == sorted(experiment.config.model_fields.keys() - {"engine_options"})
    for field, about in experiment.config.model_fields.items():
        assert about.description, field
        assert expects(experiment.config, field), field
    assert experiment.config.experiment == name
