"""Points on a Ray cluster, one remote task each. Files are exchanged through a shared file system."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.config import ConfigError
from harness.device import Kind
from harness.sweep import process
from harness.sweep.machines import Progress, Task
from harness.sweep.process import OPTIONS, Ended
from harness.units import first_line

CARRIED = ("HF_", "OMP_", "VLLM_")  # prefixes of the environment variables to pass on
STOP = "stop"  # a file in a point's directory that tells its process to end
POLL_S = 0.5
MARGIN_S = 10.0
SHARED = (
    "--output-dir and the directory that the sweep is started in must be on a file system that all machines "
    "of the cluster share"
)
NOT_BEGUN = Ended("interrupted", "Ctrl-C before it had begun")


class RayCluster:
    """Ray decides where a task runs; the connection lasts until `close`."""

    def __init__(self, address: str) -> None:
        """Raises ConfigError without Ray, or if no cluster can be reached at the address."""
        try:
            import ray
        except ImportError:
            raise ConfigError(
                f'--ray-address {address}: Ray is not installed; pip install "ray==2.60.0", or leave it out: '
                "the GPUs of this machine need no Ray"
            ) from None
        self._ray: Any = ray
        _check_reachable(address)
        # Ray's announcements about GPUs do not concern a sweep's user.
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            message = f"--ray-address {address}: {first_line(error)}; see `ray start --help`"
            raise ConfigError(message) from None
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self.most_gpus = int(max((node.get("GPU", 0) for node in nodes), default=0))
        self.kind: Kind = "cuda" if self.most_gpus else "cpu"
        # On CPUs a task takes a whole machine, the largest: two on one machine would disturb each other.
        self._cpus = int(max(node.get("CPU", 0) for node in nodes))

    def run(self, tasks: Sequence[Task], progress: Progress) -> None:
        """Run all tasks unless stopped; returns when none is running."""
        running = {self._submit(task): task for task in tasks}
        for task in tasks:
            progress.on_start(task, "handed to Ray")
        cancel_at: float | None = None
        while running:
            if cancel_at is None and progress.stop.is_set():
                cancel_at = time.monotonic() + process.TIME_TO_STOP_S + MARGIN_S
                for task in running.values():
                    (task.directory / STOP).touch()
            if (
                cancel_at is not None and time.monotonic() > cancel_at
            ):  # tasks that have not begun wait for others
                for reference in running:
                    self._ray.cancel(reference)
            done, _ = self._ray.wait(list(running), timeout=POLL_S)
            for reference in done:
                task = running.pop(reference)
                (task.directory / STOP).unlink(missing_ok=True)
                progress.on_end(task, self._result(task, reference))

    def close(self) -> None:
        """Leave the cluster."""
        self._ray.shutdown()

    def _submit(self, task: Task) -> Any:
        (task.directory / STOP).unlink(missing_ok=True)  # left by a killed sweep
        gpus = task.gpus if self.kind == "cuda" else 0
        options = {"num_gpus": gpus, "num_cpus": 1 if gpus else self._cpus, "max_retries": 0}
        carried = {name: value for name, value in os.environ.items() if name.startswith(CARRIED)}
        remote = self._ray.remote(_run_there).options(**options)
        return remote.remote(str(task.directory), os.getcwd(), carried)

    def _result(self, task: Task, reference: Any) -> Ended:
        exceptions = self._ray.exceptions
        try:
            ended: Ended = self._ray.get(reference)
        except (exceptions.TaskCancelledError, KeyboardInterrupt):
            return NOT_BEGUN
        except exceptions.RayError as error:  # the machine is gone or lacks the harness
            return Ended("failed", " ".join(str(error).split())[-300:])
        if ended.status == "finished" and not process.is_finished(task.directory):
            return Ended("failed", f"its run is on {ended.host}, not here: {SHARED}")
        return ended


def _check_reachable(address: str) -> None:
    """Raise ConfigError if nothing listens at HOST:PORT, which Ray itself takes minutes to report."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise ConfigError(
            f"--ray-address {address}: {error.strerror or error}; see `ray start --help`"
        ) from None


def _run_there(directory: str, working_directory: str, carried: Mapping[str, str]) -> Ended:
    """Run a point on a machine of the cluster."""
    for needed in (Path(directory) / OPTIONS, Path(working_directory)):
        if not needed.exists():
            return Ended("failed", f"{socket.gethostname()} has no {needed}: {SHARED}")
    # Ray limits OpenMP to a task's share of the cores; a point gets the same as without Ray.
    own = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    os.chdir(working_directory)
    # A file also reaches workers that ignore SIGINT, and so Ray's cancellation.
    stop = Path(directory) / STOP
    if stop.exists():
        return NOT_BEGUN
    return process.run(Path(directory), {**own, **carried}, stopped=stop.exists)
