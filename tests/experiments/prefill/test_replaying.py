"""A series of the main job on a CPU whose arms run out of memory, each in turn: made ready, or timed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch

from harness.kernels import reference
from harness.measure import timers
from harness.measure.budget import Budget
from harness.measure.sampler import MAX_WARMUP_ROUNDS, Series, sample
from harness.measure.timers import Step
from harness.replay import arms
from harness.replay.placement import Placement
from harness.replay.series import Replay
from harness.runs.record import Result, Status
from tests.attention_calls import make_call, place

ROUNDS = 12
FITS = MAX_WARMUP_ROUNDS + 2  # calls of the arm that find memory: its warm-up and some samples, not all

with pytest.raises(RuntimeError) as on_cpu:
    torch.empty(1 << 60)
OUT_OF_MEMORY = {
    "cuda": torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "python": MemoryError("cannot hold it"),
    "cpu": on_cpu.value,
}


@pytest.fixture(scope="module")
def placement() -> Placement:
    return place(make_call(length=70, heads=2, kv_heads=2), spread_k=2)


def series_of(placement: Placement) -> Series:
    """Every arm of one layer at spread_k = 2, on captured and on random inputs."""
    return Replay("cpu", "shuffled", "even", seed=0).series(placement, with_synthetic=True)


def sampled(series: Series) -> list[Result]:
    return sample(series, timers.for_device("cpu"), Budget(60.0, 1, repeats=ROUNDS), seed=0)


def assert_only(failed: int, results: list[Result], error: Exception) -> None:
    """That arm alone is out of memory, for this reason; all others have all their samples."""
    name = (results[failed].cell, results[failed].one_segment_for, results[failed].control)
    assert results[failed].status is Status.OUT_OF_MEMORY, name
    assert str(error) in (results[failed].reason or ""), name
    for n, result in enumerate(results):
        if n != failed:
            assert (result.status, len(result.samples_us)) == (Status.OK, ROUNDS), (name, result)


def fail_to_bind(monkeypatch: pytest.MonkeyPatch, which: int, error: Exception) -> None:
    """Let the arm with this index in its series raise while its inputs are made."""
    build = arms.of_series
    counter: Iterator[int] = iter(range(1000))

    def no_memory() -> arms.Bound:
        raise error

    def built(*arguments: object) -> list[arms.Arm]:
        found = build(*arguments)  # type: ignore[arg-type]
        return [replace(arm, bind=no_memory) if next(counter) == which else arm for arm in found]

    monkeypatch.setattr(arms, "of_series", built)


def runs_out(step: Step, error: Exception, times: int) -> Step:
    """The step, which finds memory FITS times, then does not so many times."""
    calls = iter(range(1_000_000))

    def run() -> object:
        if FITS <= next(calls) < FITS + times:
            raise error
        return step.run()

    return Step(run)


def test_there_is_something_to_run_out_of(placement):
    """The arms that the tests below go through: all kernels, both kinds of data, all ready."""
    results = sampled(series_of(placement))
    assert len(results) >= 26
    assert {result.cell.data for result in results} == {"captured", "synthetic"}
    assert len({result.cell.kernel for result in results}) >= 6
    assert {(result.status, len(result.samples_us)) for result in results} == {(Status.OK, ROUNDS)}


@pytest.mark.parametrize("kind", OUT_OF_MEMORY)
def test_an_arm_that_cannot_be_made_ready_leaves_the_others_measured(placement, monkeypatch, kind):
    error = OUT_OF_MEMORY[kind]
    for n in range(len(series_of(placement).results)):
        with monkeypatch.context() as patch:
            fail_to_bind(patch, n, error)
            series = series_of(placement)
        results = sampled(series)
        assert_only(n, results, error)
        assert results[n].samples_us == []


@pytest.mark.parametrize("times", [1, 1_000_000])
@pytest.mark.parametrize("kind", OUT_OF_MEMORY)
def test_an_arm_that_no_longer_fits_keeps_its_samples_and_leaves_the_others_measured(placement, kind, times):
    error = OUT_OF_MEMORY[kind]
    for n in range(len(series_of(placement).results)):
        series = series_of(placement)
        step = series.steps[n]
        assert step is not None
        series.steps[n] = runs_out(step, error, times)
        results = sampled(series)
        assert_only(n, results, error)
        assert 0 < len(results[n].samples_us) < ROUNDS
        assert len(results[n].warmup_us) + len(results[n].samples_us) == FITS


@pytest.mark.parametrize(
    ("where", "lost"),
    [((reference, "attention_rows"), {"captured", "synthetic"}), ((arms, "synthetic"), {"synthetic"})],
)
def test_what_several_arms_need_takes_those_out_and_no_cell_is_lost(placement, monkeypatch, where, lost):
    """The float32 reference that all arms are held against, and the random inputs."""
    expected = [
        (result.cell, result.one_segment_for, result.control) for result in series_of(placement).results
    ]
    monkeypatch.setattr(*where, raising(OUT_OF_MEMORY["cuda"]))
    results = sampled(series_of(placement))
    assert [(result.cell, result.one_segment_for, result.control) for result in results] == expected
    for result in results:
        failed = result.cell.data in lost
        assert result.status is (Status.OUT_OF_MEMORY if failed else Status.OK)
        assert ("CUDA out of memory" in (result.reason or "")) == failed
        assert len(result.samples_us) == (0 if failed else ROUNDS)


@pytest.mark.parametrize("where", [(reference, "attention_rows"), (arms, "with_output")])
def test_a_request_alone_that_does_not_fit_keeps_its_cells_and_the_reason(monkeypatch, where):
    batch = place(make_call(lengths=[70, 33], heads=2, kv_heads=2), spread_k=2)
    replay = Replay("cpu", "shuffled", "even", seed=0)
    expected = [result.cell for result in replay.request_series(batch, 1).results]
    monkeypatch.setattr(*where, raising(OUT_OF_MEMORY["cuda"]))
    series = replay.request_series(batch, 1)
    assert [result.cell for result in series.results] == expected
    assert {(r.status, r.series) for r in series.results} == {
        (Status.OUT_OF_MEMORY, "spread=2 layer=0 request=1")
    }


def raising(error: Exception) -> Callable[..., object]:
    def function(*_: object, **__: object) -> object:
        raise error

    return function
