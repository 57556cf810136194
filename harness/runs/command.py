"""The command that a run was started with, as one types it again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.shipped import ROOT

CONSOLE_SCRIPT = "prefill-layout-harness"
MODULE, SCRIPT = ROOT / "harness" / "__main__.py", ROOT / "run_vllm_prefill.py"


def typed(argv: Sequence[str]) -> list[str] | None:
    """The words of a command from `sys.argv`; None if the harness was called from Python."""
    program, *arguments = argv
    if Path(program).name == CONSOLE_SCRIPT:
        return [CONSOLE_SCRIPT, *arguments]
    if Path(program).resolve() == MODULE:
        return ["python", "-m", "harness", *arguments]
    if Path(program).resolve() == SCRIPT:
        return ["python", SCRIPT.name, *arguments]
    return None
