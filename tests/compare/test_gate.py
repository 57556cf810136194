"""A gate that cannot pass by accident: what it lacks fails it, unless it was told to leave it out."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness.__main__ import main
from harness.compare import view as report
from harness.compare.gate import Limit
from harness.compare.ratios import Run, compare
from harness.runs.record import Status
from tests.compare.test_ratios import cell, run
from tests.made_up.builder import DATA

LAYERS = [cell("paged", layer=0), cell("paged", layer=1), cell("dense", layer=0), cell("dense", layer=1)]
FAILED = cell("dense", layer=1, samples_us=[], status=Status.OUT_OF_MEMORY, reason="too large")


def gate(other: Run, *leave_out: str) -> tuple[bool, str]:
    """Whether the gate fails on a run beside the whole one, and what it says."""
    found, limit = compare([run("A", LAYERS), other]), Limit("slower", 2, leave_out)
    return limit.fails(found), " ".join(report.screen(found, limit).split())


def test_a_whole_run_without_a_slower_cell_passes() -> None:
    fails, text = gate(run("B", LAYERS))
    assert not fails
    assert text.endswith("none of 2 cells")


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (lambda: run("B", LAYERS, status="failed"), "not judged, which fails as well: B: the run is failed"),
        (lambda: run("B", LAYERS[:1], status="running"), "B: the run is running"),
        (lambda: run("B", LAYERS[:2]), "B: a_kernel, dense 4: not tried"),
        (lambda: run("B", LAYERS[:3]), "B: a_kernel, dense 4: some of A's layers are missing"),
        (lambda: run("B", [*LAYERS[:3], FAILED]), "B: a_kernel, dense 4: some of A's layers are missing"),
        (
            lambda: run("B", [*LAYERS[:2], *(cell("dense", layer=n, samples_us=[9.0] * 4) for n in (0, 1))]),
            "B: a_kernel, dense 4: too few samples for an interval",
        ),
    ],
)
def test_what_is_not_there_fails_it(other: Callable[[], Run], words: str) -> None:
    fails, text = gate(other())
    assert fails
    assert words in text


def test_what_it_was_told_to_leave_out_is_said() -> None:
    fails, text = gate(run("B", LAYERS[:2]), "dense")
    assert not fails
    assert text.endswith("none of 1 cell left out as asked: a_kernel, dense 4")
    slower = [cell("paged", layer=n, samples_us=[200.0 + m % 3 for m in range(20)]) for n in (0, 1)]
    assert gate(run("B", [*slower, *LAYERS[2:]]))[0]
    assert not gate(run("B", [*slower, *LAYERS[2:]]), "paged")[0]


def test_what_the_first_run_lacks_is_no_loss() -> None:
    found = compare([run("A", LAYERS[:2]), run("B", LAYERS)])
    assert not Limit("slower", 2).fails(found)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--fail-on", ""], "must be like slower:2%"),
        (["--fail-on", f"slower:{'9' * 400}%"], "must be like slower:2%"),
        (["--fail-on", "faster:100%"], "nothing is faster by 100%"),
        (["--fail-on", "slower:5%", "--leave-out", ""], "leaves out every cell"),
        (["--fail-on", "slower:5%", "--leave-out", ","], "leaves out every cell"),
    ],
)
def test_what_could_never_fail_is_no_gate(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = str(DATA / "run")
    assert main(["compare", stored, stored, *arguments]) == 2
    assert words in capsys.readouterr().err
