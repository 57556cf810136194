"""Where the harness is installed: a checkout or a wheel, and where its configs/ are."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent  # of the checkout, or of the installed packages
_IN_WHEEL = Path(__file__).resolve().parent / "_configs"


def configs(*parts: str) -> Path:
    """The path of a file or folder in configs/."""
    return (_IN_WHEEL if _IN_WHEEL.is_dir() else ROOT / "configs").joinpath(*parts)


def python_path(environment: Mapping[str, str]) -> str:
    """PYTHONPATH for a process that imports `harness` and `patches` from any directory."""
    return os.pathsep.join(filter(None, (str(ROOT), environment.get("PYTHONPATH"))))
