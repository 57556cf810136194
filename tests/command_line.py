"""The command line in a process of its own: what it imported, and how far it is."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent

# Runs a command line and then says on stdout which heavy modules it imported.
WITNESS = """
import sys
from harness import __main__
status = __main__.{function}(sys.argv[1:])
print("heavy:", sorted({{"torch", "vllm", "transformers", "matplotlib", "pandas"}} & set(sys.modules)))
sys.exit(status)
"""


def run(*argv: str, function: str = "main_job") -> subprocess.CompletedProcess[str]:
    """Run the main job's command line, or with "main" that of `python -m harness`, under the witness."""
    command = [sys.executable, "-c", WITNESS.format(function=function), *argv]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def wait_for(job: subprocess.Popen[str], run_dir: Path, words: str, seconds: float) -> None:
    """Return once the record of the job's run holds `words`; fail if the job ends before that."""
    record, give_up = run_dir / "run.json", time.monotonic() + seconds
    while words not in (record.read_text() if record.exists() else ""):
        assert job.poll() is None, job.stderr.read() if job.stderr else ""
        assert time.monotonic() < give_up
        time.sleep(0.2)
