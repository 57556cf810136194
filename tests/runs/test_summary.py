"""summary.json as it is read: every experiment's, old ones too, and one line for what is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import harness
from harness.experiments import views
from harness.experiments.cache.rows import CacheSummary
from harness.experiments.prefill.rows import PrefillSummary
from harness.runs import former
from harness.runs.store import RunDirectory
from harness.runs.writing import Damaged
from tests.made_up import builder, cache

ROOT = Path(__file__).resolve().parents[2]
STUDIED = sorted(ROOT.glob("docs/study/data/*/*/summary.json"))


@pytest.mark.parametrize("stored", STUDIED, ids=lambda path: path.parent.name)
def test_a_stored_summary_keeps_every_figure(stored: Path) -> None:
    text = stored.read_text(encoding="utf-8")
    for old, new in {**former.ARMS, **former.SUMMARY_KEYS}.items():
        text = text.replace(f'"{old}"', f'"{new}"')
    before = json.loads(text)
    assert before["schema_version"] == 1
    assert RunDirectory(stored.parent).summary(PrefillSummary).to_json() == before | {"schema_version": 2}


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A run with all its views."""
    directory = builder.write_run(tmp_path / "run", cache.record(), cache.results())
    views.write(directory)
    return directory


def test_a_summary_comes_back_as_it_was_written(run: RunDirectory) -> None:
    again = run.summary(CacheSummary)
    assert again.to_json() == json.loads(run.summary_path.read_text(encoding="utf-8"))
    assert again.cells[0].batch_size == 1


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s: s.update(cells="none"), "cells: "),
        (lambda s: s["cells"][0].update(median_us="fast"), r"cells\.0\.median_us: "),
        (lambda s: s["cells"][0].update(status="fine"), r"cells\.0\.status: "),
        (lambda s: s["cells"][0].pop("arm"), r"cells\.0\.arm: is missing"),
        (lambda s: s["contrasts"][1].update(ci95_us=[1.0]), r"contrasts\.1\.ci95_us\.1: is missing"),
        (lambda s: s["contrasts"][1].update(delta_us=float("nan")), r"contrasts\.1\.delta_us: .*finite"),
        (lambda s: s.update(surprise=1), "surprise: is not a key"),
    ],
)
def test_a_summary_that_is_none_is_one_line_with_the_key(change: Any, told: str, run: RunDirectory) -> None:
    summary = json.loads(run.summary_path.read_text(encoding="utf-8"))
    change(summary)
    run.summary_path.write_text(json.dumps(summary))
    with pytest.raises(Damaged, match=rf"summary\.json: damaged \({told}") as error:
        harness.open(run.path)
    assert "\n" not in str(error.value)


def test_a_later_version_s_summary_is_not_called_damaged(run: RunDirectory) -> None:
    run.summary_path.write_text(json.dumps({"schema_version": 3, "status": "finished"}))
    with pytest.raises(Damaged, match=r"summary\.json: schema_version 3: written by a newer version"):
        harness.open(run.path)


@pytest.mark.parametrize("status", ["running", "interrupted"])
def test_a_run_that_went_on_after_its_summary_shows_the_figures_of_now(
    run: RunDirectory, status: str
) -> None:
    more = [r for r in cache.results() if r.cell.at("share_pct") == 0]
    run.samples_path.write_bytes(b"")
    run.append(more)
    builder.change(run, status=status)
    assert set(harness.open(run.path).cells.share_pct) == {0}
