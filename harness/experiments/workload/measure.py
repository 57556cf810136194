"""What does the KV cache cost a whole work, in steps that vLLM's scheduler composes?

One engine, started as a user's, takes the work pass by pass. First every arm's answers are held against
stock's, then stock's steps are recorded and some profiled, and then passes of all arms are interleaved.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from harness import models
from harness.analysis import stats
from harness.engine.answers import Agreement
from harness.engine.child import Child, EngineFailed
from harness.engine.step_log import PassLog
from harness.engine.working import Pass, Way, WorkFacts, working
from harness.experiments import views
from harness.experiments.workload.inputs import Inputs, engine_setup, prepare
from harness.experiments.workload.options import WorkloadConfig
from harness.experiments.workload.summary import PAIRS, PERCENTILES, PROFILE, SLUGS, STEPS, STOCK, WHOLE
from harness.layout import num_blocks
from harness.measure.sampler import Series
from harness.measure.timers import Step
from harness.models import ModelSource
from harness.running.recorder import Recorder, recording
from harness.running.sampling import Sampling
from harness.runs.record import Cell, Point, Result, Status
from harness.runs.schema import Model
from harness.workloads.layouts import NAME, Layouts, write_layouts
from patches.steering import Override

SERIES = "passes"
PROFILED = 6  # steps of a kind, about
OVERRIDES = {
    "wrapped": Override("paged"),
    "dense": Override("dense"),
    "no_cache": Override("dense", write_cache=False),
}


def run(config: WorkloadConfig, source: ModelSource) -> None:
    """Run the experiment, leaving a run directory; raises as `recording` and `prepare` do."""
    source = models.materialise(source, config.seed)
    inputs = prepare(config, source)  # a refusal leaves no run behind
    notices = [*source.notices, *inputs.notices]
    recording(config, source.name, partial(measure, source=source, inputs=inputs), views.write, notices)


def measure(config: WorkloadConfig, recorder: Recorder, source: ModelSource, inputs: Inputs) -> None:
    """Check, record, profile and sample what an earlier run left undone."""
    if SERIES in recorder.finished:
        return
    recorder.say(f"starting vLLM for {source.name} ...")
    params = {} if config.prompt_logprobs is None else {"prompt_logprobs": config.prompt_logprobs}
    with Child(working, engine_setup(config, source), inputs.task, inputs.requests, params) as engine:
        Job(config, recorder, source, inputs, engine).run()
        engine.ask("shut_down")


@dataclass
class Arm:
    """One way of running the work."""

    name: str
    way: Way
    unsupported: str | None = None
    remark: str | None = None
    checked: Pass | None = None
    agreement: Agreement | None = None


def arms(config: WorkloadConfig, facts: WorkFacts, longest: int) -> list[Arm]:
    """Stock and the arms that were asked for, with the reasons why some cannot run in this engine.

    Args:
        longest: tokens of the work's longest request.
    """
    uncut = _why_not_whole(config, facts, longest)
    found = [Arm(STOCK, Way())]
    if WHOLE in config.arms:
        found.append(Arm(WHOLE, Way(whole_prompts=True), unsupported=uncut))
    for name, override in OVERRIDES.items():
        if name in config.arms or (name == "wrapped" and {"dense", "no_cache"} & {*config.arms}):
            why = facts.why_not
            if name == "no_cache" and config.enable_prefix_caching:
                why = why or "prefix caching would find blocks that nothing was written to; leave it off"
            whole = WHOLE in config.arms and uncut is None
            found.append(Arm(name, Way(override, whole), why, facts.remark))
    return found


def _why_not_whole(config: WorkloadConfig, facts: WorkFacts, longest: int) -> str | None:
    """Why the scheduler cannot be kept from cutting prompts, or None."""
    step = facts.settings.max_num_batched_tokens or 0
    if not facts.chunked:
        return "this engine cuts no prompt, so this is stock"
    if longest > step:
        return f"a request of {longest} tokens is cut by steps of {step}; raise --max-num-batched-tokens"
    if not facts.scheduler_here:
        return "the scheduler runs in another process; add --in-process, or --no-enable-chunked-prefill"
    return None


class Job:
    """One engine's passes."""

    def __init__(
        self, config: WorkloadConfig, recorder: Recorder, source: ModelSource, inputs: Inputs, engine: Child
    ) -> None:
        self.config, self.recorder, self.inputs, self.engine = config, recorder, inputs, engine
        self.facts: WorkFacts = engine.facts
        with recorder.update_record() as record:
            record.engine = self.facts.settings
            record.model = Model(name=record.model.name, weights=source.weights, dtype=self.facts.dtype)
            record.work = inputs.record
        recorder.say(f"engine up after {self.facts.start_s:.0f} s")
        self.arms = arms(config, self.facts, inputs.record.longest)
        self._uncut = any(arm.way.whole_prompts for arm in self.arms if not arm.unsupported)

    def run(self) -> None:
        """All passes."""
        recorder = self.recorder
        with recorder.bar("first passes", len(self.arms) + 2 + self._uncut) as bar:
            for arm in self.arms:
                if not arm.unsupported:
                    self._check(arm)
                bar.update()
            if not self._comparable:
                recorder.notice(
                    "stock's own answers differ, or are no numbers: no arm's are compared with them"
                )
            self._record_steps(bar.update)
        self._sample()

    @property
    def _comparable(self) -> bool:
        """Whether stock's answers are numbers: a converted model may lack the head that gives them."""
        stock = self.arms[0].agreement
        return stock is not None and stock.equal

    def _check(self, arm: Arm) -> None:
        arm.checked, arm.agreement = self.engine.ask("check", arm.way)
        done = arm.checked
        if arm.way.override and not done.steered:
            steps = f"all {done.untouched} steps" if done.untouched > 1 else "the only step"
            arm.unsupported = f"{steps} had parts of prompts, which need the cache, and ran as in vLLM"
        elif arm.way.override and done.untouched:
            of = done.steered + done.untouched
            what = f"{done.untouched} of {of} steps had parts of prompts and ran as in vLLM"
            arm.remark = "; ".join(filter(None, [arm.remark, what]))

    def _record_steps(self, on_pass: object) -> None:
        """A pass of stock, one of whole prompts where any arm has them, and a profiled one of stock."""
        _, log = self.engine.ask("record", Way())
        results = self._steps(STOCK, log)
        self._keep_layouts(log)
        on_pass()  # type: ignore[operator]
        if self._uncut:
            _, whole = self.engine.ask("record", Way(whole_prompts=True))
            results += self._steps(WHOLE, whole)
            on_pass()  # type: ignore[operator]
        counts = Counter(step.kind for step in log.steps)
        every = {kind: max(1, count // PROFILED) for kind, count in counts.items()}
        try:
            _, profiled = self.engine.ask("record", Way(), every)
        except EngineFailed as error:
            self.recorder.notice(f"no step was profiled: {error}")
        else:
            results += self._profiled(profiled)
        on_pass()  # type: ignore[operator]
        self.recorder.add(results)

    def _keep_layouts(self, log: PassLog) -> None:
        """Write the block tables that requests ended with, if they are plain ones."""
        size, pool = self.facts.settings.block_size or 1, self.facts.settings.num_blocks_in_pool or 1
        plain = tuple(each for each in log.layouts if len({*each.block_ids}) == num_blocks(each.tokens, size))
        if plain:
            source = f"workload, {self.inputs.record.requests} requests ({self.inputs.record.format})"
            write_layouts(self.recorder.directory.path / NAME, Layouts(size, pool, source, plain))

    def _cell(self, stage: str, arm: str, *more: tuple[str, int | float | str]) -> Cell:
        point: Point = (("task", self.config.task), ("requests", self.inputs.record.requests), *more)
        provider = f"vLLM {self.recorder.record.versions['vllm']}"
        size = self.facts.settings.block_size or 0
        return Cell(stage, "workload", provider, arm, 0, size, None, "captured", point)

    def _steps(self, arm: str, log: PassLog) -> list[Result]:
        """A cell for each step."""
        results = []
        for number, step in enumerate(log.steps, 1):
            point = (
                ("step", number), ("kind", step.kind), ("tokens", step.tokens),
                ("step_requests", step.requests), ("cached_tokens", step.cached_tokens),
                ("graph", step.graph), ("blocks", step.blocks), ("segments", step.segments),
            )  # fmt: skip
            readings = {"gap_us": [1e3 * step.gap_ms], "start_us": [1e6 * step.start_s]}
            cell = self._cell(STEPS, arm, *point)
            results.append(Result(cell, STEPS, Status.OK, samples_us=[1e3 * step.ms], readings=readings))
        return results

    def _profiled(self, log: PassLog) -> list[Result]:
        """A cell for each kind of step, with what the profiled ones spent their time on."""
        results = []
        for kind in dict.fromkeys(step.kind for step in log.profiled):
            of_kind = [step for step in log.profiled if step.kind == kind]
            readings = {
                f"{slug}_us": [1e3 * step.categories[name] for step in of_kind]
                for name, slug in SLUGS.items()
            }
            readings["tokens"] = [float(step.tokens) for step in of_kind]
            readings["profiled_us"] = [1e3 * step.profiled_ms for step in of_kind]
            results.append(
                Result(self._cell(PROFILE, STOCK, ("kind", kind)), STEPS, Status.OK, readings=readings)
            )
        return results

    def _sample(self) -> None:
        passes: dict[int, list[float]] = {}
        series = Series([], [], pairs=[])
        shown = [
            *self.arms,
            Arm(STOCK, Way(), checked=self.arms[0].checked, agreement=self.arms[0].agreement),
        ]
        for number, arm in enumerate(shown):
            control = number == len(self.arms)
            result = Result(
                self._cell("end_to_end", arm.name), SERIES, Status.OK, arm.remark, control=control
            )
            series.results.append(result)
            series.steps.append(None)
            if arm.unsupported:
                series.fail(number, Status.UNSUPPORTED, arm.unsupported)
            elif self._comparable and arm.agreement and not arm.agreement.equal:
                series.fail(number, Status.WRONG_OUTPUT, _disagreement(arm.agreement))
            else:
                series.steps[number] = Step(partial(self._run, arm.way, passes, number))
        places = {(arm.name, n == len(self.arms)): n for n, arm in enumerate(shown)}
        pairs = [(places.get((one, False)), places.get((two, again))) for _, one, two, again in PAIRS]
        series.pairs = [(one, two) for one, two in pairs if one is not None and two is not None]
        sampling = Sampling(self.config, self.recorder)
        budget = sampling.budget(1, 1.0, min_rounds=stats.INTERVAL_SAMPLES)
        timer = PassTimer()

        def on_round() -> None:
            for number, request_us in timer.percentiles(passes).items():
                for name, value in request_us.items():
                    series.results[number].readings.setdefault(name, []).append(value)

        with sampling.rounds_bar("passes", budget) as shown_round:

            def both() -> None:
                on_round()
                shown_round()

            sampling.sample(series, timer, budget, self.config.seed, both)
        sampling.note_limits(0)

    def _run(self, way: Way, passes: dict[int, list[float]], number: int) -> float:
        done: Pass = self.engine.ask("run_pass", way)
        passes[number] = [1e6 * seconds for seconds in done.request_s]
        return 1e6 * done.seconds


def _disagreement(found: Agreement) -> str:
    """In what an arm's answers differ from stock's."""
    tokens = (
        "" if found.same_tokens is None else f"{found.same_tokens} of {found.prompts} tokens are stock's; "
    )
    return f"{tokens}the worst difference is {found.worst:.2g}, {found.allowed:g} allowed"


class PassTimer:
    """A pass's own time, from the first request to the last answer."""

    name = "passes of the whole work"

    def time_round(self, steps: Sequence[Step]) -> list[float]:
        """Microseconds of each pass, which its `run` returns."""
        return [float(step.run()) for step in steps]  # type: ignore[arg-type]

    def percentiles(self, passes: dict[int, list[float]]) -> dict[int, dict[str, float]]:
        """Of the requests' times in the latest pass of each arm, in us."""
        return {
            number: {f"p{p}_us": float(np.percentile(request_us, p)) for p in PERCENTILES}
            for number, request_us in passes.items()
        }
