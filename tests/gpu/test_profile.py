"""A profiled step on a GPU: what it did, in categories that add up, and a trace that says the same."""

from __future__ import annotations

import json

import pytest
import torch

from harness.measure.categories import CATEGORIES, COPIES, MATRIX_PRODUCTS, OTHER, SAMPLING
from harness.measure.profile import in_step, profile_step

pytestmark = pytest.mark.alone


@pytest.fixture
def operators():
    """A large matrix product, a copy from the host, one on the GPU, and a softmax; run before, so loaded."""
    x, weight = (torch.randn(4096, 4096, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    host = torch.ones(1 << 20).pin_memory()
    target = torch.empty_like(x)

    def run():
        target.copy_(x @ weight)
        return torch.softmax(host.to("cuda", non_blocking=True).view(1024, 1024), dim=-1)

    run()
    torch.cuda.synchronize()
    return run


def test_categories_add_up_and_the_trace_holds_the_kernels(operators, tmp_path):
    found = profile_step(operators, "cuda", tmp_path / "trace.json")
    assert tuple(found.categories) == CATEGORIES
    assert all(found.categories[part] > 0 for part in (MATRIX_PRODUCTS, COPIES, SAMPLING))
    assert found.categories[MATRIX_PRODUCTS] > 0.5 * found.busy_ms
    assert found.categories[OTHER] == 0
    assert sum(entry.ms for entry in found.top) == pytest.approx(found.busy_ms)
    assert 0 < found.busy_ms <= found.profiled_ms

    recorded = json.loads((tmp_path / "trace.json").read_text())
    activities = in_step(recorded["traceEvents"], "cuda")
    ends = [one.end_us for one in activities]
    assert len(activities) == sum(entry.calls for entry in found.top) >= 4
    assert found.busy_ms <= (max(ends) - min(one.start_us for one in activities)) / 1e3
    kinds = {one.get("cat") for one in recorded["traceEvents"]}
    assert {"kernel", "gpu_memcpy", "cpu_op"} <= kinds


def test_an_injected_delay_is_in_the_profile_and_the_profiler_s_own_is_not():
    x = torch.ones(1 << 20, device="cuda")

    def run():
        torch.cuda._sleep(1_000_000)
        x.mul_(1.0)

    found = profile_step(run, "cuda")
    assert (found.top[0].category, found.top[0].calls) == (OTHER, 1)
    assert 0.3 < found.categories[OTHER] < 2.0  # a million cycles
    assert found.spins_us == (pytest.approx(1e3 * found.categories[OTHER]),)


def test_work_on_two_streams_counts_once(tmp_path):
    streams = [torch.cuda.Stream() for _ in range(2)]

    def run():
        for stream in streams:
            with torch.cuda.stream(stream):
                torch.cuda._sleep(4_000_000)

    run()
    torch.cuda.synchronize()
    found = profile_step(run, "cuda", tmp_path / "trace.json")
    activities = in_step(json.loads((tmp_path / "trace.json").read_text())["traceEvents"], "cuda")
    assert len(activities) == found.top[0].calls == 2
    together_ms = sum(one.end_us - one.start_us for one in activities) / 1e3
    assert found.busy_ms < 0.75 * together_ms


def test_a_step_that_leaves_the_gpu_idle_is_refused():
    with pytest.raises(RuntimeError, match="no GPU activity"):
        profile_step(lambda: torch.ones(8).add_(1), "cuda")
