"""How a process ended, and whether it was killed for lack of memory."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass, field
from pathlib import Path

from harness.runs.record import Status

VMSTAT = Path("/proc/vmstat")


def describe_exit(exit_code: int | None) -> str:
    """E.g. "exit status 1", "SIGKILL"; `exit_code` is negative after a signal, as in Python."""
    if exit_code is None or exit_code >= 0:
        return f"exit status {exit_code}"
    try:
        return signal.Signals(-exit_code).name
    except ValueError:  # a real-time signal
        return f"signal {-exit_code}"


def _oom_kills() -> int | None:
    """How many processes the kernel has killed for memory, in any container of this machine; None:
    unknown.
    """
    try:
        counted = re.search(r"^oom_kill (\d+)$", VMSTAT.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(counted[1]) if counted else None


@dataclass(frozen=True)
class MemoryWatch:
    """Created as a process starts; tells whether the kernel has killed for memory since."""

    oom_kills: int | None = field(default_factory=_oom_kills)

    def judge_exit(self, exit_code: int | None) -> tuple[Status, str]:
        """The status for what a process leaves undone, and how it ended.

        The kernel's out-of-memory killer sends SIGKILL, but others may too. It counts as out of memory if the
        kernel has counted a kill since the process started. Any other end is an error, as is a SIGKILL where
        the kernel has counted none or does not say.
        """
        if exit_code != -signal.SIGKILL:
            return Status.ERROR, describe_exit(exit_code)
        now = _oom_kills()
        if now is None or self.oom_kills is None:
            return Status.ERROR, "SIGKILL; the kernel does not say whether memory ran out"
        if now > self.oom_kills:
            return Status.OUT_OF_MEMORY, "SIGKILL, and the kernel has killed for memory since it started"
        return Status.ERROR, "SIGKILL, and the kernel has not killed for memory since it started"
