"""Points on this machine: as many at a time as its GPUs allow, one at a time on a CPU."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from harness import device
from harness.sweep import process
from harness.sweep.machines import Progress, Task
from harness.sweep.process import Ended


class ThisMachine:
    """Runs tasks in order, each as soon as enough GPUs are free."""

    def __init__(self) -> None:
        self.kind = device.kind()
        # On a CPU every point gets the whole machine: two at once would disturb each other.
        self._places = _gpus() if self.kind == "cuda" else ["the CPU"]
        self.most_gpus = len(self._places) if self.kind == "cuda" else 0

    def run(self, tasks: Sequence[Task], progress: Progress) -> None:
        """Run all tasks unless stopped; returns when none is running."""
        waiting, free = deque(tasks), list(self._places)
        running: dict[Future[Ended], tuple[Task, list[str]]] = {}
        with ThreadPoolExecutor(len(self._places)) as pool:
            while running or (waiting and not progress.stop.is_set()):
                while waiting and not progress.stop.is_set() and self._needs(waiting[0]) <= len(free):
                    task = waiting.popleft()
                    taken = [free.pop(0) for _ in range(self._needs(task))]
                    progress.on_start(task, f"starts on {self._name(taken)}")
                    future = pool.submit(
                        process.run, task.directory, self._environment(taken), progress.stop.is_set
                    )
                    running[future] = (task, taken)
                progress.on_wait()
                for future in wait(running, timeout=1, return_when=FIRST_COMPLETED).done:
                    task, taken = running.pop(future)
                    free = sorted(free + taken, key=self._places.index)
                    progress.on_end(task, future.result())

    def close(self) -> None:
        """Nothing to release."""

    def _needs(self, task: Task) -> int:
        return task.gpus if self.kind == "cuda" else 1

    def _name(self, taken: Sequence[str]) -> str:
        return f"GPU {','.join(taken)}" if self.kind == "cuda" else taken[0]

    def _environment(self, taken: Sequence[str]) -> dict[str, str]:
        return os.environ | ({"CUDA_VISIBLE_DEVICES": ",".join(taken)} if self.kind == "cuda" else {})


def _gpus() -> list[str]:
    """The GPUs that CUDA may use, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",")]
    return [str(number) for number in range(len(device.nvidia_devices()))]
