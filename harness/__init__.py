"""Run a real prefill, record its attention calls and replay them under other memory layouts.

In Python: `run = harness.prefill(model="gpt2", length=4096)`, then `run.sentence` and `run.kernels`, a pandas
frame. `harness.run("kernels", ...)` runs any experiment, `harness.open(path)` opens a stored run, and
`harness.compare_runs(a, b)` compares runs. Heavy imports happen on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.api import Comparison, Run, compare_runs, open, prefill, run
    from harness.config import ConfigError
    from harness.experiments.starting import RunFailed
    from harness.runs.store import Interrupted, RunExists
    from harness.runs.writing import Damaged

__all__ = [
    "Comparison",
    "ConfigError",
    "Damaged",
    "Interrupted",
    "Run",
    "RunExists",
    "RunFailed",
    "compare_runs",
    "open",
    "prefill",
    "run",
]
# Names that do not come from harness.api, and their modules.
_HOMES = {
    "ConfigError": "harness.config",
    "Damaged": "harness.runs.store",
    "Interrupted": "harness.runs.store",
    "RunExists": "harness.runs.store",
    "RunFailed": "harness.experiments.starting",
}


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module(_HOMES.get(name, "harness.api")), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
