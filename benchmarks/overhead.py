"""Seconds the main job spends not measuring, over seconds measuring.

    python benchmarks/overhead.py [RUN] [--output FILE] [-- OPTIONS OF run_vllm_prefill.py]

Of a finished run's directory, or of a run made for this. From the moment the engine is up. Measuring is the
time in the sampler: warm-up, timed rounds and their waits; the rest is captured prefills, preparing and
checking arms, files and tables. "in timed calls s" is the part of the measuring in which a clock ran; the
rest sets the cache state of calls, spins while the host launches, reads the GPU's clocks. Target for the
default sweep: under 0.3.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import ROOT, parser_of, report

from harness.runs.store import RunDirectory


def main() -> None:
    arguments = sys.argv[1:]
    split = arguments.index("--") if "--" in arguments else len(arguments)
    parser = parser_of(__doc__)
    parser.add_argument("run", nargs="?", type=Path)
    options = parser.parse_args(arguments[:split])
    with tempfile.TemporaryDirectory() as folder:
        if options.run:
            try:
                run = RunDirectory.open(options.run)
            except FileNotFoundError as error:
                parser.error(str(error))
        else:
            run = fresh_run(Path(folder) / "run", arguments[split + 1 :])
        report("overhead", [row(run)], options.output, where=run.record().model_dump(mode="json"))


def fresh_run(folder: Path, job_options: list[str]) -> RunDirectory:
    """The main job, with these options."""
    command = [sys.executable, "run_vllm_prefill.py", "--quiet", "--output-dir", str(folder), *job_options]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return RunDirectory.open(folder)


def row(run: RunDirectory) -> dict[str, Any]:
    """The run's times."""
    record = run.record()
    if not record.sampling_s:
        raise SystemExit(f"{run.path}: {record.status}; only a finished run says how long it measured")
    total, measuring = record.measuring_s or 0.0, record.sampling_s
    timed_us = sum(sum(result.samples_us) + sum(result.warmup_us) for result in run.results())
    return {
        "run": f"{record.model.name}/{record.config['length']}",
        "engine up s": record.engine_start_s,
        "after that s": total,
        "measuring s": measuring,
        "in timed calls s": timed_us / 1e6,
        "not measuring / measuring": (total - measuring) / measuring,
    }


if __name__ == "__main__":
    main()
