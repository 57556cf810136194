"""python -m harness: the main job, the other experiments, a check of the machine, reports and comparisons."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from harness import cli, completion, interrupts, terminal
from harness.config import Common, ConfigError
from harness.experiments import EXPERIMENTS, starting
from harness.experiments.prefill.options import GROUPS, RunConfig
from harness.experiments.starting import RunFailed
from harness.report.screen import Screen
from harness.runs.command import CONSOLE_SCRIPT
from harness.runs.store import Interrupted, RunDirectory, require_run
from harness.runs.writing import Damaged, explain_os_error
from harness.sweep import RECORD as SWEEP
from harness.terminal import show

LONGEST_ERROR = 2000  # characters
MAIN_JOB = "run_vllm_prefill.py"
PROG = CONSOLE_SCRIPT if Path(sys.argv[0]).name == CONSOLE_SCRIPT else "python -m harness"


def main(argv: Sequence[str] | None = None) -> int:
    """Dispatch to a subcommand and return the exit status."""
    parser = cli.Parser(prog=PROG, allow_abbrev=False)
    cli.add_version(parser)
    commands = parser.add_subparsers(title="commands", dest="command", required=True, metavar="COMMAND")
    for name, experiment in EXPERIMENTS.items():
        own = _with_options(commands, name, experiment.about)
        cli.add_options(own, experiment.config, experiment.groups)
        cli.add_explain(own)
        if experiment.config is RunConfig:
            _add_processes(own)
    _add_sweep(commands)
    _add_verify(commands)
    report = commands.add_parser(
        "report",
        help="rebuild tables, plots and page",
        epilog="A run's tables.parquet is written too where pyarrow is installed: pip install pyarrow.",
        allow_abbrev=False,
    )
    report.add_argument("run", type=Path, metavar="RUN", help="a run's or a sweep's directory")
    report.add_argument(
        "--style",
        choices=("screen", "paper"),
        default="screen",
        help="paper: also the plots at a paper's column width, plots/NAME-paper.pdf and .png: 3.3 inches, "
        "8 pt, without a title (default: screen)",
    )
    _add_screen(report)
    cli.add_explain(report)
    _add_compare(commands)
    commands.add_parser(
        "doctor",
        help="check what can run here and what each kernel supports, and how to fix problems",
        allow_abbrev=False,
    )
    commands.add_parser(
        "completion", help=f'complete in a shell: eval "$({CONSOLE_SCRIPT} completion)"', allow_abbrev=False
    )
    if not (sys.argv[1:] if argv is None else argv):
        parser.print_help(sys.stderr)
        return 2
    return run_guarded(PROG, lambda: _dispatch(parser.parse_args(argv), commands.choices))


def main_job(argv: Sequence[str] | None = None, prog: str = MAIN_JOB) -> int:
    """Run the main job and return the exit status. An unexpected failure raises, so Python exits with 1."""
    parser = cli.Parser(
        prog=prog,
        usage="%(prog)s [--config YAML] [options]",
        description="Run a real prefill in vLLM, record its attention calls and replay them under other "
        "layouts of the KV cache, to measure what the paged KV cache costs and how much of that is due "
        "to layout.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    cli.add_version(parser)
    cli.add_options(parser, RunConfig, GROUPS)
    cli.add_explain(parser)
    _add_processes(parser)
    return run_guarded(prog, lambda: _start(RunConfig, vars(parser.parse_args(argv))))


def _add_screen(parser: cli.Parser) -> None:
    """Add the options of what is printed at the end; an experiment has them among its own."""
    parser.add_argument(
        "--tables",
        choices=("summary", "all"),
        default="summary",
        help="a summary, or all tables, e.g. one for each spread_k (default: summary)",
    )
    parser.add_argument(
        "--json", dest="print_json", action="store_true", help="print summary.json, and no tables"
    )
    parser.add_argument("--quiet", action="store_true", help="print the answer in a sentence, and no tables")
    parser.add_argument("--latex", action="store_true", help="print the tables in LaTeX, for booktabs")


def _require_one_format(options: Mapping[str, Any]) -> None:
    """Raise ConfigError if what explains verdicts would follow what programs read."""
    for name, option in (("print_json", "--json"), ("latex", "--latex")):
        if options.get("explain") and options.get(name):
            raise ConfigError(f"--explain: prints text after what {option} prints; leave one out")


def _screen(options: dict[str, Any]) -> Screen:
    """Take these options out of all others."""
    _require_one_format(options)
    return Screen(**{field.name: options.pop(field.name) for field in fields(Screen)})


def _add_processes(parser: cli.Parser) -> None:
    parser.add_argument(
        "--processes",
        type=int,
        metavar="N",
        help="run it in N processes with different seeds and report how much the results vary between them; "
        "--output-dir then holds a sweep",
    )


def run_guarded(prog: str, command: Callable[[], int]) -> int:
    """Run a command and return its exit status; bad input (2), a failed run (1) and Ctrl-C (130) print one
    line to stderr.
    """
    with terminal.kept() as stdout:
        status = _run_guarded(prog, command)
        stdout.flush()
        if stdout.error and not isinstance(stdout.error, BrokenPipeError):  # a reader that has enough is fine
            print(f"{prog}: error: stdout: {stdout.error.strerror}", file=sys.stderr)
            return status or cli.FAILED
        return status


def _run_guarded(prog: str, command: Callable[[], int]) -> int:
    try:
        return command()
    except (ConfigError, Damaged, RunFailed) as error:
        line = " ".join(str(error).split())
        show(f"{prog}: error: {line[:LONGEST_ERROR]}{'...' * (len(line) > LONGEST_ERROR)}", file=sys.stderr)
        return cli.FAILED if isinstance(error, RunFailed) else cli.BAD_INPUT
    except OSError as error:
        if (text := explain_os_error(error)) is None:
            raise
        show(f"{prog}: error: {text}", file=sys.stderr)
        return cli.FAILED
    except KeyboardInterrupt as interrupt:
        if not isinstance(interrupt, Interrupted):  # the run has already reported it
            show(f"{prog}: interrupted", file=sys.stderr)
        return cli.INTERRUPTED
    finally:
        interrupts.ignore_at_exit()


def _start(configuration: type[Common], options: dict[str, Any]) -> int:
    """Run an experiment with the options typed."""
    _require_one_format(options)
    config_file, processes = options.pop("config", None), options.pop("processes", 1)
    explain, dry_run = options.pop("explain", False), options.pop("dry_run", False)
    parsed = cli.parse_options(configuration, options)
    if dry_run:
        show(starting.plan(configuration.experiment, parsed, config_file))
        if processes != 1:
            show(f"processes: {processes}, one after another, each with the next seed")
        return cli.OK
    if processes != 1:
        return _start_several(parsed, config_file, processes, explain)
    run_dir = starting.run(configuration.experiment, parsed, config_file)
    if explain:
        _explain(run_dir)
    return cli.OK


def _start_several(options: dict[str, Any], config_file: Path | None, processes: int, explain: bool) -> int:
    """Run the main job in several processes, as a sweep over the seed."""
    from harness.config.loading import load
    from harness.sweep import job, plan

    config = load(RunConfig, options, config_file)
    if config.overwrite:
        raise ConfigError("--overwrite: is for one run, not for --processes; choose another --output-dir")
    of_point = config.model_dump(mode="json", exclude_unset=True, exclude=set(plan.OWN))
    if of_point.get("batch"):
        of_point.pop("length", None)  # which follows from it
    points = plan.of_options(Path("prefill"), plan.repeat([of_point], processes, "--processes"))
    screen = Screen(config.tables, config.print_json, config.quiet)
    return job.run(points, config.output_dir, config.resume, screen, explain=explain)


def _with_options(commands: argparse._SubParsersAction[cli.Parser], name: str, about: str) -> cli.Parser:
    """Add a subcommand whose options are a configuration's fields."""
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
        help="run the main job many times and summarise the runs in one table",
        description="Run every point of a YAML file in a process of its own. Exit status: 0 if all "
        "are finished, 1 if one failed.",
        allow_abbrev=False,
    )
    parser.add_argument("file", type=Path, metavar="YAML", help="the sweep's points, e.g. configs/sweep.yaml")
    parser.add_argument(
        "--output-dir",
        type=Path,
        metavar="PATH",
        help="the sweep's directory (default: a new one in sweeps/)",
    )
    parser.add_argument("--resume", action="store_true", help="resume the sweep in --output-dir")
    parser.add_argument(
        "--ray-address", metavar="ADDRESS", help="Ray cluster to run on, or auto (default: this machine)"
    )
    _add_screen(parser)
    cli.add_explain(parser)


def _add_verify(commands: argparse._SubParsersAction[cli.Parser]) -> None:
    from harness.verify.options import GROUPS as VERIFY_GROUPS
    from harness.verify.options import VerifyConfig

    about = "check that the vLLM plugin gives a model's own answers, and what it saves"
    parser = _with_options(commands, "verify", about)
    cli.add_options(parser, VerifyConfig, VERIFY_GROUPS)
    parser.epilog = "Exit status: 0 only if all answers are equal and the plugin wrote no cache."


def _add_compare(commands: argparse._SubParsersAction[cli.Parser]) -> None:
    parser = commands.add_parser(
        "compare",
        help="compare runs, cell by cell",
        description="Ratios of medians to the first run's, with their intervals. Exit status: 0, or 1 if a "
        "cell exceeds --fail-on.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN", help="run directories, the baseline first"
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="write compare.csv and compare.html into this directory"
    )
    parser.add_argument(
        "--fail-on",
        metavar="slower:2%",
        help="exit with status 1 if a cell's whole interval lies beyond this limit, if another run is not "
        "finished, or if a cell of the first run was not judged in it",
    )
    parser.add_argument(
        "--leave-out",
        action="append",
        default=[],
        metavar="TEXT",
        help="with --fail-on: do not judge cells with this in their name, e.g. gather_kv; may be repeated",
    )
    cli.add_explain(parser)


def _dispatch(arguments: argparse.Namespace, commands: Mapping[str, argparse.ArgumentParser]) -> int:
    options = vars(arguments)
    command = options.pop("command")
    if command in EXPERIMENTS:
        return _start(EXPERIMENTS[command].config, options)
    if command == "sweep":
        from harness.sweep import job, plan

        points = plan.read(options.pop("file"))
        return job.run(points, screen=_screen(options), **options)
    if command == "verify":
        from harness.verify import command as verify

        return verify.run(options, sys.argv)
    if command == "completion":
        print(completion.script(CONSOLE_SCRIPT, commands), end="")
        return cli.OK
    if command == "doctor":
        from harness import doctor

        return doctor.run()
    with interrupts.caught():
        if command == "compare":
            from harness.compare import command as compare

            return compare.run(**options)
        return _report(arguments.run, _screen(options), arguments.explain, arguments.style == "paper")


def _explain(run_dir: Path) -> None:
    from harness.experiments import views

    show(f"\n{views.explain_verdicts(RunDirectory.open(run_dir))}")


def _report(run_dir: Path, screen: Screen, explain: bool, paper: bool) -> int:
    if os.path.isfile(run_dir / SWEEP):
        if paper:
            raise ConfigError(f"--style paper: {run_dir} is a sweep, whose runs have the plots; name a run")
        from harness.experiments.views import fitting
        from harness.sweep import view as sweep

        with fitting(run_dir):
            tables = sweep.write(run_dir)
        show(screen.format(tables, RunDirectory(run_dir)))
        if explain:
            show(f"\n{sweep.explain_verdicts(run_dir)}")
        return cli.OK
    require_run(run_dir)

    from harness.experiments import views  # matplotlib

    directory = RunDirectory.open(run_dir)
    record = directory.record()
    try:
        views.experiment_of(record)
    except ValueError as error:
        raise ConfigError(f"{run_dir}: {error}") from error
    with views.fitting(run_dir):
        report = views.write(directory, paper)
    show(screen.format(report, directory))
    if explain:
        _explain(run_dir)
    return cli.OK


if __name__ == "__main__":
    sys.exit(main())
