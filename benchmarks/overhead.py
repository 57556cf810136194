"""Seconds the main job spends not measuring, over seconds measuring.

    python benchmarks/overhead.py [--output FILE] [-- OPTIONS OF run_vllm_prefill.py]

From the moment the engine is up. Measuring is what goes on in the sampler: warm-up, timed rounds and what
they wait for; the rest is prefills that are captured, arms made ready and checked, files and tables.
Target for the default sweep: under 0.3.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from common import ROOT, report


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output")
    options, job_options = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "run_vllm_prefill.py", "--quiet", "--output-dir", str(run)]
        job_options = [option for option in job_options if option != "--"]
        subprocess.run([*command, *job_options], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        record = json.loads((run / "run.json").read_text())
    total, sampling = record["measuring_s"], record["sampling_s"]
    row = {
        "run": f"{record['model']['name']}/{record['config']['length']} {' '.join(job_options)}".strip(),
        "engine up s": record["engine_start_s"],
        "after that s": total,
        "measuring s": sampling,
        "not measuring / measuring": (total - sampling) / sampling,
    }
    report("overhead", [row], options.output)


if __name__ == "__main__":
    main()
