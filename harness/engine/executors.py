"""What vLLM's executors need around them when the ranks are processes of their own."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from harness.engine.exits import describe_exit
from harness.shipped import python_path

# Loggers that print pages in this process when a rank dies. The ranks' own logs stay.
TALKATIVE = ("vllm.logging_utils.dump_input", "vllm.v1.executor.multiproc_executor",
             "vllm.v1.executor.ray_executor_v2")  # fmt: skip


class DeathWatch(logging.Filter):
    """Learns from the executor which rank died first, and keeps its log output off the screen.

    Exit codes do not tell which: the executor ends the other ranks at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self._notice = ""
        self._heard = threading.Event()

    def filter(self, record: logging.LogRecord) -> bool:
        """Remember the first record that says which rank died, and pass it on to other engines' filters."""
        if not self._notice and "died unexpectedly" in record.getMessage():
            self._notice = record.getMessage()
            self._heard.set()
        return True

    def _mute(self, _record: logging.LogRecord) -> bool:
        return False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Replace vLLM's log output for the lifetime of one engine."""
        loggers = [logging.getLogger(name) for name in TALKATIVE]
        for logger in loggers:
            logger.filters.insert(0, self)  # before all mutes, which are at the end of the list
            logger.addFilter(self._mute)
        try:
            yield
        finally:
            for logger in loggers:
                logger.removeFilter(self)
                logger.removeFilter(self._mute)

    def describe(self, timeout_s: float = 5.0) -> str:
        """Which rank died and how, such as "rank 1 died with SIGKILL".

        Args:
            timeout_s: how long to wait for the notice; the executor marks itself failed before it logs.
        """
        self._heard.wait(timeout_s)
        rank = re.search(r"VllmWorker-(\d+)|rank=\[?(\d+)", self._notice)
        code = re.search(r"exit code: (-?\d+)", self._notice)
        who = f"rank {rank[1] or rank[2]}" if rank else "a rank"
        return f"{who} died" + (f" with {describe_exit(int(code[1]))}" if code else "")


def cpu_binding(ranks: int, cpus: Sequence[int]) -> str:
    """VLLM_CPU_OMP_THREADS_BIND for `ranks` ranks: equal shares of `cpus`, or no binding if there are too
    few.

    vLLM's own choice reserves CPUs for other processes and fails if that leaves none.
    """
    share = len(cpus) // ranks
    if not share:
        return "nobind"
    shares = [cpus[rank * share : (rank + 1) * share] for rank in range(ranks)]
    return "|".join(",".join(map(str, each)) for each in shares)


# Engines of one machine: their processes need no other interface, and nobody else should reach them.
HOST = "127.0.0.1"
LOOPBACK = {"VLLM_HOST_IP": HOST, "GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}


def joins_a_cluster(executor: str | None) -> bool:
    """Whether an engine's ranks are started by a Ray cluster of the user's own."""
    return executor == "ray" and "RAY_ADDRESS" in os.environ


def start_ray(variables: Sequence[str]) -> None:
    """Start Ray on this machine, or join the cluster of the environment's RAY_ADDRESS.

    Args:
        variables: of this process's environment to pass on to the workers, where set.
    """
    import ray

    own = not joins_a_cluster("ray")
    names = [*variables, *LOOPBACK] if own else variables
    environment = {name: os.environ[name] for name in names if name in os.environ}
    with _ray_on_loopback() if own else contextlib.nullcontext():
        ray.init(
            address="local" if own else os.environ["RAY_ADDRESS"],
            log_to_driver=False,
            logging_level=logging.ERROR,
            include_dashboard=False,
            runtime_env={
                "env_vars": environment | {"PYTHONPATH": python_path(os.environ)}
            },  # for engine.worker
            **({"_node_ip_address": HOST} if own else {}),
        )


@contextlib.contextmanager
def _ray_on_loopback() -> Iterator[None]:
    """Let a Ray that is started inside the block listen on 127.0.0.1 alone, which it would replace by the
    machine's own address.
    """
    from ray._private import services

    resolve = services.resolve_ip_for_localhost
    services.resolve_ip_for_localhost = lambda host: host
    try:
        yield
    finally:
        services.resolve_ip_for_localhost = resolve


def stop_ray() -> None:
    """Disconnect, and stop what `start_ray` started. If left to the interpreter's exit, actors fail
    noisily.
    """
    import ray

    ray.shutdown()
