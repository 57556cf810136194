"""The watch on a runner's steps: each is seen once, begun and ended, however it ends."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from patches import steps

TOKENS = SimpleNamespace(num_scheduled_tokens={"a": 3})
NOTHING = SimpleNamespace(num_scheduled_tokens={})


class Runner:
    """A runner that samples, pools or is done at once."""

    def __init__(self, done: object) -> None:
        self.done = done

    def execute_model(self, scheduler_output: Any) -> Any:
        return self.done

    def sample_tokens(self, grammar: Any) -> str:
        return "tokens"

    def pool(self) -> str:
        return "vectors"


def run(runner: Runner, *calls: tuple[str, Any]) -> list[str]:
    """What is seen of these calls."""
    seen: list[str] = []
    with steps.watching(runner, {}, lambda output: seen.append("begin"), lambda graph: seen.append(graph)):
        for name, argument in calls:
            getattr(runner, name)(*([] if argument is None else [argument]))
    return seen


@pytest.mark.parametrize(
    ("done", "calls"),
    [
        ("at once", [("execute_model", TOKENS)]),
        (None, [("execute_model", TOKENS), ("sample_tokens", "grammar")]),
        (None, [("execute_model", TOKENS), ("pool", None)]),
    ],
)
def test_a_step_ends_where_its_output_is_made(done, calls):
    assert run(Runner(done), *calls) == ["begin", "NONE"]


def test_an_empty_step_is_none_and_one_that_failed_ends_with_the_next():
    calls = [("execute_model", NOTHING), ("execute_model", TOKENS), ("execute_model", TOKENS), ("pool", None)]
    assert run(Runner(None), *calls) == ["begin", "NONE", "begin", "NONE"]


def test_the_runner_is_as_before_afterwards():
    runner = Runner(None)
    run(runner, ("execute_model", TOKENS))
    assert vars(runner) == {"done": None}
