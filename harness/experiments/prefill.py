"""The main job: what does the layout of the KV cache cost this model's prefill?"""

from __future__ import annotations

import gc
import resource
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from harness import arms, capture, device, kernels, layout, models, prefills, prompt, report
from harness.config import RunConfig, check_spreads, output_dir
from harness.engine import PrefillEngine, blocks_for
from harness.measure import timers
from harness.measure.sampler import MIN_ROUNDS, WARMUP_ROUNDS, Budget, Series, sample
from harness.record import Cell, Result, Status
from harness.replay import Replay
from harness.store import RunDirectory
from harness.summary import summarise

SAMPLED_LAYERS = 3
END_TO_END_SHARE = 0.3  # of the time for sampling
MAX_PREFILLS = 30


def run(config: RunConfig, source: models.ModelSource) -> int:
    """Run the main job and leave its run directory; the exit status.

    0: done. 1: it failed, the directory holds what was measured until then. 130: Ctrl-C, likewise.
    """
    directory = RunDirectory.create(output_dir(config), config.overwrite)
    job = Job(config, source, directory)
    status, code = "failed", 1
    try:
        job.run()
        status, code = "finished", 0
    except KeyboardInterrupt:
        status, code = "interrupted", 130
        job.say("interrupted; what was measured until now is kept")
    except Exception as error:
        job.record["error"] = f"{type(error).__name__}: {error}"
        raise
    finally:
        job.finish(status)
    return code


class Job:
    """One run of the main job: its state, and its phases in their order."""

    def __init__(self, config: RunConfig, source: models.ModelSource, directory: RunDirectory) -> None:
        self.config, self.source, self.directory = config, source, directory
        self.device = device.kind()
        self.timer = timers.for_device(self.device)
        self.replay = Replay(self.device, config.run_sizes, config.seed)
        self.of_this_spread: list[Result] = []
        assert config.max_seconds is not None
        self.seconds = config.max_seconds
        self.record: dict[str, Any] = {
            "schema_version": 1,
            "status": "running",
            "started": _now(),
            "command": sys.argv,
            "config": config.model_dump(mode="json"),
            "device": device.describe(),
            "versions": device.versions(),
            "notices": [],
            "timer": self.timer.name,
            "spread_k": [] if config.from_captures else config.spreads(),
            "peak_memory_bytes": {},
        }
        directory.write_record(self.record)

    def run(self) -> None:
        """All phases, in inference mode, because vLLM's tensors may only be written to in that."""
        with torch.inference_mode():
            self._run_phases()

    def _run_phases(self) -> None:
        if self.config.from_captures:
            self._replay_saved(self.config.from_captures)
        else:
            self._run_engine()

    def say(self, text: str) -> None:
        """A line on the screen, above any progress bar."""
        if not self.config.quiet:
            tqdm.write(text, file=sys.stderr)

    def notice(self, text: str) -> None:
        """Something every reader of the results must know."""
        self.record["notices"].append(text)
        self.say(f"note: {text}")

    def finish(self, status: str) -> None:
        """Write the record and, from what is on disk, summary, tables and plots; print the last table."""
        self.record |= {"status": status, "finished": _now()}
        self.directory.write_record(self.record)
        tables = report.write(self.directory)
        if status != "failed":
            print(tables.screen_summary())
        print(f"results: {self.directory.path}")

    def _run_engine(self) -> None:
        config = self.config
        for text in self.source.notices:
            self.notice(text)
        source = models.materialise(self.source, config.seed)
        token_ids, origin = prompt.token_ids(source, config.length, config.prompt_file, config.seed)
        self.record["prompt"] = origin
        self.say(f"starting vLLM for {source.name} ...")
        with PrefillEngine(config, source) as engine:
            self.record["engine"] = engine.settings
            self.record["engine_start_s"] = round(engine.start_s, 1)
            self.say(f"engine up after {engine.start_s:.0f} s")
            self._sweep(engine, token_ids)

    def _sweep(self, engine: PrefillEngine, token_ids: list[int]) -> None:
        up = time.perf_counter()
        free = engine.free_block_ids()
        count = blocks_for(self.config.length, engine.settings["block_size"], free)
        plans = self._plans(count, free)
        engine.prefill(token_ids, plans[1])  # the first step compiles and allocates
        chosen = self.config.layers if isinstance(self.config.layers, list) else None
        if self.config.layers == "sample":
            chosen = spaced(len(engine.layers), SAMPLED_LAYERS)
        base = prefills.capture(engine, token_ids, plans[1], chosen)
        self._describe(engine, base, count)
        self._fit_layers(base.calls)
        if self.config.save_captures:
            self._save(base)
        problems = self._replay_all(engine, token_ids, plans, base)
        self._end_to_end(engine, token_ids, plans, problems)
        self.record["measuring_s"] = round(time.perf_counter() - up, 1)

    def _plans(self, count: int, free: Sequence[int]) -> dict[int, list[int]]:
        """Block ids by spread_k. The one-run baseline shares no block with the others, so both stay."""
        config = self.config
        one_run = layout.plan(count, 1, free, seed=config.seed)
        taken = set(one_run)
        rest = [block for block in free if block not in taken]
        plans = {1: one_run}
        for k in config.spreads():
            if k > 1:
                plans[k] = layout.plan(
                    count, k, rest, gap=config.gap, sizes=config.run_sizes, seed=config.seed + k
                )
        return plans

    def _describe(self, engine: PrefillEngine, base: prefills.Captured, count: int) -> None:
        for layer, reason in base.skipped.items():
            self.notice(f"layer {layer} left out: {reason}")
        if not base.calls:
            raise capture.CaptureError("no layer of this model has a paged KV cache, so there is no layout")
        call = next(iter(base.calls.values()))
        self.record |= {
            "model": {
                "name": self.source.name,
                "weights": self.source.weights,
                "num_layers": len(engine.layers),
                "num_heads": call.num_heads,
                "num_kv_heads": call.num_kv_heads,
                "head_dim": call.head_dim,
                "dtype": engine.settings["dtype"],
            },
            "num_blocks": count,
            "first_token": base.prefill.first_token,
        }

    def _fit_layers(self, calls: dict[int, capture.AttentionCall]) -> None:
        """Leave out layers if not even a few samples of all of them fit the time; say so."""
        self.record["layers"] = list(calls)
        if self.config.layers is not None or self.config.repeats is not None or len(calls) <= 1:
            return
        trial = self.replay.series(self._placed(next(iter(calls.values())), 1, None), with_synthetic=False)
        start = time.perf_counter()
        self.timer.time_round([step for step in trial.steps if step])
        cost = (time.perf_counter() - start) * (MIN_ROUNDS + WARMUP_ROUNDS + 2)
        spreads = len(self.config.spreads())
        fitting = int((1 - END_TO_END_SHARE) * self.seconds / (cost * spreads)) - 1  # one for the synthetic
        if fitting < len(calls):
            keep = spaced(len(calls), max(1, min(fitting, SAMPLED_LAYERS)))
            numbers = [number for n, number in enumerate(calls) if n in keep]
            self.notice(
                f"{len(numbers)} of {len(calls)} layers are replayed ({', '.join(map(str, numbers))}): all "
                f"of them do not fit --max-seconds {self.seconds:g}; --layers all measures them all"
            )
            for number in set(calls) - set(numbers):
                del calls[number]
            self.record["layers"] = numbers

    def _save(self, base: prefills.Captured) -> None:
        folder = self.directory.path / "captures"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for number, call in base.calls.items():
            capture.save(call, folder / f"layer-{number:03d}.safetensors")
        self.say(f"{len(base.calls)} attention calls saved in {folder}")

    def _replay_all(
        self,
        engine: PrefillEngine,
        token_ids: list[int],
        plans: dict[int, list[int]],
        base: prefills.Captured,
    ) -> dict[int, str]:
        """For every spread_k a real prefill and a replay of its calls; what was wrong, by spread_k."""
        spreads = self.config.spreads()
        budget = self._budget(len(spreads) * len(base.calls))
        problems: dict[int, str] = {}
        with self._bar("replay", len(spreads) * len(base.calls)) as bar:
            for k in spreads:
                bar.set_postfix_str(f"spread_k={k}")
                with self._peak_memory(k):
                    checked = prefills.check(engine, token_ids, plans[k], base)
                    if checked.problems:
                        problems[k] = "; ".join(checked.problems[:2])
                        self.notice(f"spread_k = {k}: {problems[k]}")
                    synthetic = set()
                    for call in base.calls.values():
                        extra = call.shape_key() not in synthetic
                        synthetic.add(call.shape_key())
                        place = self._placed(call, k, checked.tables[call.layer])
                        self._replay(place, extra, budget, problems.get(k))
                        bar.update()
                self._show(k)
        self._note_repeats(budget)
        return problems

    def _replay_saved(self, folder: Path) -> None:
        """The replay alone, from captures in files, each K and V in a cache made for it."""
        calls = [capture.load(path, self.device) for path in sorted(folder.glob("*.safetensors"))]
        self._take_shape(calls[0])
        count, spreads = self.config.num_blocks(), self.config.spreads()
        self.record |= {
            "config": self.config.model_dump(mode="json"),
            "spread_k": spreads,
            "layers": [call.layer for call in calls],
            "model": _model_of(calls[0]),
            "num_blocks": count,
        }
        self.notice(
            f"replayed from {folder} without an engine: caches are rebuilt, nothing is timed end to end"
        )
        budget = self._budget(len(spreads) * len(calls))
        with self._bar("replay", len(spreads) * len(calls)) as bar:
            for k in spreads:
                with self._peak_memory(k):
                    for n, call in enumerate(calls):
                        self._replay(self.replay.own_cache(call, k), n == 0, budget, None)
                        bar.update()
                self._show(k)
        self._note_repeats(budget)

    def _take_shape(self, call: capture.AttentionCall) -> None:
        """Length and block size are the capture's, whatever the configuration's defaults say."""
        shape = {"length": call.num_tokens, "block_size": call.block_size}
        self.config = self.config.model_copy(update=shape)
        check_spreads(self.config)

    def _replay(
        self, place: arms.Placement, with_synthetic: bool, budget: Budget, problem: str | None
    ) -> None:
        """Sample one series; what it gave is on disk when this returns, also on Ctrl-C."""
        series = self.replay.series(place, with_synthetic)
        if problem:
            _mark_wrong(series, problem)
        try:
            sample(series, self.timer, budget, self.config.seed + place.call.layer)
        finally:
            self.directory.append(series.results)
            self.of_this_spread += series.results

    def _placed(self, call: capture.AttentionCall, k: int, table: torch.Tensor | None) -> arms.Placement:
        """The call's K and V where they are in the engine's own cache; `table`: of the fragmented prefill."""
        assert call.kv_cache is not None
        one_run = kernels.PagedKV(call.kv_cache, call.block_table)
        split = one_run if table is None else kernels.PagedKV(call.kv_cache, table)
        return arms.Placement(call, k, one_run, split, arms.readable(call, split))

    def _end_to_end(
        self,
        engine: PrefillEngine,
        token_ids: list[int],
        plans: dict[int, list[int]],
        problems: dict[int, str],
    ) -> None:
        """Prefill latency under every layout, in interleaved rounds; spread_k = 1 twice (A/A)."""
        series = Series([], [])
        versions = self.record["versions"]
        provider = f"vLLM {versions['vllm']}"
        for k, control in [*((k, False) for k in plans), (1, True)]:
            cell = Cell(
                "end_to_end", "prefill", provider, "paged", k, self.config.block_size or 0, None, "captured"
            )
            series.results.append(Result(cell, "end_to_end", Status.OK, control=control))
            series.steps.append(timers.Step(lambda ids=plans[k]: engine.prefill(token_ids, ids)))  # type: ignore[misc]
        for n, result in enumerate(series.results):
            if problem := problems.get(result.cell.spread_k):
                series.failed.add(n)
                series.results[n] = replace(result, status=Status.WRONG_OUTPUT, reason=problem)
        budget = Budget(END_TO_END_SHARE * self.seconds, 1, self.config.repeats, most_rounds=MAX_PREFILLS)
        with self._bar("end to end", None) as bar:
            try:
                sample(series, PrefillTimer(), budget, self.config.seed, on_round=bar.update)
            finally:
                self.directory.append(series.results)

    def _budget(self, series: int) -> Budget:
        share = 1.0 if self.config.from_captures else 1 - END_TO_END_SHARE
        return Budget(share * self.seconds, series, self.config.repeats)

    def _note_repeats(self, budget: Budget) -> None:
        self.record["fewest_samples"] = budget.least_rounds
        if self.config.repeats is None and budget.shortened:
            self.notice(
                f"samples per cell were cut to {budget.least_rounds} or more "
                f"to fit --max-seconds {self.seconds:g}"
            )

    def _show(self, k: int) -> None:
        """Print the table of the spread_k just measured."""
        tables = report.Tables(self.record, summarise(self.record, self.of_this_spread))
        self.of_this_spread.clear()
        with tqdm.external_write_mode(file=sys.stdout):
            print(tables.screen_table(k), flush=True)

    def _bar(self, name: str, total: int | None) -> tqdm[Any]:
        return tqdm(total=total, desc=name, disable=self.config.quiet, dynamic_ncols=True)

    @contextmanager
    def _peak_memory(self, k: int) -> Iterator[None]:
        """Record the peak memory of a spread_k and free everything it allocated."""
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        try:
            yield
        finally:
            gc.collect()
            if self.device == "cuda":
                peak = torch.cuda.max_memory_allocated()
                torch.cuda.empty_cache()
            else:
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            self.record["peak_memory_bytes"][f"spread={k}"] = peak


class PrefillTimer:
    """The engine's own step time, which leaves out adding the request."""

    name = "engine step"

    def time_round(self, steps: Sequence[timers.Step]) -> list[float]:
        """Microseconds of each step, whose `run` returns a Prefill."""
        return [1e6 * step.run().seconds for step in steps]  # type: ignore[attr-defined]


def spaced(count: int, wanted: int) -> list[int]:
    """`wanted` indices out of range(count), evenly spaced, ends included."""
    if wanted >= count:
        return list(range(count))
    if wanted == 1:
        return [0]
    return [round(n * (count - 1) / (wanted - 1)) for n in range(wanted)]


def _mark_wrong(series: Series, problem: str) -> None:
    """The fragmented captured arms of a prefill that went wrong are reported, not timed."""
    for n, result in enumerate(series.results):
        if (
            result.cell.data == "captured"
            and result.cell.arm in ("fragmented", "paged")
            and not result.one_run_for
        ):
            series.failed.add(n)
            series.results[n] = replace(result, status=Status.WRONG_OUTPUT, reason=problem)


def _model_of(call: capture.AttentionCall) -> dict[str, Any]:
    return {
        "name": "a saved capture",
        "weights": "captured",
        "num_heads": call.num_heads,
        "num_kv_heads": call.num_kv_heads,
        "head_dim": call.head_dim,
        "dtype": str(call.query.dtype).removeprefix("torch."),
    }


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
