"""How long does moving a request's KV cache take, by layout and by way of copying?

No engine and no model: blocks hold random bytes, as a copy takes no longer for some than for others.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import product
from time import perf_counter_ns

import torch

from harness import layout
from harness.analysis import stats
from harness.experiments import views
from harness.experiments.transfer import copying, natural, policy
from harness.experiments.transfer.copying import Bound, Move
from harness.experiments.transfer.memory import Case, Memory
from harness.experiments.transfer.options import TransferConfig
from harness.experiments.transfer.rows import TransferSummary
from harness.experiments.transfer.ways import GATHER, PLANNED, PREFILL, YARDSTICK
from harness.kernels import Unsupported
from harness.measure.budget import Budget
from harness.measure.sampler import Series
from harness.measure.timers import Step
from harness.measure.wall_timer import WallTimer
from harness.report.document import Document
from harness.running.recorder import Recorder, recording
from harness.running.sampling import Sampling
from harness.runs.record import Cell, Result, Status, status_of
from harness.runs.store import RunDirectory
from harness.runs.writing import write_json

HOST_COPY = "host copy"  # a stand-in: on a CPU nothing is pinned and nothing crosses a bus


def run(config: TransferConfig, source: None = None) -> None:
    """Run the experiment, leaving a run directory; raises as `recording` does."""
    recording(config, "a request's KV cache", measure, write)


def write(run: RunDirectory) -> Document:
    """The views of a run, and the table for connectors beside them."""
    document = views.write(run)
    write_json(run.path / policy.FILE, policy.of(run.record(), run.summary(TransferSummary)).to_json())
    return document


def measure(config: TransferConfig, recorder: Recorder) -> None:
    """One series for each direction, layout and spread_k, in random order."""
    sampling = Sampling(config, recorder)
    memory = Memory(config, sampling.device, natural_layouts(config))
    timer = WallTimer(memory.gpus(), config.l2)
    with recorder.update_record() as record:
        record.timer, record.spread_k, record.num_blocks = timer.name, config.spreads(), config.num_blocks()
        record.kv_bytes_per_token = config.bytes_per_token()
    if config.prefill_run and PREFILL not in recorder.finished:
        _add_prefills(recorder, RunDirectory(config.prefill_run))
    lying = [(k, PLANNED) for k in config.spreads()]
    lying += [(layout.spread_k(ids), name) for name, ids in memory.natural.items()]
    axes = product(config.directions, config.kv_layouts, config.layer_tensors, lying)
    cases = [Case(to, kv_layout, tensors, *where) for to, kv_layout, tensors, where in axes]
    todo = [case for case in cases if case.series not in recorder.finished]
    random.Random(config.seed).shuffle(todo)  # so that what changes with the hour is no trend over spread_k
    budget = sampling.budget(len(todo), 1.0, stats.INTERVAL_SAMPLES)
    with torch.inference_mode(), _fit_for_copies(sampling.device), recorder.bar("series", len(todo)) as bar:
        for case in todo:
            bar.set_postfix_str(case.series)
            _measure(sampling, memory, case, timer, budget)
            bar.update()
    sampling.note_limits(0)


@contextmanager
def _fit_for_copies(device: str) -> Iterator[None]:
    """A stream of its own, as vLLM's batched copy refuses CUDA's default one; on a CPU a single thread, as
    threads that meet at every short copy wait for each other.
    """
    if device == "cuda":
        with torch.cuda.stream(torch.cuda.Stream()):
            yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _add_prefills(recorder: Recorder, run: RunDirectory) -> None:
    """Make the run's prefills a series of this one."""
    recorder.add(prefills(run.results()))
    there, here = run.record().device.name, recorder.record.device.name
    if there != here:
        recorder.notice(f"the prefill was measured on {there}, the transfers on {here}")


def prefills(results: Iterable[Result]) -> list[Result]:
    """The whole prefills of a run of the main job on the paged cache, as a series of this run."""
    return [
        replace(result, series=PREFILL, one_segment_for=None)
        for result in results
        if (result.cell.stage, result.cell.kernel, result.cell.arm) == ("end_to_end", "prefill", "paged")
        and result.samples_us
        and not result.control
    ]


def _measure(sampling: Sampling, memory: Memory, case: Case, timer: WallTimer, budget: Budget) -> None:
    """A separate function, so that nothing of one case survives into the next."""
    vllm = sampling.recorder.record.versions.get("vllm")
    arms = [Arm(way, case, memory, f"vLLM {vllm}") for way in all_ways(memory.config)]
    arms += [Arm(GATHER, case, memory, control=True), Arm(GATHER, case, memory, placebo=True)]
    series = prepare(arms)

    def on_round() -> None:
        for n in series.ready():
            arms[n].read()

    sampling.sample(series, timer, budget, memory.config.seed + case.spread_k, on_round)


def natural_layouts(config: TransferConfig) -> dict[str, tuple[int, ...]]:
    """The block ids of all layouts from files, by name; raises LayoutsError."""
    found: dict[str, tuple[int, ...]] = {}
    for path in config.layouts or ():
        found |= natural.read(path, config.num_blocks(), config.block_size or 0)
    return found


def all_ways(config: TransferConfig) -> list[str]:
    """The ways of one series; the yardstick and the gather are always among them."""
    return list(dict.fromkeys([YARDSTICK, GATHER, *config.ways]))


@dataclass
class Arm:
    """A way of moving one case's blocks, which notes how long the host is busy with it."""

    way: str
    case: Case
    memory: Memory
    vllm: str = ""
    control: bool = False  # the same again (A/A)
    placebo: bool = False  # the same layout at another place of the pool
    bound: Bound | None = None
    host_us: float = 0.0
    readings: dict[str, list[float]] = field(default_factory=dict)

    def bind(self, move: Move) -> str | None:
        """Make it ready and run it once; returns what is wrong with the bytes. Raises what it fails with."""
        move = self.memory.elsewhere(move) if self.placebo else move
        self.bound = copying.bind(self.way, move)
        self.readings["descriptors"] = [float(self.bound.descriptors)]
        return copying.objection(move, self.bound)

    def run(self) -> None:
        """Move the blocks; returns once everything is submitted, on a CPU once it is done."""
        assert self.bound is not None
        start = perf_counter_ns()
        self.bound.run()
        self.host_us = (perf_counter_ns() - start) / 1e3

    def read(self) -> None:
        """Record the last run's time on the host."""
        self.readings.setdefault("host_us", []).append(self.host_us)

    def result(self, status: Status, reason: str | None) -> Result:
        """Its result before it is sampled."""
        case, config = self.case, self.memory.config
        arm = "contiguous" if self.way == YARDSTICK else "placebo" if self.placebo else "fragmented"
        point = (
            ("direction", case.direction),
            ("kv_layout", case.kv_layout),
            ("layer_tensors", case.layer_tensors),
            ("layout", case.layout),
        )
        size = config.block_size or 0
        cell = Cell(
            "transfer", self.way, self._provider(), arm, case.spread_k, size, None, "synthetic", point
        )
        return Result(cell, case.series, status, reason, control=self.control, readings=self.readings)

    def _provider(self) -> str:
        if self.way.startswith("swap_"):
            return self.vllm
        return "PyTorch" if self.memory.device == "cuda" else HOST_COPY


def prepare(arms: list[Arm]) -> Series:
    """Make the arms of one case ready and check every byte that each moves; failures keep their reason."""
    series = Series([], [])
    move: Move | Exception
    try:
        move = arms[0].memory.move(arms[0].case)
    except Exception as error:
        move = error
    for arm in arms:
        status, reason = _ready(arm, move)
        series.results.append(arm.result(status, reason))
        series.steps.append(Step(arm.run) if status is Status.OK else None)
    series.pairs = _pairs(series.results)
    return series


def _ready(arm: Arm, move: Move | Exception) -> tuple[Status, str | None]:
    try:
        if isinstance(move, Exception):
            raise move
        wrong = arm.bind(move)
    except Unsupported as error:
        return Status.UNSUPPORTED, str(error)
    except Exception as error:
        return status_of(error)
    return (Status.WRONG_OUTPUT, wrong) if wrong else (Status.OK, _remark(move))


def _remark(move: Move) -> str | None:
    """What a reader must know of a transfer that works."""
    if move.direction == "to_peer" and not torch.cuda.can_device_access_peer(0, 1):
        return "the GPUs do not reach each other's memory: copies go through the host"
    return None


def _pairs(results: list[Result]) -> list[tuple[int, int]]:
    """Every way against the yardstick, and the gather against every other way, itself and its placebo."""
    gather = next(n for n, result in enumerate(results) if result.cell.kernel == GATHER)
    yardstick = next(n for n, result in enumerate(results) if result.cell.kernel == YARDSTICK)
    others = [n for n in range(len(results)) if n not in (gather, yardstick)]
    return [(yardstick, n) for n in others if results[n].cell.kernel != GATHER] + [
        (yardstick, gather),
        *((gather, n) for n in others),
    ]
