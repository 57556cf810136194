"""Timers on a GPU: what they agree on, what they leave out, and the cache that calls start from."""

from __future__ import annotations

import time
from dataclasses import replace
from statistics import median

import pytest
import torch

from harness import kernels
from harness.kernels import DenseKV
from harness.measure import ceilings, clocks
from harness.measure.timers import CudaEventTimer, CuptiTimer, Step, time_rounds
from tests.attention_calls import make_call

pytestmark = pytest.mark.alone


def medians(timer, steps, rounds=30):
    """Median time of each step, after three rounds of warm-up."""
    for _ in range(3):
        timer.time_round(steps)
    columns = zip(*time_rounds(timer, [steps] * rounds), strict=True)
    return [median(column) for column in columns]


def l2_bytes():
    return torch.cuda.get_device_properties(0).L2_cache_size


@pytest.mark.parametrize("l2", ["warm", "cold"])
def test_cupti_and_events_agree_on_long_kernels(l2):
    """Copies of 0.2 and 0.8 ms on an H100; they leave the clock alone, as matrix products would not."""
    sources = [torch.zeros(size, dtype=torch.uint8, device="cuda") for size in (2**28, 2**30)]
    targets = [torch.empty_like(source) for source in sources]
    steps = [Step(lambda a=a, b=b: b.copy_(a)) for a, b in zip(sources, targets, strict=True)]
    by_events, by_cupti = (medians(timer(l2), steps) for timer in (CudaEventTimer, CuptiTimer))
    for seen, alone in zip(by_events, by_cupti, strict=True):
        assert alone == pytest.approx(seen, rel=0.03)


@pytest.mark.parametrize("timer", [CudaEventTimer, CuptiTimer])
def test_launches_are_in_no_figure(timer):
    """Many small kernels take as long as their number says, though each is far shorter than its launch."""
    x = torch.randn(1 << 20, device="cuda")
    steps = [Step(lambda n=n: [x.mul_(1.0) for _ in range(n)]) for n in (20, 80)]
    short, long = medians(timer(), steps)
    assert 3.0 < long / short < 5.0


def test_slow_python_between_launches_is_not_timed():
    x = torch.randn(1 << 20, device="cuda")

    def slow() -> None:
        x.mul_(1.0)
        until = time.perf_counter() + 0.005
        while time.perf_counter() < until:
            pass
        x.mul_(1.0)

    def quick() -> None:
        x.mul_(1.0)
        x.mul_(1.0)

    timer = CudaEventTimer()
    hesitating, direct = medians(timer, [Step(slow), Step(quick)])
    assert hesitating < 2 * direct
    assert timer.launch_bound == 0


def test_a_call_that_waits_for_the_gpu_is_counted_and_its_neighbours_are_not():
    x = torch.randn(1 << 20, device="cuda")

    def waiting() -> None:
        x.mul_(1.0)
        torch.cuda.synchronize()
        x.mul_(1.0)

    steps = [Step(lambda: x.mul_(1.0)), Step(waiting), Step(lambda: x.mul_(1.0))]
    timer = CudaEventTimer()
    before, _, after = medians(timer, steps)
    assert after == pytest.approx(before, rel=0.5)
    assert timer.launch_bound == 33  # the waiting call once a round


@pytest.mark.parametrize("timer", [CudaEventTimer, CuptiTimer])
def test_cold_is_slower_than_warm_where_data_fits_the_cache(timer):
    source, target = (torch.zeros(l2_bytes() // 8, dtype=torch.uint8, device="cuda") for _ in range(2))
    steps = [Step(lambda: target.copy_(source))]
    (warm,), (cold,) = (medians(timer(l2), steps) for l2 in ("warm", "cold"))
    assert cold > 1.2 * warm


def after_writing_and_after_evicting(timer, l2):
    """A copy's time right after its input was written, and right after everything was evicted."""
    source, target = (torch.zeros(l2_bytes() // 4, dtype=torch.uint8, device="cuda") for _ in range(2))
    polluter = torch.zeros(4 * l2_bytes(), dtype=torch.uint8, device="cuda")

    def copy() -> None:
        target.copy_(source)

    steps = [Step(lambda: source.fill_(1)), Step(copy), Step(polluter.zero_), Step(copy)]
    _, heated, _, cooled = medians(timer(l2), steps)
    return heated, cooled


@pytest.mark.parametrize("timer", [CudaEventTimer, CuptiTimer])
def test_a_cold_call_does_not_depend_on_what_ran_ahead(timer):
    heated, cooled = after_writing_and_after_evicting(timer, "cold")
    assert heated == pytest.approx(cooled, rel=0.1)


@pytest.mark.parametrize("timer", [CudaEventTimer, CuptiTimer])
def test_a_warm_call_hardly_depends_on_what_ran_ahead(timer):
    """One run does not bring everything back after an eviction, but most of it."""
    heated, cooled = after_writing_and_after_evicting(timer, "warm")
    cold = after_writing_and_after_evicting(timer, "cold")[1]
    assert cooled - heated < 0.3 * (cold - heated)


@pytest.mark.parametrize("timer", [CudaEventTimer, CuptiTimer])
def test_attention_on_a_flushed_cache_is_as_cold_as_on_inputs_never_used_before(timer):
    """FA3 asks the cache to keep K and V; the flush must reach them all the same."""
    call = make_call(2048, heads=12, kv_heads=12, device="cuda", block_size=16, fa_version=3)
    kernel = kernels.for_engine(call)

    def on_a_copy():
        query, key, value = (tensor.clone() for tensor in (call.query, call.key, call.value))
        return Step(kernel.dense(replace(call, query=query), DenseKV(key, value)))

    copies = [on_a_copy() for _ in range(8 + 2 * l2_bytes() // (3 * call.query.nbytes))]
    used_before = copies[0]
    steps = [step for fresh in copies for step in (fresh, used_before)]
    times = medians(timer("cold"), steps)
    assert median(times[1::2]) == pytest.approx(median(times[::2]), rel=0.03)


def test_ceilings_are_those_of_a_gpu():
    found = ceilings.measure("cuda", clocks.for_device("cuda"))
    assert found.clock_mhz is None or found.clock_mhz > 200
    assert found.tflops > 20
    assert found.gbps > 100
