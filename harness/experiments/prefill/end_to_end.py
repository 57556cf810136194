"""The prefill's latency: under every layout, and with attention steered inside the engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from harness import layout
from harness.analysis import stats
from harness.engine import inengine
from harness.engine.engine import Engine, Prefill
from harness.engine.inengine import InEngineArm, Outcome
from harness.experiments.prefill.replaying import Replaying
from harness.measure import profile, timers
from harness.measure.sampler import Series
from harness.running.recorder import Recorder
from harness.runs.record import Cell, Result, Status
from harness.runs.schema import PlantedDelay, ProfileRecord, SpreadRange

SERIES = "end_to_end"
SPIN_SHARE = 0.25  # of a layer's attention time: planted ahead of it by the arm "spin"
SPIN_US = 20.0  # where no attention was timed


class PrefillTimer:
    """The engine's own step time, which leaves out adding the request and what steers it."""

    name = "engine step"

    def time_round(self, steps: Sequence[timers.Step]) -> list[float]:
        """Microseconds of each step, whose `run` returns a Prefill."""
        return [1e6 * step.run().seconds for step in steps]  # type: ignore[attr-defined]


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
            problems: what was wrong with the prefill at a spread_k.
            share: of the time for sampling; what earlier series left over comes on top.
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
            except profile.ProfileError as error:  # not worth a run
                self.recorder.notice(f"no profile: {error}")
        if self.natural:
            least, most = min(self.natural), max(self.natural)
            median = int(np.median(self.natural))
            untouched = [layout.to_ranges(ids) for ids in self._next_block_ids()]
            with self.recorder.noting() as record:
                record.engine_spread_k = SpreadRange(min=least, median=median, max=most)
                record.block_ids = (record.block_ids or {}) | {"engine": untouched}

    def prefill(self, arm: InEngineArm) -> Prefill:
        """One prefill of the prompts as the arm has it."""
        if arm.block_ids is None:
            self.natural.append(self._natural_k())
        return self.engine.prefill(self.prompts, arm.block_ids, arm.course)

    def _arms(self) -> list[InEngineArm]:
        """All arms; only the sweep, with a notice, where the engine's backend cannot be steered."""
        if self.replaying.config.attribution:
            if self.engine.about.not_steered is None:
                return inengine.arms(self.engine, self.plans, self._natural_k(), self._spin_us())
            self.recorder.notice(f"no in-engine arms: {self.engine.about.not_steered}")
        sweep = [InEngineArm("paged", k, None, self.plans[k]) for k in self.plans]
        return [*sweep, InEngineArm("paged", 1, None, self.plans[1], control=True)]

    def _natural_k(self) -> int:
        """The runs that vLLM would allocate next: of the prompt that has most."""
        return max(map(layout.spread_k, self._next_block_ids()))

    def _next_block_ids(self) -> list[list[int]]:
        """The blocks that vLLM would give each prompt next."""
        return self.engine.next_block_ids([len(ids) for ids in self.plans[1]])

    def _spin_us(self) -> float | None:
        """A delay in proportion to a layer's attention, as it was replayed; None without a GPU."""
        if self.replaying.device != "cuda":
            return None
        kept = (r for r in self.recorder.kept if r.cell.arm == "dense" and r.cell.data == "captured")
        dense_us = [float(np.median(r.samples_us)) for r in kept if r.samples_us]
        return SPIN_SHARE * float(np.mean(dense_us)) if dense_us else SPIN_US

    def _cell(self, arm: InEngineArm) -> Cell:
        provider = f"vLLM {self.recorder.record.versions['vllm']}"
        block_size = self.replaying.config.block_size or 0
        return Cell(SERIES, "prefill", provider, arm.name, arm.spread_k, block_size, None, "captured")

    def _objections(self, arms: Sequence[InEngineArm], series: Series) -> dict[int, str]:
        """What is wrong with the arms' logits or first tokens, by index; how far off they are is noted.

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
        # Where a name occurs again (other layouts), its first counts.
        first = {arms[n].name: outcomes[n] for n in reversed(outcomes)}
        found: dict[int, str] = {}
        errors: dict[str, float] = {}
        for n, outcome in outcomes.items():
            arm = arms[n]
            if problem := inengine.objection(outcome, first["engine"], first[arm.same_kernel_as]):
                found[n] = problem
            else:
                series.results[n].warmup_us.append(1e6 * seconds[n])
            errors[arm.name] = max(errors.get(arm.name, 0.0), inengine.difference(outcome, first["engine"]))
        with self.recorder.noting() as record:
            record.logits_error = errors
        return found

    def _sample(self, series: Series, share: float) -> None:
        budgets = self.replaying.budgets
        left_over_s = sum(budget.seconds for budget in budgets)  # what the replay did not need
        # What a run is quoted by has an interval, whatever it takes.
        budget = self.replaying.budget(1, share, min_rounds=stats.INTERVAL_SAMPLES)
        budget.seconds += left_over_s
        with self.recorder.bar("end to end", None) as bar:
            # Every arm has run before; on a CPU a round takes half a minute.
            seed = self.replaying.config.seed
            self.replaying.sample(series, PrefillTimer(), budget, seed, bar.update)
        self.engine.ranks.check_alive()  # to the sampler a dead rank is an arm that failed

    def _profile(self, arms: Sequence[InEngineArm]) -> None:
        """One profiled prefill of each arm, outside all timings; the engine's own as trace.json."""
        profiles: list[ProfileRecord] = []
        spins_us: dict[str, tuple[float, ...]] = {}
        most = max(self.plans)
        self._profiled(arms[0], None)  # the profiler's first use takes longest
        for arm in arms:
            between = arm.name == "paged" and 1 < arm.spread_k < most
            if arm.control or arm.unsupported or arm.name == "wrapped" or between:
                continue
            trace = self.recorder.directory.trace_path if arm.name == "engine" else None
            found = self._profiled(arm, trace)
            if arm.name in ("spin", "spin_0"):
                spins_us[arm.name] = found.spins_us
            else:
                profiles.append(ProfileRecord(arm=arm.name, spread_k=arm.spread_k, **found.to_json()))
        with self.recorder.noting() as record:
            record.profile = profiles
            if spins_us:
                record.planted_ms = planted_ms(spins_us["spin_0"], spins_us["spin"])

    def _profiled(self, arm: InEngineArm, trace: Path | None) -> profile.Profile:
        """A profiled prefill, in the first rank; its time is that of the whole engine's step."""
        if self.replaying.device == "cuda":  # where it finds caches and clock as the timed ones did
            self.prefill(arm)
        with self.engine.ranks.during("profiling", trace) as found:
            done = self.prefill(arm)
        first: profile.Profile = found[0][0]
        return replace(first, profiled_ms=1e3 * done.seconds)


def planted_ms(without_us: Sequence[float], planted_us: Sequence[float]) -> PlantedDelay:
    """What a delay planted in each layer adds to a prefill, with an interval from 6 layers on.

    Args:
        without_us, planted_us: how long the spin kernel ahead of each layer's attention ran in the arms
            "spin_0" and "spin"; None comes of none.
    """
    differences = [planted - without for without, planted in zip(without_us, planted_us, strict=False)]
    if not differences:
        return PlantedDelay(ms=None, ci95_ms=None)
    n, found = len(differences), stats.median_interval(differences)
    return PlantedDelay(
        ms=n * found.median / 1000,
        ci95_ms=stats.map_interval(found.ci95, lambda bound: n * bound / 1000),
    )
