"""Python: run an experiment, open any run, or compare some, and get the figures as pandas frames."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from harness.analysis.breakdown.rows import Breakdown
from harness.compare import ratios
from harness.compare.ratios import Lone, Ratio
from harness.config import ConfigError, engine_options
from harness.experiments import EXPERIMENTS, starting, views
from harness.experiments.prefill.options import RunConfig
from harness.experiments.prefill.rows import PrefillSummary
from harness.runs.schema import RunRecord
from harness.runs.store import RunDirectory
from harness.runs.stored import Stored
from harness.runs.summary import Summary
from harness.runs.writing import Damaged

CELL = ("kernel", "provider", "arm", "spread_k", "block_size", "layer", "data", "request")


@dataclass(frozen=True, repr=False)
class Run:
    """A run's record and figures; made by `run`, `prefill` and `open`. Each frame is made anew on every
    access.

    >>> import harness
    >>> run = harness.open("tests/data/run")
    >>> run.record.model.name, run.status
    ('gpt2', 'finished')
    """

    directory: RunDirectory
    record: RunRecord  # run.json
    summary: Summary  # summary.json, of the experiment's own class

    def __repr__(self) -> str:
        """The run's directory, experiment and status.

        >>> import harness
        >>> harness.open("tests/data/run")
        Run('tests/data/run', prefill, finished)
        """
        return f"Run({str(self.path)!r}, {self.experiment}, {self.status})"

    @property
    def path(self) -> Path:
        """The run's directory; report.html in it shows everything on a page."""
        return self.directory.path

    @property
    def status(self) -> str:
        """finished, running, interrupted or failed; the frames hold what was measured up to then.

        >>> import harness
        >>> harness.open("tests/data/run").status
        'finished'
        """
        return self.record.status

    @property
    def experiment(self) -> str:
        """The experiment's name; "prefill" is the main job.

        >>> import harness
        >>> harness.open("tests/data/run").experiment
        'prefill'
        """
        return self.record.experiment

    @property
    def lists(self) -> tuple[str, ...]:
        """The lists of figures in its summary.json, which `frame` accepts.

        >>> import harness
        >>> harness.open("tests/data/run").lists
        ('kernels', 'contrasts', 'end_to_end', 'requests', 'variants')
        """
        return tuple(name for name, rows in self.summary if isinstance(rows, list))

    def frame(self, name: str) -> pd.DataFrame:
        """One of the run's `lists`, documented in docs/run-directory.md and on the experiment's own page.

        Raises ValueError, naming the lists that exist, if it has no such list.

        >>> import harness
        >>> harness.open("tests/data/run").frame("contrasts").verdict.value_counts().to_dict()
        {'slower': 133, 'same': 102, 'unclear': 3}
        """
        if name not in self.lists:
            raise ValueError(
                f"{name}: {self.path}, a run of {self.experiment}, has no such list; it has "
                f"{', '.join(self.lists)}"
            )
        return _frame(getattr(self.summary, name))

    @property
    def sentence(self) -> str | None:
        """What the paged KV cache costs the prefill, in one sentence; None if that was not measured.

        >>> import harness
        >>> print(harness.open("tests/data/run").sentence)
        The paged KV cache costs 3.3% [3.1, 3.5] of the prefill of gpt2 ...
        """
        breakdown = self._breakdown
        return breakdown.sentence if breakdown else None

    @property
    def _breakdown(self) -> Breakdown | None:
        return self.summary.attribution if isinstance(self.summary, PrefillSummary) else None

    @property
    def kernels(self) -> pd.DataFrame:
        """A row for each kernel, arm, spread_k, data and layer ("mean" and "sum" are over all); times in us.

        >>> import harness
        >>> kernels = harness.open("tests/data/run").kernels
        >>> mean = kernels[(kernels.layer == "mean") & (kernels.data == "captured")]
        >>> mean[mean.arm == "paged"].groupby("spread_k").median_us.first().round(1).to_dict()
        {1: 211.8, 2: 212.7, 4: 213.7, 8: 214.6}
        """
        return self.frame("kernels")

    @property
    def contrasts(self) -> pd.DataFrame:
        """A row for each contrast, with interval and verdict; times in us.

        The ends of intervals are columns, too: `ci95_low_pct` and `ci95_high_pct`, and in us.
        Also for `kernels`, `cache` and `backends`.

        >>> import harness
        >>> contrasts = harness.open("tests/data/run").contrasts
        >>> prefill = contrasts[(contrasts.kernel == "prefill") & (contrasts.treatment == "paged")]
        >>> prefill[["spread_k", "verdict"]].to_dict("list")
        {'spread_k': [2, 8], 'verdict': ['same', 'slower']}
        >>> prefill[["ci95_low_pct", "ci95_high_pct"]].round(2).values.tolist()
        [[0.01, 0.46], [0.29, 0.63]]
        """
        return _with_interval_columns(self.frame("contrasts"))

    @property
    def cells(self) -> pd.DataFrame:
        """Of any experiment but prefill, a row for each cell: axes, figures, status and reason; times in us.

        >>> import harness
        >>> cells = harness.open("tests/data/cache").cells
        >>> warm = cells[(cells.arm == "warm") & (cells.batch_size == 1)]
        >>> warm[["share_pct", "hit_rate_pct", "status"]].values.tolist()
        [[0, 0.0, 'ok'], [50, 50.0, 'ok'], [100, 96.875, 'ok']]
        """
        return self.frame("cells")

    @property
    def end_to_end(self) -> pd.DataFrame:
        """A row for each way of running the whole prefill; times in ms.

        >>> import harness
        >>> end_to_end = harness.open("tests/data/run").end_to_end
        >>> end_to_end[end_to_end.status != "ok"][["arm", "spread_k", "status"]].values.tolist()
        [['paged', 4, 'out_of_memory']]
        """
        return self.frame("end_to_end")

    @property
    def attribution(self) -> pd.DataFrame:
        """A row for each component of what the paged KV cache costs: measured, predicted, and the residual.

        `ms` and `pct` (of the prefill) are measured in the engine; `predicted_ms` is from replayed kernels;
        `residual_ms` is the difference. Empty without a breakdown.

        >>> import harness
        >>> harness.open("tests/data/run").attribution.loc["paging", "verdict"]
        'slower'
        """
        breakdown = self._breakdown
        if not breakdown:
            return _frame([])
        frame: pd.DataFrame = _frame(breakdown.measured).set_index("component")
        for part, rows in (("predicted", breakdown.predicted), ("residual", breakdown.residual)):
            other = _frame(rows).set_index("component")
            frame = frame.join(other[["ms", "ci95_ms"]].add_prefix(f"{part}_"))
        return frame

    @property
    def samples(self) -> pd.DataFrame:
        """Every sample, one per row, in us; rows that share `series` and `round` are pairs.

        >>> import harness
        >>> samples = harness.open("tests/data/run").samples
        >>> len(samples[(samples.kernel == "prefill") & (samples.arm == "dense")])
        12
        """
        frame: pd.DataFrame = pd.DataFrame(
            [
                {name: getattr(r.cell, name) for name in CELL}
                | dict(r.cell.point)
                | {"series": r.series, "one_segment_for": r.one_segment_for, "control": r.control}
                | {"round": number, "us": us}
                for r in self.directory.results()
                for number, us in enumerate(r.samples_us)
            ]
        )
        return frame


def _frame(rows: Sequence[Stored]) -> pd.DataFrame:
    frame: pd.DataFrame = pd.DataFrame([row.to_json() for row in rows])
    return frame


def _with_interval_columns(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with the ends of each interval, a pair, as columns of their own."""
    for unit in ("us", "pct"):
        for place, end in enumerate(("low", "high")):
            pairs = list(frame.get(f"ci95_{unit}", ()))
            frame[f"ci95_{end}_{unit}"] = [pair[place] if pair else None for pair in pairs]
    return frame


def open(path: str | os.PathLike[str]) -> Run:
    """Open a stored run of any experiment; of an unfinished one, what it has measured.

    Raises FileNotFoundError if there is none, ValueError if this version does not know its experiment or its
    files are damaged.

    >>> import harness
    >>> harness.open("tests/data/run").path.name
    'run'
    """
    directory = RunDirectory.open(Path(path))
    try:
        record = directory.record()
        view = views.view_of(views.experiment_of(record))
        if record.status == "finished" and directory.summary_path.is_file():
            summary = directory.summary(view.Summary)
            if summary.status == record.status:  # else it is older, as of any run that may be resumed
                return Run(directory, record, summary)
        results = directory.results()
        with views.fitting(path):
            return Run(directory, record, views.summarise(record, results))
    except Damaged:  # names its file itself
        raise
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def run(experiment: str, *, config_file: str | os.PathLike[str] | None = None, **options: Any) -> Run:
    """Run an experiment, as `python -m harness EXPERIMENT` does, and return its run.

    Args:
        experiment: "prefill", the main job, or a subcommand: kernels, cache, memory, backends, kvcache,
            transfer, workload.
        config_file: options from a YAML file; `options` override it.
        options: the command line's options, with underscores: model, length, spread_k, ...

    Raises:
        ConfigError: an option, file or model is invalid; nothing was run. RunExists, one of them:
            the output directory holds a run already.
        RunFailed: it ended early or measured nothing; what was measured is in the directory.
        Interrupted: Ctrl-C or a signal ended it; a KeyboardInterrupt. What was measured is in the directory.

    >>> import harness
    >>> run = harness.run("kernels", batch_size=4, spread_k=[1, 8])  # doctest: +SKIP
    >>> run.cells  # doctest: +SKIP
    """
    if experiment not in EXPERIMENTS:
        raise ConfigError(f"{experiment}: no such experiment; choose from {', '.join(EXPERIMENTS)}")
    known = EXPERIMENTS[experiment].config.model_fields
    for name in options:
        if name not in known:
            hint = engine_options.suggestion(name, [*known, "config_file"])
            raise ConfigError(f"{name}: unknown option; {hint}")
    return open(starting.run(experiment, options, Path(config_file) if config_file is not None else None))


def prefill(*, config_file: str | os.PathLike[str] | None = None, **options: Any) -> Run:
    """Run the main job and return its run: `run("prefill", ...)`.

    vLLM starts in this process, so that blocks can be chosen and attention calls seen; its memory is released
    when the run ends. In a notebook start with a fresh kernel, as vLLM reads its environment when it is first
    imported. To keep vLLM out of your process, run the command line and `open` its directory.

    >>> import harness
    >>> run = harness.prefill(model="gpt2", length=4096)  # doctest: +SKIP
    >>> run.kernels  # doctest: +SKIP
    """
    return run(RunConfig.experiment, config_file=config_file, **options)


@dataclass(frozen=True)
class Comparison:
    """Runs against the first of them; made by `compare_runs`."""

    ratios: pd.DataFrame  # a row for each cell that both have: how many times as long the other run took
    lone: pd.DataFrame  # a row for each cell that only one of two runs has, and why the other lacks it
    differences: pd.DataFrame  # a row for each fact in which the records differ, a column for each run


def compare_runs(first: str | os.PathLike[str], *others: str | os.PathLike[str]) -> Comparison:
    """Compare runs cell by cell, as `python -m harness compare` prints them; times in ms.

    Raises:
        FileNotFoundError: a directory holds no run.
        Damaged: one of their files is damaged.
        ValueError: there is only one run, they are of different experiments, or the experiment times nothing.

    >>> import harness
    >>> compared = harness.compare_runs("tests/data/run", "tests/data/run")
    >>> compared.ratios.verdict.value_counts().to_dict()
    {'same': 38}
    """
    compared = ratios.compare(ratios.read([Path(first), *map(Path, others)]))
    differing = [
        {"name": each.name, **{run.label: v for run, v in zip(compared.runs, each.values, strict=True)}}
        for each in compared.differences
    ]
    return Comparison(_flat(compared.ratios), _flat(compared.lone), pd.DataFrame(differing))


def _flat(rows: Sequence[Ratio] | Sequence[Lone]) -> pd.DataFrame:
    """A comparison's rows, with the fields of their cells as columns."""
    frame = pd.DataFrame(
        [{**row.cell, **{k: v for k, v in vars(row).items() if k != "cell"}} for row in rows]
    )
    whole = [name for name in ("spread_k", "layers") if name in frame]
    flat: pd.DataFrame = frame.astype(dict.fromkeys(whole, "Int64"))  # null where a cell has none
    return flat
