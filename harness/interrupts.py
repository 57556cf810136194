"""Signals that end a run: Ctrl-C's, those of batch systems, and that of a closed terminal.

An exception that a handler raises is lost within a finaliser, and does harm in the middle of a write or of an
engine's end. So the handler sets a flag, which safe points `check`; it raises at once, too, but not in blocks
that are `deferred`. A second signal only counts: the run is already ending. A third ends what hangs.
"""

from __future__ import annotations

import atexit
import functools
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

HANGS = 3  # signals after which nothing is waited for
NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
USUAL = (signal.SIG_DFL, signal.default_int_handler)  # nohup ignores SIGHUP, which should stay so


class _State:
    """Of this process, whose main thread alone gets signals."""

    signals = 0
    deferred = 0
    finishing = False


@contextmanager
def caught() -> Iterator[None]:
    """Turn signals inside the block into KeyboardInterrupt; does nothing within another such block."""
    here = threading.current_thread() is threading.main_thread()  # no other thread may set handlers
    before = {number: signal.getsignal(number) for number in NUMBERS if here}
    usual = {number: handler for number, handler in before.items() if handler in USUAL}
    if not usual:
        yield
        return
    hook = sys.unraisablehook
    _State.signals, _State.deferred, _State.finishing = 0, 0, False
    for number in usual:
        signal.signal(number, _handle)
    sys.unraisablehook = functools.partial(_report_unless_interrupt, hook)
    try:
        yield
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
        sys.unraisablehook = hook
        _State.signals = 0


def check() -> None:
    """A safe point: raise KeyboardInterrupt if there was a signal."""
    if _State.signals:
        raise KeyboardInterrupt


def pending() -> bool:
    """Whether there was a signal."""
    return _State.signals > 0


@contextmanager
def deferred() -> Iterator[None]:
    """Signals inside the block wait for the next safe point."""
    _State.deferred += 1
    try:
        yield
    finally:
        _State.deferred -= 1


@contextmanager
def finishing() -> Iterator[None]:
    """Signals inside the block, a run's last and bounded work, have no effect."""
    _State.finishing = True
    try:
        yield
    finally:
        _State.finishing = False


@functools.cache
def ignore_at_exit() -> None:
    """From here on nothing is left to interrupt, and the interpreter's exit prints no traceback."""
    for number in NUMBERS:
        if signal.getsignal(number) in USUAL:
            atexit.register(signal.signal, number, signal.SIG_IGN)


def _handle(*_: Any) -> None:
    if _State.finishing:
        return
    _State.signals += 1
    if _State.signals >= HANGS or (_State.signals == 1 and not _State.deferred):
        raise KeyboardInterrupt


def _report_unless_interrupt(report: Any, unraisable: Any) -> None:
    """What a finaliser swallowed is reported, except for what a safe point will raise again."""
    if not issubclass(unraisable.exc_type, KeyboardInterrupt):
        report(unraisable)
