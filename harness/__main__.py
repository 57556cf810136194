"""python -m harness: the main job, a look at the machine before it, and a run's report after it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from harness import cli
from harness.config import ConfigError

PROG = "python -m harness"


def main(argv: Sequence[str] | None = None) -> int:
    """Dispatch to a subcommand; the exit status."""
    parser = cli.Parser(prog=PROG, allow_abbrev=False)
    commands = parser.add_subparsers(title="commands", dest="command", required=True, metavar="COMMAND")
    prefill = commands.add_parser(
        "prefill",
        help="run the main job, as run_vllm_prefill.py does",
        usage=f"{PROG} prefill [--config YAML] [options]",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    cli.add_prefill_options(prefill)
    report = commands.add_parser("report", help="make a run's tables and plots again", allow_abbrev=False)
    report.add_argument("run", type=Path, metavar="RUN", help="a run's directory, e.g. one under runs/")
    commands.add_parser(
        "doctor",
        help="what can run here, what each kernel takes, what to do about problems",
        allow_abbrev=False,
    )
    return cli.guarded(PROG, lambda: _dispatch(parser.parse_args(argv)))


def _dispatch(arguments: argparse.Namespace) -> int:
    options = vars(arguments)
    command = options.pop("command")
    if command == "prefill":
        return cli.prefill(options)
    if command == "doctor":
        from harness import doctor

        return doctor.run()
    return _report(arguments.run)


def _report(run_dir: Path) -> int:
    if not (run_dir / "run.json").is_file():
        raise ConfigError(f"{run_dir}: holds no run.json; name a run's directory")

    from harness import report
    from harness.store import RunDirectory

    print(report.write(RunDirectory.open(run_dir)).screen_summary())
    return cli.OK


if __name__ == "__main__":
    sys.exit(main())
