"""Verdicts and notices where the host was busy."""

from __future__ import annotations

from typing import Any

import pytest

from harness.analysis import busy_host
from harness.runs.schema import HostLoad
from tests.made_up import kernels, kvcache, prefill, prefill_gpu
from tests.made_up.views import summary_of


def load(**facts: Any) -> dict[str, Any]:
    return dict.fromkeys(HostLoad.model_fields) | {"cpus": 4, "other_cpus": 0.0} | facts


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"other_cpus": 0.3}, None),
        ({"other_cpus": 0.5}, "other processes used 0.5 of 4 CPUs"),
        ({"other_cpus": 10.0, "cpus": 128}, None),
        ({"other_cpus": None, "steal_pct": 3.0}, "3.0% of CPU time went to other virtual machines"),
        ({"steal_pct": 1.0}, None),
    ],
)
def test_a_host_is_busy_by_what_others_use(facts: dict[str, Any], why: str | None) -> None:
    assert busy_host.why_busy(HostLoad(**load(**facts))) == why


def test_one_line_says_all_that_was_seen() -> None:
    noisy = load(other_cpus=2.0, mhz_before=3000.0, mhz_after=2000.0, gpu_processes_before=1)
    assert busy_host.describe(HostLoad(**noisy)) == (
        "noise from elsewhere: other processes used 2.0 of 4 CPUs; the CPUs' clock fell from 3000 to 2000 "
        "MHz; before the run the GPUs had 1 process of others"
    )
    assert busy_host.describe(HostLoad(**load(mhz_before=2000.0, mhz_after=3000.0))) is None


BUSY = {"host_load": load(other_cpus=2.0)}


def verdicts(summary: dict[str, Any], name: str) -> set[str]:
    return {row["verdict"] for row in summary[name]}


def test_on_a_busy_cpu_every_verdict_is_withheld_with_its_reason() -> None:
    made = summary_of(prefill.record() | BUSY, prefill.results())
    assert verdicts(made, "contrasts") == {"unclear"}
    measured = made["attribution"]["measured"]
    assert {row["verdict"] for row in measured} == {"unclear"}
    assert all(row["reason"].endswith("withheld: other processes used 2.0 of 4 CPUs") for row in measured)
    assert "Verdicts are withheld: other processes used 2.0 of 4 CPUs." in made["attribution"]["sentence"]
    idle = summary_of(prefill.record() | {"host_load": load()}, prefill.results())
    assert idle == summary_of(prefill.record(), prefill.results())


def test_speed_ups_have_no_verdict_either() -> None:
    on_cpu = kvcache.record() | BUSY | {"device": {"name": "A CPU", "kind": "cpu"}}
    assert verdicts(summary_of(on_cpu, kvcache.results()), "speed_ups") == {"unclear"}


def test_a_gpu_s_kernels_do_not_wait_for_the_host() -> None:
    quiet = summary_of(kernels.record() | {"device": {"name": "A GPU", "kind": "cuda"}}, kernels.results())
    busy = summary_of(
        kernels.record() | BUSY | {"device": {"name": "A GPU", "kind": "cuda"}}, kernels.results()
    )
    assert busy == quiet


def test_a_gpu_s_prefills_do_where_the_step_is_host_bound() -> None:
    quiet = summary_of(prefill_gpu.record(), prefill_gpu.results())
    assert quiet["attribution"]["host_bound"]["verdict"] == "partly host-bound"
    busy = summary_of(prefill_gpu.record() | BUSY, prefill_gpu.results())
    for one, other in zip(quiet["contrasts"], busy["contrasts"], strict=True):
        assert other["verdict"] == ("unclear" if one["kernel"] == "prefill" else one["verdict"])
    assert {row["verdict"] for row in busy["attribution"]["measured"]} == {"unclear"}
