"""The notebook of the documentation runs, and what it prints is what is stored in it."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"


@pytest.mark.parametrize("path", sorted(DOCS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_runs_and_prints_what_is_stored(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(DOCS)
    monkeypatch.setattr(plt, "show", lambda: None)
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert len(cells) <= 20
    names: dict[str, Any] = {}
    for cell in (cell for cell in cells if cell["cell_type"] == "code"):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec("".join(cell["source"]), names)
        stored = ["".join(out["text"]) for out in cell["outputs"] if out["output_type"] == "stream"]
        assert printed.getvalue() == "".join(stored)
        assert cell["execution_count"]
    plt.close("all")
