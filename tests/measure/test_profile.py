"""A profile's arithmetic on made-up activities, and real operators profiled on a CPU."""

from __future__ import annotations

import json
import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.experiments.prefill import end_to_end
from harness.measure import profile as profiling
from harness.measure.categories import ATTENTION, CATEGORIES, COPIES, MATRIX_PRODUCTS, NORMS, OTHER, SAMPLING
from harness.measure.profile import (
    STEP,
    ProfileError,
    by_category,
    for_the_earlier,
    for_the_innermost,
    in_step,
    longest,
    profile_step,
)
from harness.measure.timers import Activity

NAMES = ["aten::mm", "aten::copy_", "aten::view", "kernel_unified_attention"]
ACTIVITIES = st.lists(
    st.builds(
        lambda name, start, length: Activity(name, float(start), float(start + length)),
        st.sampled_from(NAMES),
        st.integers(0, 40),
        st.integers(0, 15),
    ),
    max_size=12,
)


def microseconds_that(activities, pick):
    """Time by name, microsecond by microsecond: each counts for the activity that `pick` takes."""
    found = dict.fromkeys(NAMES, 0.0)
    for now in range(60):
        running = [one for one in activities if one.start_us <= now < one.end_us]
        if running:
            found[pick(running).name] += 1.0
    return found


def by_name(shares):
    found = dict.fromkeys(NAMES, 0.0)
    for name, us in shares:
        found[name] += us
    return found


@pytest.mark.parametrize("counting", [for_the_earlier, for_the_innermost])
@given(activities=ACTIVITIES)
def test_shares_add_up_to_the_union(counting, activities):
    shares = counting(activities)
    busy_us = sum(us for _, us in shares)
    covered = {now for one in activities for now in range(int(one.start_us), int(one.end_us))}
    assert busy_us == len(covered)
    assert all(us >= 0 for _, us in shares)
    assert len(shares) == len(activities)
    if activities:
        assert busy_us <= max(one.end_us for one in activities) - min(one.start_us for one in activities)
    assert sum(by_category(shares).values()) == pytest.approx(busy_us / 1e3, abs=1e-12)


@given(activities=ACTIVITIES)
def test_on_a_gpu_time_counts_for_the_activity_that_began_first(activities):
    in_order = sorted(activities, key=lambda one: one.start_us)
    assert by_name(for_the_earlier(activities)) == microseconds_that(in_order, lambda running: running[0])


@given(activities=ACTIVITIES)
def test_on_a_cpu_time_counts_for_the_operator_begun_last(activities):
    in_order = sorted(activities, key=lambda one: (one.start_us, -one.end_us))
    assert by_name(for_the_innermost(activities)) == microseconds_that(in_order, lambda running: running[-1])


def test_kernels_on_two_streams_count_once():
    activities = [
        Activity("kernel_unified_attention", 0.0, 10.0),
        Activity("Memcpy DtoD (Device -> Device)", 6.0, 14.0),
        Activity("nvjet_tst", 7.0, 9.0),
        Activity("nvjet_tst", 20.0, 25.0),
    ]
    found = by_category(for_the_earlier(activities))
    assert found[ATTENTION] == pytest.approx(0.010)
    assert found[COPIES] == pytest.approx(0.004)
    assert found[MATRIX_PRODUCTS] == pytest.approx(0.005)


def test_an_operator_s_own_time_is_without_the_operators_in_it():
    """The inner ones' times are rounded: the second ends after the outer one and overlaps the first."""
    activities = [
        Activity("aten::linear", 0.0, 20.0),
        Activity("aten::view", 2.0, 5.001),
        Activity("aten::addmm", 5.0, 20.001),
    ]
    assert for_the_innermost(activities) == [
        ("aten::linear", pytest.approx(2.0)),
        ("aten::view", pytest.approx(3.0)),
        ("aten::addmm", pytest.approx(15.001)),
    ]


def test_the_longest_names_come_first_and_count_their_calls():
    shares = [("aten::mm", 5.0), ("aten::copy_", 7.0), ("aten::mm", 4.0)]
    shares += [(f"kernel {n}", 0.1) for n in range(20)]
    top = longest(shares)
    assert len(top) == profiling.LONGEST
    assert [(one.name, one.category, one.calls) for one in top[:2]] == [
        ("aten::mm", MATRIX_PRODUCTS, 2),
        ("aten::copy_", COPIES, 1),
    ]
    assert top[0].ms == pytest.approx(0.009)


def event(name, cat, ts, dur, tid=1):
    return {"ph": "X", "name": name, "cat": cat, "ts": ts, "dur": dur, "tid": tid, "pid": 1}


def test_what_of_a_trace_is_the_step_s():
    events = [
        {"ph": "M", "name": "process_name", "ts": 1000.0, "pid": 1, "tid": 0},
        event(STEP, "user_annotation", 1000.0, 100.0),
        event(STEP, "gpu_user_annotation", 1010.0, 80.0, tid=7),
        event("a range of its own", "user_annotation", 1001.0, 50.0),
        event("aten::mm", "cpu_op", 1002.0, 5.0),
        event("aten::mm", "cpu_op", 990.0, 5.0),
        event("aten::mm", "cpu_op", 1002.0, 5.0, tid=2),
        event("cudaLaunchKernel", "cuda_runtime", 1003.0, 1.0),
        event("spin_kernel", "kernel", 995.0, 1.0, tid=7),
        event("nvjet_tst", "kernel", 1010.0, 20.0, tid=7),
        event("Memcpy DtoH (Device -> Pinned)", "gpu_memcpy", 1030.0, 2.0, tid=7),
        event("Memset (Device)", "gpu_memset", 1033.0, 1.0, tid=8),
        event("Stream Wait Event", "cuda_sync", 1034.0, 1.0, tid=8),
    ]
    assert in_step(events, "cpu") == [Activity("aten::mm", 2.0, 7.0)]
    assert in_step(events, "cuda") == [
        Activity("nvjet_tst", 10.0, 30.0),
        Activity("Memcpy DtoH (Device -> Pinned)", 30.0, 32.0),
        Activity("Memset (Device)", 33.0, 34.0),
    ]


def test_what_is_injected_is_the_layers_difference_times_their_number():
    without = [1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 1.5]
    injected = [us + more for us, more in zip(without, [20, 21, 22, 23, 24, 25, 26], strict=True)]
    found = end_to_end.injected_ms(without, injected)
    assert (found.ms, found.ci95_ms) == (pytest.approx(7 * 0.023), pytest.approx([7 * 0.020, 7 * 0.026]))
    assert end_to_end.injected_ms(without[:2], injected[:2]).ci95_ms is None
    assert end_to_end.injected_ms([], []).ms is None


def operators(size=768):
    weight, x = torch.ones(size, size), torch.ones(size, size)
    few = torch.ones(8, 16)

    def run():
        y = x @ weight
        few.clone()
        return torch.softmax(torch.nn.functional.layer_norm(few, (16,)), dim=-1), y

    return run


def test_real_operators_on_a_cpu(tmp_path):
    found = profile_step(operators(), "cpu", tmp_path / "trace.json")
    assert found.device == "cpu"
    assert tuple(found.categories) == CATEGORIES
    assert found.categories[MATRIX_PRODUCTS] > 0.5 * found.busy_ms
    assert all(found.categories[part] > 0 for part in (NORMS, SAMPLING, COPIES, OTHER))
    assert found.categories[ATTENTION] == 0
    assert found.busy_ms <= found.profiled_ms
    assert (found.top[0].name, found.top[0].category, found.top[0].calls) == ("aten::mm", MATRIX_PRODUCTS, 1)

    recorded = json.loads((tmp_path / "trace.json").read_text())
    again = for_the_innermost(in_step(recorded["traceEvents"], "cpu"))
    assert sum(us for _, us in again) / 1e3 == pytest.approx(found.busy_ms)
    assert "host_name" not in recorded


def test_own_times_are_those_of_torch_s_own_figures():
    run = operators()
    cpu = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=cpu) as theirs, torch.profiler.record_function(STEP):
        run()
    recorded = [
        event(one.name, "user_annotation" if one.name == STEP else "cpu_op", start, end - start)
        for one in theirs.events()
        for start, end in [(one.time_range.start, one.time_range.end)]
    ]
    expected = {one.key: one.self_cpu_time_total for one in theirs.key_averages() if one.key != STEP}
    found = dict.fromkeys(expected, 0.0)
    for name, us in for_the_innermost(in_step(recorded, "cpu")):
        found[name] += us
    assert found == pytest.approx(expected, abs=1.0)


def test_a_record_of_it_is_json():
    found = profile_step(operators(64), "cpu")
    record = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert list(record) == ["profiled_ms", "busy_ms", "categories", "top", "device"]
    assert sum(record["categories"].values()) == record["busy_ms"]
    assert list(record["top"][0]) == ["name", "category", "ms", "calls"]


def test_operators_of_other_threads_are_not_counted():
    def run():
        torch.ones(8).add_(1)
        other = threading.Thread(target=operators())
        other.start()
        other.join()

    found = profile_step(run, "cpu")
    assert found.categories[MATRIX_PRODUCTS] == 0
    assert found.busy_ms > 0


def test_a_step_without_operators_is_refused():
    with pytest.raises(ProfileError, match="no operator"):
        profile_step(lambda: None, "cpu")


def test_after_an_error_in_the_step_there_is_no_trace_and_one_can_profile_again(tmp_path):
    def run():
        torch.ones(8).add_(1)
        raise ValueError("the step failed")

    with pytest.raises(ValueError, match="the step failed"):
        profile_step(run, "cpu", tmp_path / "trace.json")
    assert not list(tmp_path.iterdir())
    assert profile_step(operators(64), "cpu").busy_ms > 0
