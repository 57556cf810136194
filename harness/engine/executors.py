"""What vLLM's executors need around them when the ranks are processes of their own."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Sequence

from harness.engine.exits import describe_exit
from harness.shipped import python_path

# Loggers that have pages to say in this process when a rank dies. What the ranks themselves log stays.
TALKATIVE = ("vllm.logging_utils.dump_input", "vllm.v1.executor.multiproc_executor",
             "vllm.v1.executor.ray_executor_v2")  # fmt: skip


class LastWords(logging.Filter):
    """Keeps what the executor says of the rank that died first, and lets nothing else through either.

    Exit codes do not tell it: the executor ends the other ranks at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self._said = ""
        self._heard = threading.Event()

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep a record if it is the first to say who died."""
        if not self._said and "died unexpectedly" in record.getMessage():
            self._said = record.getMessage()
            self._heard.set()
        return False

    def listen(self) -> LastWords:
        """Take the place of what vLLM would print."""
        for name in TALKATIVE:
            logging.getLogger(name).addFilter(self)
        return self

    def __str__(self) -> str:
        self._heard.wait(timeout=5)  # seconds; the executor marks itself failed before it logs who died
        rank = re.search(r"VllmWorker-(\d+)|rank=\[?(\d+)", self._said)
        code = re.search(r"exit code: (-?\d+)", self._said)
        who = f"rank {rank[1] or rank[2]}" if rank else "a rank"
        return f"{who} died" + (f" with {describe_exit(int(code[1]))}" if code else "")


def cpu_binding(ranks: int, cpus: Sequence[int]) -> str:
    """VLLM_CPU_OMP_THREADS_BIND for so many ranks: equal shares of `cpus`, or no binding if they are too few.

    vLLM's own choice keeps CPUs back for other processes and fails where that leaves none.
    """
    share = len(cpus) // ranks
    if not share:
        return "nobind"
    shares = [cpus[rank * share : (rank + 1) * share] for rank in range(ranks)]
    return "|".join(",".join(map(str, each)) for each in shares)


def start_ray(variables: Sequence[str]) -> None:
    """Start Ray on this machine, or join the cluster of the environment's RAY_ADDRESS.

    Args:
        variables: of this process's environment that the workers get too, where they are set.
    """
    import ray

    environment = {name: os.environ[name] for name in variables if name in os.environ}
    ray.init(
        address=os.environ.get("RAY_ADDRESS", "local"),
        log_to_driver=False,
        logging_level=logging.ERROR,
        include_dashboard=False,
        runtime_env={"env_vars": environment | {"PYTHONPATH": python_path(os.environ)}},  # for engine.worker
    )


def stop_ray() -> None:
    """Disconnect, and stop what `start_ray` started. Left to the interpreter's exit, actors fail loudly."""
    import ray

    ray.shutdown()
