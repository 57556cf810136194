"""python -m harness: the main job, its companions, a look at the machine, reports and comparisons."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness import cli
from harness.config import Common, ConfigError
from harness.config.checks import folder_problem
from harness.experiments import EXPERIMENTS, starting
from harness.experiments.prefill.options import GROUPS, RunConfig
from harness.experiments.starting import RunFailed
from harness.runs.command import CONSOLE_SCRIPT
from harness.runs.store import Damaged, Interrupted
from harness.sweep import RECORD as SWEEP

MAIN_JOB = "run_vllm_prefill.py"
PROG = CONSOLE_SCRIPT if Path(sys.argv[0]).name == CONSOLE_SCRIPT else "python -m harness"


def main(argv: Sequence[str] | None = None) -> int:
    """Dispatch to a subcommand; the exit status."""
    parser = cli.Parser(prog=PROG, allow_abbrev=False)
    cli.add_version(parser)
    commands = parser.add_subparsers(title="commands", dest="command", required=True, metavar="COMMAND")
    for name, experiment in EXPERIMENTS.items():
        cli.add_options(_with_options(commands, name, experiment.about), experiment.config, experiment.groups)
    _add_sweep(commands)
    report = commands.add_parser("report", help="make tables, plots and page again", allow_abbrev=False)
    report.add_argument("run", type=Path, metavar="RUN", help="a run's or a sweep's directory")
    _add_compare(commands)
    commands.add_parser(
        "doctor",
        help="what can run here, what each kernel takes, what to do about problems",
        allow_abbrev=False,
    )
    if not (sys.argv[1:] if argv is None else argv):
        parser.print_help(sys.stderr)
        return 2
    return guarded(PROG, lambda: _dispatch(parser.parse_args(argv)))


def main_job(argv: Sequence[str] | None = None, prog: str = MAIN_JOB) -> int:
    """Run the main job; the exit status. A failure nobody foresaw raises, which Python makes status 1."""
    parser = cli.Parser(
        prog=prog,
        usage="%(prog)s [--config YAML] [options]",
        description="Run a real prefill in vLLM, keep its attention calls, and run them again under other "
        "layouts of the KV cache, to say what the paged KV cache costs and how much of it is layout.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    cli.add_version(parser)
    cli.add_options(parser, RunConfig, GROUPS)
    return guarded(prog, lambda: _start(RunConfig, vars(parser.parse_args(argv))))


def guarded(prog: str, command: Callable[[], int]) -> int:
    """The command's exit status; one line on stderr for bad input (2), a failed run (1) or Ctrl-C (130)."""
    try:
        return command()
    except (ConfigError, Damaged, RunFailed) as error:
        print(f"{prog}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return cli.FAILED if isinstance(error, RunFailed) else cli.BAD_INPUT
    except KeyboardInterrupt as interrupt:
        if not isinstance(interrupt, Interrupted):  # which the run has said
            print(f"{prog}: interrupted", file=sys.stderr)
        return cli.INTERRUPTED


def _start(configuration: type[Common], options: dict[str, Any]) -> int:
    """Run an experiment with what was typed."""
    config_file = options.pop("config", None)
    starting.run(configuration.experiment, cli.typed(configuration, options), config_file)
    return cli.OK


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


def _add_sweep(commands: argparse._SubParsersAction[cli.Parser]) -> None:
    parser = commands.add_parser(
        "sweep",
        help="many runs of the main job, and one table",
        description="Run every point of a YAML file in a process of its own. Exit status: 0 if all "
        "are finished, 1 if one failed.",
        allow_abbrev=False,
    )
    parser.add_argument("file", type=Path, metavar="YAML", help="what is run, e.g. configs/sweep.yaml")
    parser.add_argument(
        "--output-dir", type=Path, metavar="PATH", help="where it is stored (default: a new one in sweeps/)"
    )
    parser.add_argument("--resume", action="store_true", help="go on with what the output directory holds")
    parser.add_argument(
        "--ray-address", metavar="ADDRESS", help="Ray cluster to run on, or auto (default: this machine)"
    )


def _add_compare(commands: argparse._SubParsersAction[cli.Parser]) -> None:
    parser = commands.add_parser(
        "compare",
        help="set runs side by side, cell by cell",
        description="Ratios of medians to the first run's, with their intervals. Exit status: 0, or 1 with "
        "--fail-on if a cell is beyond it.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN", help="runs' directories, the baseline first"
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="write compare.csv and compare.html there")
    parser.add_argument(
        "--fail-on",
        metavar="slower:2%",
        help="exit with 1 if the whole interval of a cell lies beyond this (slower or faster), or another "
        "run failed to measure a cell of the first",
    )


def _dispatch(arguments: argparse.Namespace) -> int:
    options = vars(arguments)
    command = options.pop("command")
    if command in EXPERIMENTS:
        return _start(EXPERIMENTS[command].config, options)
    if command == "sweep":
        from harness.sweep import job

        return job.run(arguments.file, arguments.output_dir, arguments.resume, arguments.ray_address)
    if command == "doctor":
        from harness import doctor

        return doctor.run()
    if command == "compare":
        return _compare(**options)
    return _report(arguments.run)


def _check_run(run_dir: Path) -> None:
    if not (run_dir / "run.json").is_file():
        raise ConfigError(f"{run_dir}: holds no run.json; name a run's directory")
    if (run_dir / "summary.json").is_file() and not (run_dir / "samples.jsonl").is_file():
        raise ConfigError(
            f"{run_dir}: holds no samples.jsonl, which all figures are made from; copy the whole run"
        )


def _report(run_dir: Path) -> int:
    if (run_dir / SWEEP).is_file():
        from harness.sweep import view as sweep

        print(sweep.write(run_dir).screen_summary())
        return cli.OK
    _check_run(run_dir)

    from harness.experiments import views  # matplotlib
    from harness.runs.store import RunDirectory

    run = RunDirectory.open(run_dir)
    record = run.record()
    try:
        views.experiment_of(record)
    except ValueError as error:
        raise ConfigError(f"{run_dir}: {error}") from error
    print(views.write(run).screen_summary())
    return cli.OK


def _compare(runs: Sequence[Path], output: Path | None, fail_on: str | None) -> int:
    if len(runs) < 2:
        raise ConfigError(f"{runs[0]}: nothing to compare it with; name two runs or more")
    for run_dir in runs:
        _check_run(run_dir)
    if output and (problem := folder_problem(output)):
        raise ConfigError(f"--output {output}: {problem}")

    from harness.compare import ratios as compare

    try:
        limit = compare.Limit.parse(fail_on) if fail_on else None
    except ValueError as error:
        raise ConfigError(f"--fail-on {fail_on}: {error}") from None

    from harness.compare import view as report

    try:
        comparison = compare.compare(compare.read(runs))
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if limit and not comparison.ratios:
        raise ConfigError(f"--fail-on {fail_on}: no cell was measured in both of any two runs")
    print(report.screen(comparison, limit))
    if output:
        report.write(comparison, output, limit)
    return cli.FAILED if limit and limit.fails(comparison) else cli.OK


if __name__ == "__main__":
    sys.exit(main())
