"""Signals: none is lost, and none comes where it would do harm."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from harness import interrupts


@pytest.fixture(autouse=True)
def _as_in_a_shell() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in interrupts.NUMBERS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Garbage:
    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


@pytest.mark.filterwarnings("error")
def test_a_signal_in_a_finaliser_is_found_at_the_next_safe_point() -> None:
    with interrupts.caught():
        garbage = Garbage()
        del garbage
        assert interrupts.pending()
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_raises_at_once_but_not_in_a_deferred_block(number: signal.Signals) -> None:
    reached = []
    with interrupts.caught(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)
    with interrupts.caught():
        with interrupts.deferred():
            signal.raise_signal(number)
            reached.append("the end of the block")
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()
    assert reached


def test_a_second_signal_does_not_disturb_the_end_and_a_third_ends_what_hangs() -> None:
    with interrupts.caught():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt), interrupts.deferred():
            signal.raise_signal(signal.SIGINT)
        with interrupts.finishing():
            signal.raise_signal(signal.SIGINT)


def test_handlers_are_as_before_and_an_ignored_signal_stays_ignored() -> None:
    with interrupts.caught(), interrupts.caught():
        signal.raise_signal(signal.SIGHUP)
    assert not interrupts.pending()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
