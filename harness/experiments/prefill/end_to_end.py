"""The prefill's latency: with every layout, and with attention overridden inside the engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from harness import interrupts, layout
from harness.analysis import stats
from harness.engine import inengine
from harness.engine.engine import Engine, Prefill
from harness.engine.inengine import InEngineArm, Outcome
from harness.experiments.prefill.replaying import Replaying
from harness.measure import profile, timers
from harness.measure.budget import Budget
from harness.measure.clocks import ClockMonitor
from harness.measure.sampler import Series
from harness.running.recorder import Recorder
from harness.runs.record import Cell, Result, Status
from harness.runs.schema import InjectedDelay, ProfileRecord, SpreadRange

SERIES = "end_to_end"
SPIN_SHARE = 0.08  # of the prefill: the delay that the arm "spin" injects, shared among the layers
SPIN_TRIES = 3  # prefills, the shortest of which it is a share of


class PrefillTimer:
    """The engine's own step time, without adding the request and steering it."""

    name = "engine step"

    def __init__(self, monitor: ClockMonitor) -> None:
        self.monitor = monitor
        self.clocks_mhz: list[int] = []  # after each step of the latest round; empty where not known

    def time_round(self, steps: Sequence[timers.Step]) -> list[float]:
        """Microseconds of each step, whose `run` returns a Prefill."""
        times, self.clocks_mhz = [], []
        for step in steps:
            interrupts.check()
            times.append(1e6 * step.run().seconds)  # type: ignore[attr-defined]
            if (mhz := self.monitor.sm_mhz()) is not None:
                self.clocks_mhz.append(mhz)
        return times


@dataclass
class EndToEnd:
    """Times and profiles whole prefills of the same prompts in one engine."""

    engine: Engine
    prompts: Sequence[Sequence[int]]
    plans: Mapping[int, Sequence[Sequence[int]]]  # each prompt's block ids by spread_k
    replaying: Replaying
    recorder: Recorder
    natural: list[int] = field(default_factory=list)  # spread_k of what vLLM allocated, prefill by prefill

    def measure(self, problems: Mapping[int, str], share: float) -> None:
        """Check, sample and profile all arms.

        Args:
            problems: what was wrong with the prefill, by spread_k.
            share: of the sampling time; time left over by earlier series is added.
        """
        arms = self._arms()
        series = Series([], [])
        for arm in arms:
            series.results.append(Result(self._cell(arm), SERIES, Status.OK, arm.remark, control=arm.control))
            series.steps.append(timers.Step(lambda arm=arm: self.prefill(arm)))  # type: ignore[misc]
        with_interventions = arms[0].name == "engine"
        objections = self._objections(arms, series) if with_interventions else {}
        for n, arm in enumerate(arms):
            if arm.unsupported:
                series.fail(n, Status.UNSUPPORTED, arm.unsupported)
                continue
            at_k = problems.get(arm.spread_k) if arm.name == "paged" else None
            if problem := at_k or objections.get(n):
                series.fail(n, Status.WRONG_OUTPUT, problem)
                self.recorder.notice(f"{arm.name} at spread_k = {arm.spread_k}: {problem}")
        self._sample(series, share)
        if with_interventions:
            try:
                self._profile(arms)
            except profile.ProfileError as error:  # not worth failing the run
                self.recorder.notice(f"no profile: {error}")
        if self.natural:
            least, most = min(self.natural), max(self.natural)
            median = int(np.median(self.natural))
            untouched = [layout.to_ranges(ids) for ids in self._next_block_ids()]
            with self.recorder.update_record() as record:
                record.engine_spread_k = SpreadRange(min=least, median=median, max=most)
                record.block_ids = (record.block_ids or {}) | {"engine": untouched}

    def prefill(self, arm: InEngineArm) -> Prefill:
        """Prefill the prompts once in the arm."""
        if arm.block_ids is None:
            self.natural.append(self._natural_k())
        return self.engine.prefill(self.prompts, arm.block_ids, arm.override)

    def _arms(self) -> list[InEngineArm]:
        """All arms; with a notice, only the sweep where the engine's backend cannot be steered."""
        if self.replaying.config.attribution:
            if self.engine.about.not_steered is None:
                how = (self._natural_k(), self._spin_us(), max(map(len, self.prompts)))
                return inengine.arms(self.engine, self.plans, *how, with_placebo=True)
            self.recorder.notice(f"no in-engine arms: {self.engine.about.not_steered}")
        sweep = [InEngineArm("paged", k, None, self.plans[k]) for k in self.plans]
        return [*sweep, InEngineArm("paged", 1, None, self.plans[1], control=True)]

    def _natural_k(self) -> int:
        """How many segments vLLM would allocate next, for the prompt with the most."""
        return max(map(layout.spread_k, self._next_block_ids()))

    def _next_block_ids(self) -> list[list[int]]:
        """The blocks that vLLM would give each prompt next."""
        return self.engine.next_block_ids([len(prompt) for prompt in self.prompts])

    def _spin_us(self) -> float | None:
        """A layer's part of a delay that is enough to tell where it goes; None without a GPU."""
        if self.replaying.device != "cuda":
            return None
        tries = [self.engine.prefill(self.prompts, self.plans[1]).seconds for _ in range(SPIN_TRIES)]
        return SPIN_SHARE * 1e6 * min(tries) / len(self.engine.about.layers)

    def _cell(self, arm: InEngineArm) -> Cell:
        provider = f"vLLM {self.recorder.record.versions['vllm']}"
        block_size = self.replaying.config.block_size or 0
        return Cell(SERIES, "prefill", provider, arm.name, arm.spread_k, block_size, None, "captured")

    def _objections(self, arms: Sequence[InEngineArm], series: Series) -> dict[int, str]:
        """What is wrong with the arms' logits or first tokens, by index; records how far off they are.

        These prefills are the series' first round of warm-up.
        """
        outcomes: dict[int, Outcome] = {}
        seconds: dict[int, float] = {}
        for n, arm in enumerate(arms):
            if arm.unsupported:
                continue
            with self.engine.ranks.during("observing_logits") as seen:
                done = self.prefill(arm)
            outcomes[n] = Outcome(seen[0][-1], done.first_tokens)
            seconds[n] = done.seconds
        # If a name occurs again (other layouts), its first entry counts.
        first = {arms[n].name: outcomes[n] for n in reversed(outcomes)}
        objections: dict[int, str] = {}
        errors: dict[str, float] = {}
        for n, outcome in outcomes.items():
            arm = arms[n]
            if problem := inengine.objection(outcome, first["engine"], first[arm.same_kernel_as]):
                objections[n] = problem
            else:
                series.results[n].warmup_us.append(1e6 * seconds[n])
            errors[arm.name] = max(errors.get(arm.name, 0.0), inengine.difference(outcome, first["engine"]))
        with self.recorder.update_record() as record:
            record.logits_error = errors
        return objections

    def _sample(self, series: Series, share: float) -> None:
        budgets = self.replaying.budgets
        left_over_s = sum(budget.seconds for budget in budgets)  # time left over by the replay
        # The headline figure gets an interval, however long it takes.
        budget = self.replaying.budget(1, share, min_rounds=stats.INTERVAL_SAMPLES)
        budget.seconds += left_over_s
        self._announce(series, budget)
        with self.replaying.rounds_bar("end to end", budget) as on_round:
            # Every arm has already run; on a CPU a round takes half a minute.
            seed = self.replaying.config.seed
            self.replaying.sample(series, PrefillTimer(self.replaying.monitor), budget, seed, on_round)
        self.engine.ranks.check_alive()  # the sampler treats a dead rank as a failed arm

    def _announce(self, series: Series, budget: Budget) -> None:
        """Say so if the rounds that an interval takes do not fit the time."""
        round_s = sum(sum(result.warmup_us) for result in series.results) / 1e6
        if self.replaying.config.repeats is None and budget.min_rounds * round_s > budget.seconds:
            self.recorder.say(
                f"whole prefills take about {budget.min_rounds * round_s:.0f} s, the {budget.min_rounds} "
                f"rounds of an interval, though {budget.seconds:.0f} s of --max-seconds are left"
            )

    def _profile(self, arms: Sequence[InEngineArm]) -> None:
        """Profile one prefill of each arm, outside all timings; the engine's own goes to trace.json."""
        profiles: list[ProfileRecord] = []
        spins_us: dict[str, tuple[float, ...]] = {}
        most = max(self.plans)
        self._profile_arm(arms[0], None)  # the profiler's first use is the slowest
        for arm in arms:
            between = arm.name == "paged" and 1 < arm.spread_k < most
            if arm.control or arm.unsupported or arm.name in ("wrapped", "placebo") or between:
                continue
            trace = self.recorder.directory.trace_path if arm.name == "engine" else None
            profiled = self._profile_arm(arm, trace)
            if arm.name in ("spin", "spin_0"):
                spins_us[arm.name] = profiled.spins_us
            else:
                profiles.append(ProfileRecord(arm=arm.name, spread_k=arm.spread_k, **profiled.to_json()))
        with self.recorder.update_record() as record:
            record.profile = profiles
            if spins_us:
                record.injected_ms = injected_ms(spins_us["spin_0"], spins_us["spin"])

    def _profile_arm(self, arm: InEngineArm, trace: Path | None) -> profile.Profile:
        """Profile a prefill in the first rank; the time is that of the whole engine step."""
        if self.replaying.device == "cuda":  # so that caches and clock are as in the timed prefills
            self.prefill(arm)
        with self.engine.ranks.during("profiling", trace) as profiles_by_rank:
            done = self.prefill(arm)
        first: profile.Profile = profiles_by_rank[0][0]
        return replace(first, profiled_ms=1e3 * done.seconds)


def injected_ms(without_us: Sequence[float], injected_us: Sequence[float]) -> InjectedDelay:
    """The total delay that injection in each layer adds to a prefill, with an interval from 6 layers on.

    Args:
        without_us, injected_us: durations of the spin kernel before each layer's attention in the arms
            "spin_0" and "spin"; None if there are none.
    """
    differences = [injected - without for without, injected in zip(without_us, injected_us, strict=False)]
    if not differences:
        return InjectedDelay(ms=None, ci95_ms=None)
    n, per_layer = len(differences), stats.median_interval(differences)
    return InjectedDelay(
        ms=n * per_layer.median / 1000,
        ci95_ms=stats.map_interval(per_layer.ci95, lambda bound: n * bound / 1000),
    )
