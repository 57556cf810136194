"""Timers, as far as they can be tested without a GPU: the reading of a CUPTI trace, and who times what."""

from __future__ import annotations

import pytest

from harness.measure import ceilings, timers
from harness.measure.clocks import ClockReading, NoClocks
from harness.measure.timers import Activity, Step, busy_us

SPIN = "at::cuda::(anonymous namespace)::spin_kernel(long)"


def trace(*names_and_lengths):
    """Activities one after the other, 1 us apart."""
    found, now = [], 0.0
    for name, length in names_and_lengths:
        found.append(Activity(name, now, now + length))
        now += length + 1
    return found


def call(*lengths, ahead=50.0):
    """A call of kernels of these lengths, its preparation, and the spins around them."""
    return [
        (SPIN, 0.5),
        ("prepare", ahead),
        (SPIN, 0.5),
        *(("run", length) for length in lengths),
        (SPIN, 0.5),
    ]


def test_kernels_are_those_between_a_call_s_spins():
    activities = trace((SPIN, 0.5), *call(10), *call(20, 3), *call(5, ahead=0.1))
    assert busy_us(activities, 3) == pytest.approx([10, 23, 5])


def test_a_trace_may_be_out_of_order_and_lack_the_first_spin():
    activities = trace(*call(10), *call(20))
    assert busy_us(activities[::-1], 2) == pytest.approx([10, 20])


def test_overlapping_kernels_count_once():
    kernels = [Activity("run", 10.0, 30.0), Activity("run", 25.0, 40.0), Activity("run", 26.0, 29.0)]
    spins = [Activity(SPIN, start, start + 0.5) for start in (0.0, 9.0, 41.0)]
    assert busy_us([*spins, Activity("prepare", 1.0, 8.0), *kernels], 1) == [30.0]


@pytest.mark.parametrize("lost", range(11))
def test_a_trace_that_lacks_a_record_is_refused(lost):
    """Unless it lacks one of the first two spins, which is as good as none."""
    activities = trace((SPIN, 0.5), *call(10), *call(20))
    assert len(activities) == 11
    found = busy_us(activities[:lost] + activities[lost + 1 :], 2)
    assert found == ([10, 20] if lost < 2 else None)


def test_no_calls_take_no_time_and_an_empty_trace_has_no_call():
    assert busy_us([], 0) == []
    assert busy_us([], 1) is None


def test_what_happens_on_a_cpu():
    timer = timers.for_device("cpu")
    assert timer.name == timers.for_device("cpu", "perf_counter").name == "perf_counter"
    order: list[str] = []
    steps = [Step(lambda: order.append("a")), Step(lambda: order.append("b"))]
    times = timers.time_rounds(timer, [steps, steps[::-1]])
    assert order == ["a", "b", "b", "a"]
    assert [len(one) for one in times] == [2, 2]


@pytest.mark.parametrize(("device", "timer"), [("cpu", "events"), ("cpu", "cupti"), ("cuda", "perf_counter")])
def test_a_timer_for_another_device_is_refused(device, timer):
    with pytest.raises(ValueError, match=timer):
        timers.for_device(device, timer)


def test_many_rounds_are_taken_at_once_where_a_timer_can():
    class AtOnce:
        name = "at once"

        def time_round(self, steps):
            raise AssertionError("one at a time")

        def time_rounds(self, rounds):
            return [[float(len(steps))] * len(steps) for steps in rounds]

    step = Step(lambda: None)
    assert timers.time_rounds(AtOnce(), [[step], [step, step]]) == [[1.0], [2.0, 2.0]]


def test_a_cpu_has_ceilings():
    found = ceilings.measure("cpu", NoClocks())
    assert found.clock_mhz is None
    assert found.tflops > 0
    assert found.gbps > 0


class Readings:
    """A monitor of made-up clocks, one after another, then None."""

    def __init__(self, *sm_mhz: int) -> None:
        self.left = list(sm_mhz)

    def read(self) -> ClockReading:
        return ClockReading(sm_mhz=self.sm_mhz())

    def sm_mhz(self) -> int | None:
        return self.left.pop(0) if self.left else None


def test_ceilings_are_of_the_best_round_and_clocks_of_all(monkeypatch):
    class MadeUp:
        """4 ms and 8 ms a round, once 2 ms and 1 ms."""

        rounds = 0

        def time_round(self, steps):
            self.rounds += 1
            return [2000.0, 1000.0] if self.rounds == 2 else [4000.0, 8000.0]

    monkeypatch.setattr(timers, "for_device", lambda *_: MadeUp())
    found = ceilings.measure("cpu", Readings(1980, 1755, 1700))
    side, size = ceilings.SIZES["cpu"]
    assert found.tflops == pytest.approx(2 * side**3 / 2e-3 / 1e12)
    assert found.gbps == pytest.approx(2 * size / 1e-3 / 1e9)
    assert found.clock_mhz == 1755
