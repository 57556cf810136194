"""Sweeps from other people: what is damaged, old or missing is a row that says so; nothing leads outside."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from harness.__main__ import main
from harness.config import ConfigError
from harness.runs.writing import Damaged
from harness.sweep import job, plan, view
from harness.sweep.record import SweepRecord, read
from harness.sweep.summary import summarise
from tests.made_up import sweep
from tests.runs.test_handed import one_line, spoiled

FIRST = sweep.record()["points"][0]["name"]


@pytest.fixture
def handed(tmp_path: Path) -> Path:
    return sweep.write(tmp_path / "sweep")


def change(directory: Path, changed: Callable[[dict[str, Any]], Any]) -> None:
    file = directory / "sweep.json"
    record = json.loads(file.read_text())
    changed(record)
    file.write_text(json.dumps(record))


@pytest.mark.parametrize(
    "name",
    [
        "../run",
        "/tmp/run",
        "a/b",
        ".",
        "..",
        "",
        "x" * 201,
        "\x1b[31m",
        "a\nb",
        "..\\run",
        sweep.record()["points"][1]["name"],
    ],
)
def test_a_point_s_name_is_a_folder_of_the_sweep(
    name: str, handed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(handed, lambda record: record["points"][0].update(name=name))
    assert main(["report", str(handed)]) == 2
    assert "sweep.json: damaged (points: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("summary.json", '{"status": "finished"}', "summary.json: damaged"),
        ("summary.json", "[" * 1000, "summary.json: damaged (nested too deeply)"),
        ("run.json", '{"status": "finished", "schema_version": 99}', "written by a newer version"),
        ("run.json", "{", "run.json: damaged"),
        ("run.json", None, "its run is missing"),
    ],
)
def test_a_point_that_cannot_be_read_says_why_and_the_rest_is_reported(
    file: str, content: str | None, reason: str, handed: Path
) -> None:
    (handed / FIRST / file).unlink()
    if content is not None:
        (handed / FIRST / file).write_text(content)
    tables = view.write(handed)
    first, second, *_ = tables.summary.points
    assert (first.status, first.prefill) == ("failed", None)
    assert reason in first.reason
    assert second.attribution
    assert reason.split(" (")[0][:20] in tables.markdown()


def test_a_folder_that_links_out_of_the_sweep_is_neither_read_nor_written(
    handed: Path, tmp_path: Path
) -> None:
    (handed / FIRST).rename(tmp_path / "outside")
    (handed / FIRST).symlink_to(tmp_path / "outside")
    before = sorted(os.listdir(tmp_path / "outside"))
    assert "leads out of the sweep" in view.write(handed).summary.points[0].reason
    options = [dict(point["options"]) for point in sweep.record()["points"]]
    points = plan.of_options(Path("sweep"), options)
    with pytest.raises(ConfigError, match="leads out of the sweep; remove it"):
        job.run(points, handed, resume=True)
    assert sorted(os.listdir(tmp_path / "outside")) == before


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (lambda record: record.update(points="none"), "points: "),
        (lambda record: record.pop("points"), "points: is missing"),
        (lambda record: record["points"][0].pop("options"), r"points\.0\.options: is missing"),
        (lambda record: record["points"][0].update(options={"length": {}}), r"points\.0\.options"),
        (lambda record: record.update(schema_version=2), "schema_version 2: written by a newer version"),
        (lambda record: record.update(varies=[1]), r"varies\.0: "),
    ],
)
def test_a_record_that_is_none_is_one_line_with_the_key(changed: Any, told: str, handed: Path) -> None:
    change(handed, changed)
    with pytest.raises(Damaged, match=rf"sweep\.json: .*{told}") as error:
        read(handed)
    assert "\n" not in str(error.value)


@pytest.mark.fuzz
@settings(max_examples=60)
@given(record=spoiled(sweep.record()))
def test_any_spoiled_record_is_reported_or_is_one_line(
    record: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("sweep")
    (directory / "sweep.json").write_text(json.dumps(record))
    with one_line(directory):
        found: SweepRecord = read(directory)
        view.SweepTables(found, summarise(found, directory)).screen_summary()


def test_a_sweep_without_points_is_reported(handed: Path) -> None:
    change(handed, lambda record: record.update(points=[], varies=["model", "length"]))
    record = read(handed)
    assert "0 points" in view.SweepTables(record, summarise(record, handed)).screen_summary()
