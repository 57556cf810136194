"""What a run of the main job advises, by what its breakdown found."""

from __future__ import annotations

from typing import Any

from harness.analysis.breakdown.rows import Breakdown
from harness.experiments.prefill.advice import advise
from harness.runs.schema import HostLoad
from tests.made_up import prefill, prefill_gpu
from tests.made_up.builder import run_record
from tests.made_up.views import summary_of

RECORD = run_record(prefill.record())


def breakdown(**verdicts: str) -> dict[str, Any]:
    """A made-up breakdown with these components' verdicts."""
    made: dict[str, Any] = summary_of(prefill.record(), prefill.results())["attribution"]
    for row in made["measured"]:
        row["verdict"] = verdicts.get(row["component"], row["verdict"])
    return made


def advice(made: dict[str, Any]) -> list[str]:
    return advise(RECORD, Breakdown.model_validate(made))


def test_the_dearest_part_has_its_remedy() -> None:
    assert advice(breakdown())[0].startswith("The cache write costs most")
    assert advice(breakdown(cache_write="same"))[0].startswith("Paging costs most")


def test_a_layout_that_costs_nothing_is_left_as_it_is() -> None:
    assert advice(breakdown(total="same"))[0] == "Leave the layout as it is: it costs less than 3.47% here."


def test_an_unclear_total_needs_time_which_a_given_number_of_rounds_does_not() -> None:
    made = breakdown(total="unclear")
    lines = advise(run_record(prefill.record() | {"config": {"max_seconds": 30.0}}), Breakdown(**made))
    assert lines[-1].endswith("four times the time (--max-seconds 120) halves that.")
    made["measured"][3]["ci95_pct"] = [-90.0, 110.0]
    assert advise(RECORD, Breakdown(**made))[-1].endswith("repeat it on an idle machine.")
    made["measured"][3]["ci95_pct"] = [-1.0, 3.0]
    by_rounds = run_record(prefill.record() | {"config": {"max_seconds": 30.0, "repeats": 9}})
    assert not any("max-seconds" in line for line in advise(by_rounds, Breakdown(**made)))


def test_a_step_that_waits_for_its_host_gets_no_advice_about_kernels() -> None:
    made = summary_of(prefill_gpu.record(), prefill_gpu.results())["attribution"]
    made["host_bound"]["verdict"] = "host-bound"
    assert advice(made)[1].startswith("The step is host-bound: more tokens in a step")
    made["host_bound"]["verdict"] = "GPU-bound"
    assert advice(made)[1] == "Look first at matrix products: 18% of the prefill."


def test_without_an_interval_there_is_no_advice() -> None:
    made = breakdown()
    made["measured"][3]["ci95_pct"] = None
    assert advice(made) == []


def test_on_a_busy_host_the_advice_is_an_idle_one() -> None:
    load = dict.fromkeys(HostLoad.model_fields) | {"cpus": 2, "other_cpus": 1.5}
    busy = run_record(prefill.record() | {"host_load": load})
    lines = advise(busy, Breakdown(**breakdown(total="unclear")))
    assert lines[-1] == "The host was busy with other work: repeat it on an idle one."
