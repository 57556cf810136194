"""Where a sweep's points run: on this machine or a Ray cluster."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from harness.device import Kind
from harness.sweep.process import Ended


@dataclass(frozen=True)
class Task:
    """A point to run."""

    number: int  # in the sweep, from 0
    directory: Path
    gpus: int  # that it needs, if the machines have any


@dataclass(frozen=True)
class Progress:
    """Callbacks while tasks run, called in the thread that runs them, and the event that stops them."""

    on_start: Callable[[Task, str], None]  # the task, and a message
    on_end: Callable[[Task, Ended], None]
    stop: threading.Event  # once set, no task is started and running ones are interrupted
    on_wait: Callable[[], None] = lambda: None  # every second or so while tasks run, where that is possible


class Machines(Protocol):
    """See `local.ThisMachine` and `cluster.RayCluster`."""

    kind: Kind  # of the device that the points run on
    most_gpus: int  # available to one task; 0 on CPUs

    def run(self, tasks: Sequence[Task], progress: Progress) -> None:
        """Run all tasks unless stopped; returns when none is running."""
        ...

    def close(self) -> None:
        """Release resources."""
        ...
