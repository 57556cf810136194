"""Resuming a run: what must not have changed, and which series are finished."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from harness import device
from harness.config import Common, ConfigError
from harness.runs.record import Result, Status, latest
from harness.runs.schema import RunRecord
from harness.runs.store import RunDirectory
from harness.runs.writing import Damaged, read_json

# Options for output and duration; all others affect what the figures mean.
FREE = {"tables", "print_json", "quiet", "overwrite", "resume", "output_dir", "max_seconds"}


def check(config: Common) -> None:
    """Raise ConfigError, with the reason, if the run in the output directory cannot be resumed like this."""
    assert config.output_dir is not None
    if not (config.output_dir / "run.json").is_file():
        raise ConfigError(f"--resume: --output-dir {config.output_dir} holds no run; name the run to resume")
    run = RunDirectory.open(config.output_dir)
    record = run.record()
    if record.experiment != config.experiment:
        raise ConfigError(
            f"--resume: the run in {config.output_dir} is one of {record.experiment}, not of "
            f"{config.experiment}; name another"
        )
    if record.status == "finished" and not (lacks_only_its_report(run) or _left_out(run)):
        raise ConfigError(f"--resume: the run in {config.output_dir} is finished; nothing is left to measure")
    if changes := differences(record, config):
        raise ConfigError(
            f"--resume: the run in {config.output_dir} was started with {'; '.join(changes)}; "
            "resume it as it was, or start another run"
        )
    run.refuse_links()
    run.results()  # refuses damaged lines before anything is started


def lacks_only_its_report(run: RunDirectory) -> bool:
    """Whether a run is measured, but was ended while its report was written, whose summary comes last."""
    if run.record().status != "finished":
        return False
    try:
        return bool(read_json(run.summary_path)["status"] != "finished")
    except (FileNotFoundError, Damaged):
        return True


def _left_out(run: RunDirectory) -> bool:
    """Whether a finished run had too little time for some of its cells."""
    return any(result.status is Status.INTERRUPTED for result in latest(run.results()))


def differences(record: RunRecord, config: Common) -> list[str]:
    """Differences between a run's record and the configuration to resume it with."""
    now = config.model_dump(mode="json")
    before = {"device": record.device.name, **record.versions}
    before |= _options({name: record.config.get(name) for name in now})
    after = {"device": device.describe()["name"], **device.versions()} | _options(now)
    names = sorted(before.keys() | after.keys())
    return [
        f"{name} {before.get(name)}, not {after.get(name)}"
        for name in names
        if before.get(name) != after.get(name)
    ]


def _options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Those that affect the figures, as --name -> value, vLLM's own among them."""
    named = {name: value for name, value in config.items() if name not in FREE}
    named |= named.pop("engine_options", None) or {}
    return {f"--{name.replace('_', '-')}": value for name, value in named.items()}


def finished_series(results: Iterable[Result]) -> set[str]:
    """Names of the series with all results, none of them interrupted."""
    counted = latest(results)
    have = Counter(r.series for r in counted)
    cut_short = {r.series for r in counted if r.status is Status.INTERRUPTED}
    return {r.series for r in counted if have[r.series] == r.series_size} - cut_short
