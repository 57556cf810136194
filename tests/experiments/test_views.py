"""What is made of every experiment's made-up run.

Frozen texts anew: `python -m tests.made_up`, then read the difference.
"""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib.text import Text
from pandas.api.types import is_numeric_dtype

from harness.__main__ import main
from harness.experiments import EXPERIMENTS, views
from harness.report import parquet
from harness.report.charts import mpl
from harness.report.charts.style import PAPER
from harness.report.document import Document
from harness.report.tables import WIDTH
from harness.runs.record import Result
from harness.runs.store import RunDirectory
from tests import made_up, pages
from tests.drawings import assert_no_text_is_hidden
from tests.made_up import builder
from tests.made_up.builder import DATA, write_run
from tests.made_up.views import Row, charts_of, document_from, document_of, page_of, summary_of, text_of

FROZEN = sorted(path.name for path in DATA.iterdir() if path.is_file())
PLOTS = {
    "variants": set(),
    **{name: {"attribution", "spread_k", "layers"} for name in ("prefill", "gpu")},
    **{name: {"kvcache_steps", "kvcache_modes"} for name in ("kvcache", "kvcache_lost")},
    "kernels_others": {"kernels"},
    "transfer": {"transfer", "hand_over"},
    "workload": {"workload_steps", "workload_arms", "workload_layout"},
    **{name: {name} for name in ("kernels", "cache", "memory", "backends", "allocate", "advise")},
}
LISTS = {
    "prefill": ("kernels", "end_to_end"),
    "kvcache": ("modes", "steps"),
    "workload": ("arms",),
}  # whose rows tables.csv has


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    return made_up.texts()


@dataclass(frozen=True)
class Seen:
    """A made-up run and what is made of it."""

    name: str
    record: Row
    results: list[Result]
    summary: Row
    document: Document


@pytest.fixture(scope="module", params=made_up.RUNS)
def run(request: pytest.FixtureRequest) -> Seen:
    record, results = made_up.RUNS[request.param].both()
    summary = summary_of(record, results)
    return Seen(request.param, record, results, summary, document_from(record, summary))


def test_no_experiment_and_no_text_is_forgotten(texts: dict[str, str]) -> None:
    assert {run.record()["experiment"] for run in made_up.RUNS.values()} == set(EXPERIMENTS)
    assert sorted(texts) == FROZEN


@pytest.mark.parametrize("name", FROZEN)
def test_a_frozen_text_is_as_it_was(texts: dict[str, str], name: str) -> None:
    assert texts[name] == (DATA / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(("folder", "name"), made_up.STORED.items())
def test_a_run_that_an_earlier_version_stored_gives_the_same_texts(
    folder: str, name: str, tmp_path: Path, texts: dict[str, str]
) -> None:
    stored = RunDirectory.open(shutil.copytree(DATA / folder, tmp_path / "run"))
    assert (stored.record().to_json(), stored.results()) == made_up.RUNS[name].both()
    assert text_of(views.write(stored)) == texts[f"{name}.txt"]
    if name == "prefill":
        assert stored.tables_path.read_text(encoding="utf-8") == texts["tables.md"]
        assert stored.csv_path.read_text(encoding="utf-8") == texts["tables.csv"]


@pytest.mark.parametrize("factor", [1, 100])
def test_the_screen_is_80_columns_wide_also_where_all_takes_long(run: Seen, factor: int) -> None:
    slow = [replace(r, samples_us=[us * factor for us in r.samples_us]) for r in run.results]
    document = document_of(run.record, slow)
    shown = document.screen_summary().removesuffix(document.command)  # which is to be copied as it is
    assert max(map(len, shown.splitlines())) <= WIDTH


@pytest.mark.parametrize("name", ["compare.txt", "sweep.txt"])
def test_tables_of_several_runs_fit_the_screen(texts: dict[str, str], name: str) -> None:
    assert max(map(len, texts[name].splitlines())) <= WIDTH


def test_a_summary_read_from_its_file_gives_the_same_tables(run: Seen) -> None:
    again = json.loads(json.dumps(run.summary, allow_nan=False))
    assert again == run.summary
    assert document_from(run.record, again) == run.document


def test_the_csv_has_a_row_a_cell_with_its_status_and_no_nan(run: Seen) -> None:
    text = run.document.csv()
    rows = list(csv.DictReader(io.StringIO(text)))
    cells = [row for key in LISTS.get(run.record["experiment"], ("cells",)) for row in run.summary[key]]
    differences = [row["verdict"] for row in rows if row.get("stage") in ("contrast", "breakdown")]
    assert [row["status"] for row in rows[: len(cells)]] == [cell["status"] for cell in cells]
    assert len(cells) + len(differences) == len(rows)
    assert [row["verdict"] for row in run.summary.get("contrasts", [])] == differences[
        : len(run.summary.get("contrasts", []))
    ]
    assert "nan" not in text.lower()
    assert not rows or {"status", "reason"} <= rows[0].keys()


def test_markdown_has_every_table_notice_and_the_answer_once(run: Seen) -> None:
    text = run.document.markdown()
    titles = [table.title for part in run.document.parts for table in (*part.details, *part.tables)]
    assert re.findall("(?m)^## (.*)", text.replace("\n## Warnings\n", "\n")) == titles
    assert text.count(f"**{run.document.answer}**") == 1
    assert all(f"> {notice}" in text for notice in run.record["notices"])


def test_few_samples_are_a_warning_and_give_no_interval(run: Seen) -> None:
    if not EXPERIMENTS[run.record["experiment"]].timed:
        pytest.skip("it has no times")
    document = document_of(run.record, [replace(r, samples_us=r.samples_us[:3]) for r in run.results])
    for text in (document.markdown(), document.screen_summary()):
        assert "3; a 95% interval needs 6" in " ".join(text.split())
    rows = csv.DictReader(io.StringIO(document.csv()))
    assert {row.get("ci95_low_us", "") for row in rows} <= {""}


@pytest.mark.parametrize("kept", [slice(0), slice(1), slice(2), slice(-1, None)], ids=["0", "1", "2", "last"])
@pytest.mark.parametrize("bare", [False, True])
def test_a_run_that_hardly_began_has_a_report(run: Seen, kept: slice, bare: bool) -> None:
    """Also one whose record has no more than every run's begins with."""
    if kept == slice(-1, None) and run.record["experiment"] == "prefill":
        pytest.skip("the main job's series begin with the arm that the others are set against")
    keys = [*builder.LEAST, "command"] if bare else run.record
    record = {key: run.record[key] for key in keys} | {"status": "interrupted"}
    document = document_of(record, run.results[kept])
    assert document.screen_summary()
    assert document.markdown()
    assert document.csv()
    html = page_of(record, run.results[kept])
    pages.check(html)
    assert "This run is interrupted" in html


def test_a_page_is_whole_and_escapes_what_a_run_calls_things(run: Seen) -> None:
    evil: dict[str, Any] = {"notices": [pages.EVIL], "command": ["x.py", pages.EVIL]}
    evil["model"] = run.record["model"] | {"name": pages.EVIL}
    html = page_of(run.record | evil, [replace(r, reason=pages.EVIL) for r in run.results])
    pages.check(html)
    assert "This run is" not in html


def test_every_column_has_one_type_in_parquet(run: Seen, tmp_path: Path) -> None:
    frame = run.document.frame()
    typed = parquet.typed(frame)
    assert list(typed.columns) == list(frame.columns)
    assert object not in set(typed.dtypes)
    numbers = [name for name in frame.columns if name.endswith(("_us", "_ms", "_pct"))]
    measured = [name for name in numbers if frame[name].notna().any()]
    assert all(is_numeric_dtype(typed[name]) for name in measured)
    for name in measured:
        assert typed[name].dropna().astype(float).tolist() == frame[name].dropna().astype(float).tolist()
    path = tmp_path / "tables.parquet"
    if not parquet.write(frame, path):
        assert not path.exists(), "pyarrow is not installed"
        return
    assert pd.read_parquet(path).columns.tolist() == frame.columns.tolist()
    assert len(pd.read_parquet(path)) == len(frame)


def test_plots_for_a_paper_are_as_wide_as_a_column_and_go_with_the_run(run: Seen, tmp_path: Path) -> None:
    written = write_run(tmp_path, run.record, run.results)
    assert main(["report", str(written.path), "--style", "paper"]) == 0
    papers = {path.name for path in written.plots_path.glob("*-paper.*")}
    assert papers == {f"{name}-paper.{end}" for name in PLOTS[run.name] for end in ("pdf", "png")}
    figures = (mpl.draw(sheet, PAPER) for sheet in charts_of(run.record, run.results, run.summary))
    for figure in filter(None, figures):
        assert figure.get_size_inches()[0] == 3.3
        assert {text.get_fontsize() for text in figure.findobj(Text) if text.get_text()} == {8}
    again = RunDirectory.create(written.path, overwrite=True) if papers else None
    assert not again or not list(again.plots_path.glob("*")), "a new run starts without them"


def test_every_plot_is_readable_has_a_name_of_its_own_and_does_not_change(run: Seen, tmp_path: Path) -> None:
    sheets = [s for s in charts_of(run.record, run.results, run.summary) if mpl.write(s, tmp_path)]
    names = {sheet.name for sheet in sheets}
    assert names == PLOTS[run.name]
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{n}.{end}" for n in names for end in ("png", "svg", "pdf")
    }
    for sheet in sheets:
        assert_no_text_is_hidden(sheet)
        assert_no_text_is_hidden(sheet, PAPER)
        before = {path: path.read_bytes() for path in tmp_path.glob(f"{sheet.name}.[sp][vd][gf]")}
        assert len(before) == 2
        mpl.write(sheet, tmp_path)
        assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("name", made_up.COMPANIONS)
def test_the_documentation_names_its_lists(name: str) -> None:
    text = (Path(__file__).parents[2] / "docs" / "run-directory.md").read_text(encoding="utf-8")
    (line,) = re.findall(rf"^\| \[`{name}`\].*$", text, re.MULTILINE)
    lists = [key for key, rows in summary_of(*made_up.RUNS[name].both()).items() if isinstance(rows, list)]
    assert re.findall(r"`(\w+)`", line.split("|")[2])[: len(lists)] == lists
