"""python -m harness: the main job, its companions, a look at the machine, a run's report."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from harness import cli
from harness.config import ConfigError, RunConfig
from harness.config.prefill import GROUPS
from harness.experiments import EXPERIMENTS

PROG = "python -m harness"


def main(argv: Sequence[str] | None = None) -> int:
    """Dispatch to a subcommand; the exit status."""
    parser = cli.Parser(prog=PROG, allow_abbrev=False)
    commands = parser.add_subparsers(title="commands", dest="command", required=True, metavar="COMMAND")
    prefill = _with_options(commands, "prefill", "run the main job, as run_vllm_prefill.py does")
    cli.add_options(prefill, RunConfig, GROUPS)
    for name, experiment in EXPERIMENTS.items():
        companion = _with_options(commands, name, experiment.about)
        cli.add_options(companion, experiment.config, experiment.groups)
    report = commands.add_parser("report", help="make a run's tables and plots again", allow_abbrev=False)
    report.add_argument("run", type=Path, metavar="RUN", help="a run's directory, e.g. one under runs/")
    commands.add_parser(
        "doctor",
        help="what can run here, what each kernel takes, what to do about problems",
        allow_abbrev=False,
    )
    return cli.guarded(PROG, lambda: _dispatch(parser.parse_args(argv)))


def _with_options(commands: argparse._SubParsersAction[cli.Parser], name: str, about: str) -> cli.Parser:
    """A subcommand whose options are a configuration's."""
    return commands.add_parser(
        name,
        help=about,
        description=f"{about[0].upper()}{about[1:]}.",
        usage=f"{PROG} {name} [--config YAML] [options]",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )


def _dispatch(arguments: argparse.Namespace) -> int:
    options = vars(arguments)
    command = options.pop("command")
    if command == "prefill":
        return cli.prefill(options)
    if command in EXPERIMENTS:
        return cli.companion(EXPERIMENTS[command], options)
    if command == "doctor":
        from harness import doctor

        return doctor.run()
    return _report(arguments.run)


def _report(run_dir: Path) -> int:
    if not (run_dir / "run.json").is_file():
        raise ConfigError(f"{run_dir}: holds no run.json; name a run's directory")

    from harness import report
    from harness.store import RunDirectory

    run = RunDirectory.open(run_dir)
    try:
        report.view_of(run.record())
    except ValueError as error:
        raise ConfigError(f"{run_dir}: {error}") from error
    print(report.write(run).screen_summary())
    return cli.OK


if __name__ == "__main__":
    sys.exit(main())
