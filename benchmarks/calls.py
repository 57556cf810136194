"""The attention calls that the accuracy benchmarks measure: vLLM's FA3 on one request's random K and V."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# Before anything heavy, so that the harness and tests.calls are found.
import common  # noqa: F401

from harness import kernels
from harness.measure.sampler import Series
from harness.measure.timers import Step
from harness.replay import arms
from harness.replay.series import Judge, prepare
from harness.runs.record import Result, Status
from tests.attention_calls import make_call, place, plan

SPREAD_K = 16
# Named after their rough time on an H100.
CALLS = {
    "20 us": {"length": 1152, "heads": 12, "kv_heads": 12, "head_dim": 64},
    "100 us": {"length": 4608, "heads": 12, "kv_heads": 12, "head_dim": 64},
    "1 ms": {"length": 8192, "heads": 32, "kv_heads": 8, "head_dim": 128},
}


class Placed:
    """A call in its own cache, in one segment and in SPREAD_K segments, with the engine's kernel."""

    def __init__(self, **shape: Any) -> None:
        call = make_call(**shape, block_size=16, device="cuda", fa_version=3)
        self.kernel = kernels.for_engine(call)
        self.placement = place(call, SPREAD_K)
        self.call = self.placement.call
        self.judge = Judge(self.call)

    def series(self, name: str) -> Series:
        """The engine kernel's arms as the main job has them: dense, paged in k segments, in one segment,
        again.
        """
        functions = kernels.flash_attn_functions("cuda")
        found = arms.of_series(self.placement, self.kernel, functions, "captured", plan)
        engines = [arm for arm in found if arm.cell.kernel == self.kernel.name]
        series = prepare(engines, self.judge, name)
        for result in series.results:
            if result.status is not Status.OK:
                raise SystemExit(f"{result.cell.arm}: {result.status.value}: {result.reason}")
        return series

    def one_segment(self) -> Step:
        """The kernel on the cache in one segment of blocks."""
        return Step(self.kernel.paged(self.call, self.placement.one_segment))

    def fragmented(self) -> Step:
        """The kernel on the cache in SPREAD_K segments."""
        return Step(self.kernel.paged(self.call, self.placement.split))


def contrast(results: Sequence[Result]) -> tuple[Result, Result]:
    """The series' one-segment baseline and its repetition: the A/A contrast."""
    (baseline,) = (r for r in results if r.one_segment_for and not r.control)
    (again,) = (r for r in results if r.control)
    return baseline, again
