"""The main job: what does the layout of the KV cache cost this model's prefill?"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from harness import arms, capture, device, kernels, layout, models, prefills, prompt
from harness.config import RunConfig, check_spreads
from harness.engine import PrefillEngine, blocks_for
from harness.measure import ceilings, clocks, timers
from harness.measure.sampler import MIN_ROUNDS, WARMUP_ROUNDS, Budget, Series, sample
from harness.record import Cell, Result, Status, series_name
from harness.recorder import Recorder
from harness.replay import Replay

SAMPLED_LAYERS = 3
END_TO_END_SHARE = 0.3  # of the time for sampling
END_TO_END = "end_to_end"  # the name of its series
Todo = dict[int, list[tuple[capture.AttentionCall, bool]]]


def run(config: RunConfig, source: models.ModelSource) -> int:
    """Run the main job and leave its run directory; the exit status.

    0: done. 1: it failed, the directory holds what was measured until then. 130: Ctrl-C, likewise.
    """
    recorder = Recorder(config)
    status, code = "failed", 1
    try:
        # vLLM's tensors may only be written to in inference mode.
        with torch.inference_mode():
            Job(config, source, recorder).run()
        status, code = "finished", 0
    except KeyboardInterrupt:
        status, code = "interrupted", 130
        recorder.say("interrupted; what was measured until now is kept")
    except Exception as error:
        recorder.note(error=f"{type(error).__name__}: {error}")
        raise
    finally:
        recorder.finish(status)
    return code


class Job:
    """One run of the main job: its phases in their order."""

    def __init__(self, config: RunConfig, source: models.ModelSource, recorder: Recorder) -> None:
        self.config, self.source, self.recorder = config, source, recorder
        self.device = device.kind()
        self.timer = timers.for_device(self.device, config.timer, config.l2)
        self.monitor = clocks.for_device(self.device)
        self.replay = Replay(self.device, config.run_sizes, config.seed)
        assert config.max_seconds is not None
        self.seconds = config.max_seconds
        self.left_over_s = 0.0  # time that the replay did not need
        self.budgets: list[Budget] = []
        name = str(config.from_captures) if config.from_captures else source.name
        recorder.note(
            timer=self.timer.name,
            ceilings=asdict(ceilings.measure(self.device)),
            model={"name": name, "weights": source.weights},
        )

    def run(self) -> None:
        """All phases."""
        if self.config.from_captures:
            self._replay_saved(self.config.from_captures)
            return
        for text in self.source.notices:
            self.recorder.notice(text)
        source = models.materialise(self.source, self.config.seed)
        token_ids, origin = prompt.token_ids(
            source, self.config.length, self.config.prompt_file, self.config.seed
        )
        self.recorder.note(prompt=origin)
        self.recorder.say(f"starting vLLM for {source.name} ...")
        with PrefillEngine(self.config, source) as engine:
            self.recorder.note(engine=engine.settings, engine_start_s=round(engine.start_s, 1))
            self.recorder.say(f"engine up after {engine.start_s:.0f} s")
            up = time.perf_counter()
            self._sweep(engine, token_ids)
            sampling_s = sum(budget.spent_s for budget in self.budgets)
            self.recorder.note(
                measuring_s=round(time.perf_counter() - up, 1), sampling_s=round(sampling_s, 1)
            )

    def _sweep(self, engine: PrefillEngine, token_ids: list[int]) -> None:
        free = engine.free_block_ids()
        count = blocks_for(self.config.length, engine.settings["block_size"], free)
        plans = self._plans(count, free)
        engine.prefill(token_ids, plans[1])  # the first step compiles and allocates
        if not engine.layers:
            self.recorder.notice(
                f"--tensor-parallel-size {self.config.tensor_parallel_size}: the attention layers run in "
                "other processes, so nothing is captured or replayed; prefills are timed on chosen blocks"
            )
            self._end_to_end(engine, token_ids, plans, {})
            return
        base = prefills.capture(engine, token_ids, plans[1], self._chosen_layers(len(engine.layers)))
        self._describe(engine, base, count)
        self._fit_layers(base.calls)
        if self.config.save_captures:
            self._save(base)
        problems = self._replay_all(engine, token_ids, plans, base)
        self._end_to_end(engine, token_ids, plans, problems)

    def _plans(self, count: int, free: Sequence[int]) -> dict[int, list[int]]:
        """Block ids by spread_k. The one-run baseline shares no block with the others, so both stay."""
        config = self.config
        one_run = layout.plan(count, 1, free, seed=config.seed)
        taken = set(one_run)
        rest = [block for block in free if block not in taken]
        split = {
            k: layout.plan(count, k, rest, gap=config.gap, sizes=config.run_sizes, seed=config.seed + k)
            for k in config.spreads()
            if k > 1
        }
        return {1: one_run} | split

    def _chosen_layers(self, count: int) -> list[int] | None:
        """The layers that the configuration asks for, or that a resumed run has; None: all."""
        if self.recorder.finished:
            return list(self.recorder.record["layers"])
        if self.config.layers == "sample":
            return spaced(count, SAMPLED_LAYERS)
        return self.config.layers if isinstance(self.config.layers, list) else None

    def _describe(self, engine: PrefillEngine, base: prefills.Captured, count: int) -> None:
        for layer, reason in base.skipped.items():
            self.recorder.notice(f"layer {layer} left out: {reason}")
        if not base.calls:
            raise capture.CaptureError("no layer of this model has a paged KV cache, so there is no layout")
        self._describe_calls(list(base.calls.values()), self.source.name, self.source.weights)
        self.recorder.record["model"]["num_layers"] = len(engine.layers)
        self.recorder.note(num_blocks=count, first_token=base.prefill.first_token)
        if self.config.layers == "sample":
            self.recorder.notice(f"{len(base.calls)} of {len(engine.layers)} layers are replayed")

    def _describe_calls(self, calls: Sequence[capture.AttentionCall], name: str, weights: str) -> None:
        call = calls[0]
        self.recorder.note(
            spread_k=self.config.spreads(),
            layers=[call.layer for call in calls],
            layer_windows={
                str(c.layer): list(c.sliding_window) for c in calls if c.sliding_window != (-1, -1)
            },
            model={
                "name": name,
                "weights": weights,
                "num_heads": call.num_heads,
                "num_kv_heads": call.num_kv_heads,
                "head_dim": call.head_dim,
                "dtype": str(call.query.dtype).removeprefix("torch."),
            },
        )

    def _fit_layers(self, calls: dict[int, capture.AttentionCall]) -> None:
        """Leave out layers if not even a few samples of all of them fit the time; say so."""
        if (
            self.recorder.finished
            or self.config.layers is not None
            or self.config.repeats is not None
            or len(calls) <= 1
        ):
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
            self.recorder.notice(
                f"{len(numbers)} of {len(calls)} layers are replayed ({', '.join(map(str, numbers))}): all "
                f"of them do not fit --max-seconds {self.seconds:g}; --layers all measures them all"
            )
            for number in set(calls) - set(numbers):
                del calls[number]
            self.recorder.note(layers=numbers)

    def _save(self, base: prefills.Captured) -> None:
        folder = self.recorder.directory.path / "captures"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for number, call in base.calls.items():
            capture.save(call, folder / f"layer-{number:03d}.safetensors")
        self.recorder.say(f"{len(base.calls)} attention calls saved in {folder}")

    def _replay_all(
        self,
        engine: PrefillEngine,
        token_ids: list[int],
        plans: dict[int, list[int]],
        base: prefills.Captured,
    ) -> dict[int, str]:
        """For every spread_k a real prefill and a replay of its calls; what was wrong, by spread_k."""
        todo = self._todo(list(base.calls.values()))
        budget = self._budget(weight_of(todo), 1 - END_TO_END_SHARE)
        problems: dict[int, str] = {}
        with self.recorder.bar("replay", sum(map(len, todo.values()))) as bar:
            for k, calls in todo.items():
                bar.set_postfix_str(f"spread_k={k}")
                with self.recorder.peak_memory(k):
                    checked = prefills.check(engine, token_ids, plans[k], base)
                    if checked.problems:
                        problems[k] = "; ".join(checked.problems[:2])
                        self.recorder.notice(f"spread_k = {k}: {problems[k]}")
                    for call, with_synthetic in calls:
                        place = self._placed(call, k, checked.tables[call.layer])
                        self._measure(place, with_synthetic, budget, problems.get(k))
                        bar.update()
                self.recorder.show(k)
        self._note_repeats(budget)
        return problems

    def _todo(self, calls: Sequence[capture.AttentionCall]) -> Todo:
        """By spread_k: the calls to replay that are not finished, and whether random inputs go with each.

        They go with the first call of every shape.
        """
        first = {call.shape_key(): call.layer for call in reversed(calls)}
        return {
            k: [
                (call, first[call.shape_key()] == call.layer)
                for call in calls
                if series_name(k, call.layer) not in self.recorder.finished
            ]
            for k in self.config.spreads()
        }

    def _replay_saved(self, folder: Path) -> None:
        """The replay alone, from captures in files, each K and V in a cache made for it."""
        calls = [capture.load(path, self.device) for path in sorted(folder.glob("*.safetensors"))]
        # Length and block size are the captures', whatever the configuration's defaults say.
        shape = {"length": calls[0].num_tokens, "block_size": calls[0].block_size}
        self.config = self.config.model_copy(update=shape)
        check_spreads(self.config)
        self._describe_calls(calls, "a saved capture", "captured")
        self.recorder.note(config=self.config.model_dump(mode="json"), num_blocks=self.config.num_blocks())
        self.recorder.notice(
            f"replayed from {folder} without an engine: caches are rebuilt, nothing is timed end to end"
        )
        todo = self._todo(calls)
        budget = self._budget(weight_of(todo), 1.0)
        with self.recorder.bar("replay", sum(map(len, todo.values()))) as bar:
            for k, pending in todo.items():
                with self.recorder.peak_memory(k):
                    for call, with_synthetic in pending:
                        self._measure(self.replay.own_cache(call, k), with_synthetic, budget, None)
                        bar.update()
                self.recorder.show(k)
        self._note_repeats(budget)

    def _measure(
        self, place: arms.Placement, with_synthetic: bool, budget: Budget, problem: str | None
    ) -> None:
        """Sample one series; what it gave is on disk when this returns, also on Ctrl-C."""
        series = self.replay.series(place, with_synthetic)
        if problem:
            _mark_wrong(series, problem)
        try:
            self._sample(
                series, self.timer, budget, self.config.seed + place.call.layer, weight=1 + with_synthetic
            )
        finally:
            self.recorder.keep(series.results)

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
        if END_TO_END in self.recorder.finished:
            return
        series = Series([], [])
        provider = f"vLLM {self.recorder.record['versions']['vllm']}"
        block_size = self.config.block_size or 0
        for k, control in [*((k, False) for k in plans), (1, True)]:
            cell = Cell("end_to_end", "prefill", provider, "paged", k, block_size, None, "captured")
            series.results.append(Result(cell, END_TO_END, Status.OK, control=control))
            series.steps.append(timers.Step(lambda ids=plans[k]: engine.prefill(token_ids, ids)))  # type: ignore[misc]
        for n, result in enumerate(series.results):
            if problem := problems.get(result.cell.spread_k):
                _fail(series, n, problem)
        budget = self._budget(1, END_TO_END_SHARE)
        budget.seconds += self.left_over_s
        with self.recorder.bar("end to end", None) as bar:
            try:
                self._sample(series, PrefillTimer(), budget, self.config.seed, bar.update)
            finally:
                self.recorder.keep(series.results)

    def _sample(
        self,
        series: Series,
        timer: timers.Timer,
        budget: Budget,
        seed: int,
        on_round: Callable[[], object] = lambda: None,
        weight: int = 1,
    ) -> None:
        sample(
            series,
            timer,
            budget,
            seed,
            on_round,
            weight=weight,
            monitor=self.monitor,
            precision_pct=self.config.precision,
        )

    def _budget(self, series: int, share: float) -> Budget:
        self.budgets.append(Budget(share * self.seconds, series, self.config.repeats))
        return self.budgets[-1]

    def _note_repeats(self, budget: Budget) -> None:
        self.left_over_s = budget.seconds
        if late := getattr(self.timer, "launch_bound", 0):
            self.recorder.notice(
                f"{late} samples may hold time in which the GPU waited for the host to launch"
            )
        self.recorder.note(fewest_samples=budget.least_rounds)
        if self.config.repeats is None and budget.shortened:
            self.recorder.notice(
                f"--max-seconds {self.seconds:g} ended some series before every interval was narrower "
                f"than {self.config.precision:g}% of its baseline; the fewest samples a cell has are "
                f"{budget.least_rounds}"
            )


def weight_of(todo: Todo) -> int:
    """What `Budget` counts: a series with random inputs beside the captured ones has twice the arms."""
    return sum(1 + with_synthetic for calls in todo.values() for _, with_synthetic in calls)


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
        fragmented = result.cell.arm in ("fragmented", "paged") and not result.one_run_for
        if fragmented and result.cell.data == "captured":
            _fail(series, n, problem)


def _fail(series: Series, n: int, problem: str) -> None:
    series.failed.add(n)
    series.results[n] = replace(series.results[n], status=Status.WRONG_OUTPUT, reason=problem)
