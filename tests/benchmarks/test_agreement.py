"""benchmarks/agreement.py without a GPU: which tool is right and why, from made-up observations."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import tracing
from benchmarks.judging import OURS, agreement, conclusions, smallest, spreads, target_pct

ROOT = Path(__file__).resolve().parents[2]


def seen(tool: str, us: float | None, kernel_us: float | None = None, **more: object) -> dict:
    return {"call": "1 ms", "tool": tool, "us": us, "kernel us": kernel_us, "clock MHz": None, **more}


def only(*observations: dict) -> str:
    (text,) = conclusions(agreement(observations))
    return text


@pytest.mark.parametrize(
    ("us", "percent"), [(865.0, 1.0), (100.5, 1.0), (99.0, 3.0), (20.5, 3.0), (8.0, None)]
)
def test_targets(us, percent):
    assert target_pct(us) == percent


def test_tools_that_agree_need_no_trace():
    assert only(seen(OURS, 1000.0), seen("B", 1008.0)).endswith("they agree within 1%")
    assert "no trace" in only(seen(OURS, 1000.0), seen("B", 1012.0))


def test_a_gpu_that_was_slower_under_one_tool_makes_both_right():
    """As measured on an H100: back-to-back calls draw the clock down."""
    rows = agreement(
        [
            seen(OURS, 867.0, 865.0, **{"clock MHz": 1980}),
            seen("do_bench", 960.0, 958.0, **{"clock MHz": 1755}),
        ]
    )
    assert [row["right"] for row in rows] == [True, True]
    assert rows[1]["ours / it"] == pytest.approx(0.903, abs=1e-3)
    (text,) = conclusions(rows)
    assert "-9.7% against do_bench" in text
    assert (
        "took 865 and 958 us by CUPTI (-9.7%) at 1980 and 1755 MHz, +1.9% in cycles, the timing makes +0.0%"
        in text
    )
    assert "both are right" in text


def test_a_tool_that_adds_to_the_same_kernel_is_wrong():
    text = only(seen(OURS, 30.5, 30.0), seen("slow host", 42.0, 30.0))
    assert f"{OURS} is right" in text
    assert "slow host is +40.0% (+12 us) off its own trace" in text
    assert "slow host is right" in only(seen(OURS, 42.0, 30.0), seen("slow host", 30.5, 30.0))
    assert "neither is right" in only(seen(OURS, 42.0, 30.0), seen("slow host", 50.0, 30.0))


def test_tools_with_errors_that_cancel_agree_but_are_not_right():
    """The two columns are two questions."""
    rows = agreement([seen(OURS, 110.0, 100.5), seen("B", 110.0, 100.5)])
    assert [row["right"] for row in rows] == [False, False]
    assert rows[1]["ours / it"] == 1


def test_a_tool_that_failed_stays_in_the_table_with_its_remark():
    rows = agreement([seen(OURS, 1000.0), seen("NVBench", None, remark="ImportError: no cuda.bench")])
    assert rows[1]["us"] is None
    assert rows[1]["remark"] == "ImportError: no cuda.bench"
    assert conclusions(rows) == []


def test_too_short_for_a_target_is_no_verdict():
    rows = agreement([seen(OURS, 9.0, 7.0), seen("B", 12.0, 7.0)])
    assert [row["right"] for row in rows] == [None, None]
    assert "too short" in conclusions(rows)[0]


def test_spreads_over_processes():
    def processes(tool, times, contrasts):
        return [seen(tool, us, **{"contrast %": pct}) for us, pct in zip(times, contrasts, strict=True)]

    steady = processes(OURS, [99.0, 100.0, 100.0, 100.0, 101.0], [0.1, 0.1, 0.1, 0.2, 0.3])
    jumpy = processes("B", [100.0, 100.0, 100.0, 100.0, 119.0], [-1.0, 0.0, 0.1, 1.0, 2.0])
    failed = [seen("C", None, remark="gone")]
    rows = spreads([*steady, *jumpy, *failed])
    assert [row["tool"] for row in rows] == [OURS, "B"]
    assert rows[0]["us range %"] == pytest.approx(2.0)
    assert (rows[1]["us range %"], rows[1]["us middle half %"]) == (pytest.approx(19.0), 0.0)
    assert rows[0]["contrast %"] == 0.1
    assert rows[0]["contrast range"] == pytest.approx(0.2)
    assert rows[1]["contrast middle half"] == pytest.approx(1.0)
    (text,) = smallest(rows)
    assert f"us range 2 ({OURS})" in text
    assert "us middle half 0" in text
    assert f"contrast range 0.2 ({OURS})" in text


def test_medians_are_over_processes_and_traces_over_those_that_were_traced():
    traced = seen(OURS, 100.0, 99.0)
    rows = agreement([traced, seen(OURS, 102.0), seen(OURS, 104.0)])
    assert (rows[0]["us"], rows[0]["kernel us"]) == (102.0, 99.0)


def test_kernels_of_a_call_are_told_from_those_that_ran_beside_it():
    """A call of two kernels, a hundred times; others ran once each while it was made ready."""
    calls = [event for n in range(100) for event in (("main", 80.0 + n % 3), ("combine", 5.0))]
    assert tracing.kernel_us([*calls, ("prepare", 3.0), ("dense", 70.0)]) == 86.0
    assert tracing.kernel_us([]) is None


def test_an_earlier_output_is_judged_again(tmp_path):
    observations = [seen(OURS, 867.0, 865.0), seen("do_bench", 960.0, 958.0)]
    versions = {"vllm": "0.26.0", "torch": "2.11.0"}
    earlier = {"device": {"name": "A GPU"}, "versions": versions, "date": "2026-01-02"}
    file, again = tmp_path / "earlier.json", tmp_path / "again.json"
    file.write_text(json.dumps(earlier | {"observations": observations}))
    command = [sys.executable, "benchmarks/agreement.py", "--observations", str(file), "--output", str(again)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("agreement, cold L2: A GPU, vllm 0.26.0, torch 2.11.0, 2026-01-02")
    assert "both are right" in done.stdout
    assert json.loads(again.read_text())["observations"] == observations
