"""The main job: how much does the paged KV cache cost this model's prefill?"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from itertools import chain
from typing import Any

import torch

from harness import batch, device, layout, models, prompt
from harness.calls import capture
from harness.engine import prefills
from harness.engine.engine import Engine, Prefill, Prompts, check_backend, check_room
from harness.engine.options import EngineError, check_vllm
from harness.engine.ranks import RankDied, Ranks
from harness.experiments import views
from harness.experiments.prefill import end_to_end, layers, natural
from harness.experiments.prefill import other_engines as variants
from harness.experiments.prefill.options import RunConfig
from harness.experiments.prefill.replaying import SAMPLED_LAYERS, Replaying
from harness.measure.sampler import ENOUGH_ROUNDS
from harness.replay.bench import ReplaySpec
from harness.running.recorder import Recorder, recording
from harness.runs.schema import Model, NaturalLayout
from harness.units import first_line, pick_evenly

SWEEP_SHARE, ATTRIBUTION_SHARE = (
    0.3,
    0.5,
)  # shares of the sampling time: whole prefills, without and with overriding arms
EAGER = (
    "the engine runs without CUDA graphs (--enforce-eager): a step of one-token prompts would be a single one"
)
NO_LAYER = "no layer of this model has a paged KV cache, so there is no layout to vary"
WHOLE_ONLY = "no layer is replayed; prefills are timed as a whole only"


def run(config: RunConfig, source: models.ModelSource | None) -> None:
    """Run the main job, leaving a run directory; raises as `recording` does.

    Args:
        source: None: saved captures are replayed, without an engine.
    """
    if source is None:
        from harness.experiments.prefill import saved

        saved.run(config)
        return
    check_vllm(source, config.attention_backend)  # a refusal leaves no run behind

    def job(config: RunConfig, recorder: Recorder) -> None:
        # vLLM's tensors can only be written in inference mode.
        with torch.inference_mode():
            Job(config, source, recorder).run()

    recording(config, source.name, job, views.write, source.notices)


Plans = dict[int, list[list[int]]]  # each prompt's block ids by spread_k


class Job:
    """One run of the main job, phase by phase."""

    def __init__(self, config: RunConfig, source: models.ModelSource, recorder: Recorder) -> None:
        self.config, self.source, self.recorder = config, source, recorder
        self.replaying = Replaying(config, recorder)
        self.end_to_end_share = ATTRIBUTION_SHARE if config.attribution else SWEEP_SHARE

    def run(self) -> None:
        """All phases."""
        if device.kind() == "cuda" and self.config.one_token_each:
            self.recorder.notice(EAGER)
        source = models.materialise(self.source, self.config.seed)
        lengths = [request.length for request in self.config.requests]
        prompts, origin = prompt.token_ids(source, lengths, self.config.prompt_file, self.config.seed)
        with self.recorder.update_record() as record:
            record.prompt = origin
        self.recorder.say(f"starting vLLM for {source.name} ...")
        with Engine(self.config.engine(), source) as engine:
            with self.recorder.update_record() as record:
                record.engine, record.engine_start_s = engine.settings, round(engine.start_s, 1)
            self.recorder.say(f"engine up after {engine.start_s:.0f} s")
            check_backend(self.config.attention_backend, engine.about.backends)
            self.config = self.replaying.config = layers.adopt_block_size(self.config, engine, self.recorder)
            up = time.perf_counter()
            self._sweep(engine, prompts)
            sampling_s = sum(budget.spent_s for budget in self.replaying.budgets)
            with self.recorder.update_record() as record:
                record.measuring_s = round(time.perf_counter() - up, 1)
                record.sampling_s = round(sampling_s, 1)
        variants.measure(source, prompts, self.replaying, self.recorder)

    def _sweep(self, engine: Engine, prompts: Prompts) -> None:
        left_out = layers.left_out(engine, self.config.length)
        layers.note(engine, self.config.length, self.recorder)
        if engine.groups.laid_out is None:
            raise capture.CaptureError(NO_LAYER)
        free = engine.free_block_ids()
        blocks = batch.blocks(self.config.requests, engine.block_size)
        check_room(sum(blocks), free)
        plans = self._plans(blocks, free)
        with self.recorder.update_record() as record:
            record.block_ids = {str(k): [layout.to_ranges(ids) for ids in of_k] for k, of_k in plans.items()}
        try:
            engine.prefill(prompts, plans[1])  # the first step compiles and allocates
        except RankDied:
            raise
        except RuntimeError as error:
            raise EngineError(f"vLLM cannot prefill {self.source.name}: {first_line(error)}") from error
        self._equip(engine.ranks)
        chosen = [n for n in self._chosen_layers(engine, left_out) if n not in left_out]
        base, captured = prefills.capture(engine, prompts, plans[1], chosen)
        layers.note_left_out(captured.skipped, self.recorder)
        if chosen and not captured.calls and not captured.skipped:
            raise capture.CaptureError(
                "no attention call was seen, as in steps that run as one CUDA graph; add --enforce-eager"
            )
        if captured.calls:
            self._fit_layers(engine, captured.calls)
        else:
            self.recorder.notice(WHOLE_ONLY)
            self.replaying.describe([], self._model(engine))
        with self.recorder.update_record() as record:
            record.first_tokens = list(base.first_tokens)
        if self.config.save_captures:
            self._save(engine.ranks)
        problems = self._replay_all(engine, prompts, plans, base, list(captured.calls.values()))
        self._end_to_end(engine, prompts, plans, problems)
        self.replaying.note_limits(sum(engine.ranks.call("launch_bound")))

    def _equip(self, ranks: Ranks) -> None:
        """Prepare every rank for replay; the record gets the first one's equipment."""
        equipment = ranks.call("equip", ReplaySpec.of(self.config), self.replaying.lacks_ceilings)
        self.replaying.record_equipment(equipment[0])

    def _plans(self, blocks: Sequence[int], free: Sequence[int]) -> Plans:
        """Block ids by spread_k. The one-segment baseline shares no block with the others, so both stay
        intact.
        """
        config = self.config
        one_segment = layout.plan_batch(blocks, config.segments(1), free, seed=config.seed)
        taken = set(chain(*one_segment))
        rest = [block for block in free if block not in taken]
        how: dict[str, Any] = {"gap": config.gap, "sizes": config.segment_sizes}
        made = natural.read(config.layouts, config.num_blocks(), config.block_size or 0)
        split = {
            k: made[k].plan(rest)
            if k in made
            else layout.plan_batch(blocks, config.segments(k), rest, seed=config.seed + k, **how)
            for k in config.spreads()
            if k > 1
        }
        if made:
            with self.recorder.update_record() as record:
                record.natural_layouts = {
                    str(k): NaturalLayout(percentiles=[*each.percentiles], source=each.source)
                    for k, each in made.items()
                }
        return {1: one_segment} | split

    def _chosen_layers(self, engine: Engine, left_out: Collection[int]) -> Sequence[int]:
        """The layers that the configuration asks for, or that a resumed run has."""
        if self.recorder.finished:
            return self.recorder.record.layers or []
        every = range(len(engine.about.layers))
        if self.config.layers == "sample":
            measured = [n for n in every if n not in left_out]
            return [measured[n] for n in pick_evenly(len(measured), SAMPLED_LAYERS)]
        return self.config.layers if isinstance(self.config.layers, list) else every

    def _fit_layers(self, engine: Engine, calls: dict[int, capture.AttentionCall]) -> None:
        """Leave out layers if not even a few samples of all of them fit the time, with a notice."""
        fitting, model = len(calls), self._model(engine)
        if self.config.layers is None and self.config.repeats is None and not self.recorder.finished:
            fitting = max(1, min(fitting, self._layers_that_fit(engine.ranks, next(iter(calls)))))
        numbers = [list(calls)[n] for n in pick_evenly(len(calls), fitting)]
        if fitting < len(calls):
            self.recorder.notice(
                f"all {len(calls)} layers do not fit --max-seconds {self.replaying.seconds:g}; replaying "
                f"layers {', '.join(map(str, numbers))}; --layers all replays them all"
            )
        elif self.config.layers == "sample":
            of = len(engine.about.layers)
            self.recorder.notice(f"{len(calls)} of {of} layers are replayed (--layers sample)")
        for number in set(calls) - set(numbers):
            del calls[number]
        engine.ranks.call("keep", numbers)
        self.replaying.describe(list(calls.values()), model)

    def _model(self, engine: Engine) -> Model:
        """The model with the number of its layers, for the record."""
        about = engine.about
        left_out = len(about.kinds.not_steered(self.config.length))
        return Model(
            name=self.source.name,
            weights=self.source.weights,
            num_layers=len(about.layers) - left_out,
            layers_left_out=left_out,
        )

    def _layers_that_fit(self, ranks: Ranks, layer: int) -> int:
        """How many layers could get enough rounds at every spread_k, judging by one round of this one."""
        round_s = max(ranks.call("round_s", layer, max(self.config.spreads())))
        # The rounds, some warm-up, and the preparation, which runs every arm once or twice.
        cost_s = round_s * (ENOUGH_ROUNDS + 4)
        time_s = (1 - self.end_to_end_share) * self.replaying.seconds
        return int(time_s / (cost_s * len(self.config.spreads()))) - 1  # one for the random inputs

    def _save(self, ranks: Ranks) -> None:
        folder = self.recorder.directory.captures_path
        saved = sum(ranks.call("save", folder))
        self.recorder.say(f"{saved} attention calls saved in {folder}")

    def _replay_all(
        self,
        engine: Engine,
        prompts: Prompts,
        plans: Plans,
        base: Prefill,
        calls: Sequence[capture.AttentionCall],
    ) -> dict[int, str]:
        """For every spread_k, run a real prefill and replay its calls; returns what was wrong, by
        spread_k.
        """
        ranks, todo = engine.ranks, self.replaying.todo(calls)
        budget = self.replaying.budget_for(todo, 1 - self.end_to_end_share)
        problems: dict[int, str] = {}
        with self.recorder.bar("replay", sum(map(len, todo.values()))) as bar:
            for k, pending in self.replaying.in_passes(todo):
                bar.set_postfix_str(f"spread_k={k}")
                ranks.call("start_peak")
                if of_spread := prefills.check(engine, prompts, plans[k], base):
                    problems[k] = "; ".join(of_spread[:2])
                    self.recorder.notice(f"spread_k = {k}: {problems[k]}")
                for call, first_of_shape in pending:
                    how = (budget, problems.get(k))
                    for index in self.replaying.alone(k, call.layer, first_of_shape):
                        sampled = ranks.call("replay_request", call.layer, k, index, *how)
                        self.replaying.take(sampled, budget)
                    with_synthetic = first_of_shape and self.config.synthetic
                    sampled = ranks.call("replay", call.layer, k, with_synthetic, *how)
                    self.replaying.take(sampled, budget)
                    bar.update()
                self.recorder.note_peak(f"spread={k}", max(ranks.call("end_peak")))
        return problems

    def _end_to_end(
        self,
        engine: Engine,
        prompts: Prompts,
        plans: Plans,
        problems: dict[int, str],
    ) -> None:
        if end_to_end.SERIES not in self.recorder.finished:
            prefills = end_to_end.EndToEnd(engine, prompts, plans, self.replaying, self.recorder)
            prefills.measure(problems, self.end_to_end_share)
