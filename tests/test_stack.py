"""Room on Python's stack: whether calls map memory, by the page faults that this costs."""

import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.engine.child import Child
from harness.experiments import starting
from harness.experiments.prefill import measure
from harness.stack import with_room

CALLS, DEEPEST = 200, 250  # a chunk holds some 130 of these frames


def nothing() -> None:
    pass


def faults_at(depth: int) -> int:
    """Page faults of CALLS calls of a function that does nothing, from so many frames deeper."""
    if depth:
        return faults_at(depth - 1)
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    for _ in range(CALLS):
        nothing()
    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before


def most_faults() -> int:
    """Of all depths, from callers whose frames end at all places of a chunk."""
    return max(from_depth(n, lambda: max(map(faults_at, range(DEEPEST)))) for n in range(32))


def test_no_depth_makes_calls_map_memory() -> None:
    assert with_room(most_faults)() < CALLS / 4


@pytest.mark.skipif(not (3, 11) <= sys.version_info < (3, 13), reason="later ones have mended it")
def test_without_room_some_depth_does() -> None:
    assert most_faults() >= CALLS


def from_depth(depth: int, call: Callable[[], int]) -> int:
    return from_depth(depth - 1, call) if depth else call()


@pytest.mark.parametrize("depth", [0, 37, 90, 200])
def test_it_does_not_matter_how_deep_the_caller_is(depth: int) -> None:
    assert from_depth(depth, with_room(most_faults)) < CALLS / 4


def test_results_errors_and_names_are_the_function_s() -> None:
    @with_room
    def divided(a: float, *, by: float) -> float:
        """A docstring."""
        return a / by

    assert divided(1, by=2) == 0.5
    assert (divided.__name__, divided.__doc__) == ("divided", "A docstring.")
    with pytest.raises(ZeroDivisionError):
        divided(1, by=0)


class Counter:
    """What a child process serves."""

    def facts(self) -> None:
        return None

    def most_faults(self) -> int:
        return most_faults()


@contextmanager
def counter() -> Iterator[Counter]:
    yield Counter()


def test_a_child_process_has_room() -> None:
    with Child(counter) as child:
        assert child.ask("most_faults") < CALLS / 4


def test_a_run_has_room(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found: list[int] = []
    monkeypatch.setattr(measure, "run", lambda *_: found.append(most_faults()))
    folder = tmp_path / "run"
    assert starting.run("prefill", {"model": "gpt2", "length": 16, "output_dir": folder}) == folder
    assert found[0] < CALLS / 4
