"""--explain: every verdict with its reason, what it rests on, and what would decide it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harness.__main__ import main
from harness.analysis.breakdown.rows import Breakdown
from harness.experiments import views
from harness.experiments.prefill.rows import PrefillSummary
from harness.report import explain
from harness.report.explain import Evidence
from harness.runs.store import RunDirectory
from harness.runs.summary import Reason
from tests.made_up import backends, kvcache, prefill_gpu
from tests.made_up.builder import run_record

RUN = Path(__file__).resolve().parents[1] / "data" / "run"


def evidence(code: Reason, ci95_pct: tuple[float, float] | None = None, **more: object) -> Evidence:
    return Evidence("a", "unclear", code, ci95_pct, 0.5, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("row", "decides"),
    [
        # Halved, the interval lies within the tolerance.
        (evidence(Reason.INTERVAL_TOO_WIDE, (-1.0, 1.0), n=20), "about 4.0 times as many rounds (80)"),
        # A little narrower and it excludes zero, which is not enough for a claim: p = 0.06, not 0.0027.
        (
            evidence(Reason.INTERVAL_TOO_WIDE, (-0.1, 3.9), n=20, p_value=0.06, holm_level=0.0027),
            "about 2.5 times as many rounds (51)",
        ),
        # Of two runs: it must no longer reach from 1.5% into the tolerance of 0.5%.
        (
            evidence(Reason.INTERVAL_TOO_WIDE, (0.0, 3.0), zero_decides=False),
            "about 2.2 times as many rounds",
        ),
        (evidence(Reason.INTERVAL_TOO_WIDE, (-3.0, 4.0), n=20), "about 49 times as many rounds (980)"),
        (evidence(Reason.INTERVAL_TOO_WIDE, (-9.5, 10.5), n=20), "over 100 times as many rounds"),
        (
            evidence(Reason.NOT_CLAIMABLE, (0.1, 2.0), n=20, p_value=0.0455, holm_level=0.0027),
            "about 2.2 times as many rounds (45)",
        ),
        (evidence(Reason.WITHIN_NOISE, (0.7, 2.0)), "a noise floor below 0.70%"),
        (evidence(Reason.WITHIN_NOISE, (-60.0, -50.0), of_quotient=True), "a noise floor below 100.00%"),
        (evidence(Reason.NO_INTERVAL, n=5), "at least 6 rounds"),
        (evidence(Reason.NO_INTERVAL, n=20), None),  # no baseline to take the percentage of
        (evidence(Reason.ARM_NOT_OK, (1.0, 2.0)), "a run in which both arms are ok"),
        (evidence(Reason.NO_NOISE_FLOOR, (1.0, 2.0)), "a noise floor: A/A with 6 rounds or more"),
        (evidence(Reason.BEYOND_TOLERANCE, (1.0, 2.0)), None),
    ],
)
def test_what_would_decide_a_verdict(row: Evidence, decides: str | None) -> None:
    assert row.decides() == decides
    assert row.line().endswith(f"; would be decided by {decides}" if decides else row.line())


def test_a_verdict_s_line_has_all_that_it_rests_on():
    made = Breakdown.model_validate(prefill_gpu.breakdown()[1]["attribution"])
    made.clock_mhz = 1755.0
    (line,) = (
        row.line() for row in explain.lists(made)["measured"] if row.name == "paging, paged@1 against dense"
    )
    (row,) = (row for row in made.measured if row.component == "paging")
    assert made.noise_floor_pct is not None
    assert f"noise floor {made.noise_floor_pct:.2f}%, {row.n} rounds, p = " in line
    assert "1755 MHz" in line
    assert f"{row.verdict} ({row.reason_code})" in line


@pytest.mark.parametrize("experiment", [kvcache, backends])
def test_a_speed_up_is_explained_as_a_change_of_time(experiment):
    summary = views.summarise(run_record(experiment.record()), experiment.results())
    rows = [row for each in explain.lists(summary).values() for row in each if row.of_quotient]
    assert rows
    for row in rows:
        low, high = row.ci95_pct or (0.0, 0.0)
        assert -100 < low < high
        assert row.verdict != "faster" or high < 0
        assert row.verdict != "slower" or low > 0


def test_single_layers_and_random_inputs_alone_are_left_out():
    summary = PrefillSummary.model_validate(prefill_gpu.breakdown()[1])
    layers = [row for row in summary.contrasts if isinstance(row.layer, int) or row.layer == "sum"]
    shown = [row for row in summary.contrasts if row not in layers and row.data != "synthetic"]
    assert layers
    assert len(explain.lists(summary)["contrasts"]) == len(shown)


def test_a_title_says_of_how_many_processes_the_rounds_are_one_s():
    made = Breakdown.model_validate(prefill_gpu.breakdown()[1]["attribution"])
    assert "seed 0, measured" in explain.lists(made, "seed 0")
    assert "seed 0, measured (one of 2 processes)" in explain.lists(made, "seed 0", processes=2)


def test_an_old_summary_without_reasons_is_explained_as_far_as_it_goes():
    data = prefill_gpu.breakdown()[1]
    for row in data["contrasts"]:
        for key in ("reason_code", "holm_level", "clock_mhz"):
            row.pop(key, None)
    lines = [row.line() for row in explain.lists(PrefillSummary.parse(data))["contrasts"]]
    assert all("(no reason recorded): 95% [" in line and "Holm" not in line for line in lines)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A stored run, to be reported again."""
    return Path(shutil.copytree(RUN, tmp_path / "run"))


@pytest.mark.parametrize("option", ["--json", "--latex"])
def test_an_explanation_does_not_follow_what_programs_read(
    run_dir: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(run_dir), "--explain", option]) == 2
    read = capsys.readouterr()
    assert read.out == ""
    assert f"{option} prints; leave one out" in read.err


def test_report_and_compare_explain_when_asked(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["report", str(run_dir)], ["compare", str(run_dir), str(RUN)]):
        assert main(command) == 0
        assert explain.TITLE not in capsys.readouterr().out
        assert main([*command, "--explain"]) == 0
        text = capsys.readouterr().out
        assert f"{explain.TITLE}: " in text
        assert "Reason codes\nwithin_tolerance: the whole interval" in text
        assert max(map(len, text[text.index(explain.TITLE) :].splitlines())) <= 80


def test_every_verdict_of_a_stored_run_has_a_reason_that_fits_it(run_dir: Path) -> None:
    views.write(RunDirectory.open(run_dir))
    summary = RunDirectory.open(run_dir).summary(PrefillSummary)
    of_verdict = {
        "same": {Reason.WITHIN_TOLERANCE},
        "slower": {Reason.BEYOND_TOLERANCE, Reason.EXCLUDES_ZERO},
        "faster": {Reason.BEYOND_TOLERANCE, Reason.EXCLUDES_ZERO},
    }
    for row in summary.contrasts:
        assert row.reason_code is not None
        assert (row.reason_code in of_verdict.get(row.verdict, set())) == (row.verdict != "unclear")
        assert row.p_value is not None
        assert row.holm_level is not None
        if row.reason_code is Reason.NOT_CLAIMABLE:
            assert row.p_value > row.holm_level
