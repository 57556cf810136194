"""The command `python -m harness compare`: its arguments checked, then tables, files and the exit status."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness import cli
from harness.config import ConfigError
from harness.config.checks import folder_problem
from harness.runs.store import require_run
from harness.terminal import show


def run(
    runs: Sequence[Path], output: Path | None, fail_on: str | None, leave_out: Sequence[str], explain: bool
) -> int:
    """Compare runs, the baseline first; returns the exit status. Raises ConfigError."""
    if len(runs) < 2:
        raise ConfigError(f"{runs[0]}: nothing to compare it with; name two runs or more")
    for run_dir in runs:
        require_run(run_dir)
    if output and (problem := folder_problem(output)):
        raise ConfigError(f"--output {output}: {problem}")

    if leave_out and fail_on is None:
        raise ConfigError(f"--leave-out {leave_out[0]}: is for --fail-on; add that, or leave it out")

    from harness.compare import ratios
    from harness.compare.gate import Limit

    try:
        limit = Limit.parse(fail_on, tuple(leave_out)) if fail_on is not None else None
    except ValueError as error:
        raise ConfigError(f"--fail-on {fail_on}: {error}") from None

    from harness.compare import view as report

    try:
        comparison = ratios.compare(ratios.read(runs))
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if limit and not comparison.ratios:
        raise ConfigError(f"--fail-on {fail_on}: no cell was measured in both of any two runs")
    if limit and limit.judges_nothing(comparison):
        raise ConfigError(f"--leave-out {', '.join(leave_out)}: leaves out every cell; leave out fewer")
    show(report.screen(comparison, limit, explain))
    if output:
        report.write(comparison, output, limit)
    return cli.FAILED if limit and limit.fails(comparison) else cli.OK
