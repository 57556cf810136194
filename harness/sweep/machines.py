"""What runs a sweep's points: this machine, or a Ray cluster."""

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
    """A point that is to be run."""

    number: int  # in the sweep, from 0
    directory: Path
    gpus: int  # that it needs, where there are any


@dataclass(frozen=True)
class Progress:
    """What is told while tasks run, in the thread that runs them, and what stops them."""

    on_start: Callable[[Task, str], None]  # the task, and what to say of it
    on_end: Callable[[Task, Ended], None]
    stop: threading.Event  # once set, no task is started and those that run are interrupted


class Machines(Protocol):
    """See `local.ThisMachine` and `cluster.RayCluster`."""

    kind: Kind  # of device that the points run on
    most_gpus: int  # that one task may have; 0 on CPUs

    def run(self, tasks: Sequence[Task], progress: Progress) -> None:
        """Run all, unless they are stopped; returns when none runs any more."""
        ...

    def close(self) -> None:
        """Give back what was taken."""
        ...
