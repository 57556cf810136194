"""Run a real prefill, keep its attention calls, run them again under other memory layouts.

In Python: `run = harness.prefill(model="gpt2", length=4096)`, then `run.sentence` and `run.kernels`, a pandas
frame; `harness.open(path)` opens a run that is stored. Nothing heavy is imported before one of them is used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.api import Run, open, prefill

__all__ = ["Run", "open", "prefill"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from harness import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
