"""A sweep's tables: a row for every point whatever became of it."""

from __future__ import annotations

import csv
import io
import json

import pytest

from harness.__main__ import main
from harness.sweep import summary
from harness.sweep import view as sweep
from harness.sweep.record import SweepRecord, read
from harness.sweep.summary import SweepSummary
from tests.made_up import prefill
from tests.made_up.sweep import record, write
from tests.made_up.views import summary_of


def screen_of(summary):
    """The tables of a sweep's summary."""
    made = SweepRecord.model_validate(record()), SweepSummary.model_validate(summary)
    return sweep.SweepTables(*made).screen_summary()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    directory = tmp_path_factory.mktemp("sweep")
    tables = sweep.write(write(directory))
    return directory, {"screen": tables.screen_summary() + "\n", "csv": tables.csv(), "md": tables.markdown()}


def test_the_summary_has_each_run_s_breakdown(made):
    points = json.loads((made[0] / "summary.json").read_text())["points"]
    assert [bool(point["attribution"]) for point in points] == [True, True, False, False, False, False]
    assert points[0]["attribution"]["measured"][0]["component"] == "fragmentation"


def test_a_point_without_a_breakdown_has_its_prefill_and_its_kernel(made):
    """Its figures are those of its run's own summary, at the largest spread_k."""
    point = json.loads((made[0] / "summary.json").read_text())["points"][2]
    run = summary_of(prefill.record(), prefill.results())
    own = [row for row in run["contrasts"] if row["layer"] == "mean" and row["data"] == "captured"]
    names = ("kernel", "baseline", "treatment", "spread_k")
    of = {tuple(row[name] for name in names): row for row in own}
    kernel = "cpu_attention_with_kv_cache"
    assert point["kernel"]["paging"] == of[kernel, "dense", "paged@1", 1]
    assert point["kernel"]["fragmentation"] == of[kernel, "paged@1", "paged", max(prefill.SPREAD_K)]
    one_segment = next(row for row in run["end_to_end"] if (row["arm"], row["spread_k"]) == ("paged", 1))
    assert point["prefill"]["median_ms"] == one_segment["median_ms"]
    rows = list(csv.DictReader(io.StringIO(made[1]["csv"])))
    told = [row["component"] for row in rows if row["point"] == point["name"]]
    assert told == ["prefill", "fragmentation", "kernel_paging", "kernel_fragmentation"]


def test_without_any_replay_there_is_no_table_of_kernels(made):
    summary = json.loads((made[0] / "summary.json").read_text())
    points = [point | {"kernel": None} for point in summary["points"]]
    text = screen_of(summary | {"points": points})
    assert "engine's kernel" not in text


def test_the_report_command_makes_them_again_without_torch(made, capsys):
    (made[0] / "tables.md").unlink()
    assert main(["report", str(made[0])]) == 0
    assert (made[0] / "tables.md").read_text(encoding="utf-8") == made[1]["md"]
    page = made[0].resolve() / "report.html"
    assert capsys.readouterr().out == f"{made[1]['screen']}\nreport: {page}\n"


def test_a_sweep_explains_its_verdicts_point_by_point(made, capsys):
    assert main(["report", str(made[0]), "--explain"]) == 0
    text = capsys.readouterr().out.removeprefix(made[1]["screen"].rstrip())
    for point in json.loads((made[0] / "summary.json").read_text())["points"]:
        assert (f"Why these verdicts: {point['name']}, attribution.measured" in text) == bool(
            point["attribution"]
        )
    assert "Reason codes" in text
    assert "processes)" not in text


def test_figures_of_a_run_that_did_not_end_do_not_count(tmp_path):
    write(tmp_path)
    name = record()["points"][0]["name"]
    run = tmp_path / name / "run.json"
    run.write_text(run.read_text().replace('"finished"', '"running"', 1))
    assert summary.summarise(read(tmp_path), tmp_path).points[0].attribution is None


def test_what_varies_is_in_columns_or_over_them_whatever_it_is(made):
    summary = json.loads((made[0] / "summary.json").read_text())
    points = summary["points"]

    def screen(varies, *kept):
        return screen_of(summary | {"varies": varies, "points": [points[n] for n in kept]})

    assert "\nmodel       max seconds" in screen(["model", "max_seconds"], 0, 3)
    assert "\nlength  block" in screen(["length", "block_size"], 0, 1, 2)
    assert "\nblock" in screen(["block_size"], 0, 1)
    assert "\nmodel  engine ms" in screen([], 0)


def test_lengths_and_batches_share_a_column(made):
    summary = json.loads((made[0] / "summary.json").read_text())
    points = summary["points"][:2]
    batch = "1x4096,8x512"
    points[1]["options"] = {"model": "gpt2", "batch": batch}
    lines = screen_of(summary | {"points": points, "varies": ["length", "batch"]}).splitlines()
    columns = lines.index(next(line for line in lines if line.startswith("prompts")))
    assert [line.split()[0] for line in lines[columns + 2 : columns + 4]] == ["1024", batch]
