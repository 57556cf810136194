"""Charts as data (`spec`), drawn on the page (`svg`) and into plots/ (`mpl`)."""

from __future__ import annotations

import os
from importlib.util import find_spec


def _drop_missing_backend() -> None:
    """Drop an MPLBACKEND left over from a notebook, whose package is not here: matplotlib would not start."""
    module = os.environ.get("MPLBACKEND", "").removeprefix("module://")
    try:
        missing = "." in module and find_spec(module) is None
    except ModuleNotFoundError:
        missing = True
    if missing:
        del os.environ["MPLBACKEND"]


_drop_missing_backend()
