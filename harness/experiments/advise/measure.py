"""What to start vLLM with for a given work? Each change is tried in a real engine, then the best together.

Stock's engine stays up. A candidate's runs beside it, and both answer the same prompts in turns. The first
candidate is stock again (A/A): by how much do two engines differ that are started alike?
"""

from __future__ import annotations

import time
from functools import partial

from harness.analysis.families import judge_together
from harness.engine.options import environment
from harness.experiments import views
from harness.experiments.advise import changes, deciding, inputs
from harness.experiments.advise.bench import Bench, Candidate
from harness.experiments.advise.changes import Change
from harness.experiments.advise.inputs import Given
from harness.experiments.advise.options import AdviseConfig
from harness.experiments.advise.summary import summarise
from harness.models import ModelSource
from harness.running.recorder import Recorder, recording
from harness.runs.record import Status
from harness.runs.schema import Model

ROUNDS, ARMS = 6, 2  # the least that an interval takes
MARGIN = 1.5  # warm-up and answers, over the least time of the samples
LEAST_S = 3.0  # of sampling


def run(config: AdviseConfig, source: ModelSource | None) -> None:
    """Run the experiment, leaving a run directory; raises as `recording` does."""
    given = inputs.read(config)  # a refusal leaves no run behind
    notices = (*(source.notices if source else ()), *given.notices)
    with environment(
        {changes.ALLOW_LONG: "1"} if config.allow_long_max_model_len else {}
    ):  # engines inherit it
        recording(config, config.model, partial(measure, given=given), views.write, notices)


def measure(config: AdviseConfig, recorder: Recorder, given: Given) -> None:
    """Measure stock again, every candidate, and the helpful ones together, as far as the time goes."""
    with recorder.update_record() as record:
        record.prompt = given.origin
        record.model = Model(name=config.model, weights=given.weights)
    bench = Bench(config, recorder, given)
    try:
        Trials(config, recorder, bench).run()
    finally:
        bench.close()


class Trials:
    """All candidates, within the time."""

    def __init__(self, config: AdviseConfig, recorder: Recorder, bench: Bench) -> None:
        self.config, self.recorder, self.bench = config, recorder, bench
        assert config.max_seconds is not None
        self.until = time.perf_counter() + config.max_seconds

    def run(self) -> None:
        """Finish what an earlier part of the run left undone."""
        self._measure(Candidate(), len(self.config.changes) + 1)
        base = self.bench.base()
        single = [Candidate((change,)) for change in changes.spell_out(self.config.changes, base)]
        for candidate in single:
            if reason := changes.why_not(candidate.changes[0], base):
                self._lose(candidate, Status.UNSUPPORTED, reason)
        todo = [candidate for candidate in single if not self.bench.finished(candidate)]
        with self.recorder.bar("engines", len(todo) + 1) as bar:
            for n, candidate in enumerate(todo, start=1):
                self._try(candidate, len(todo) - n + (len(single) > 1))
                bar.update()
            if together := self._together(single):
                self._try(together, 0)
            bar.update()
        self.bench.sampling.note_limits(0)

    def _try(self, candidate: Candidate, others: int) -> None:
        """Measure a candidate if it and, where changes have helped so far, the best together fit the time."""
        left = self.until - time.perf_counter()
        engines = 2 if others and self._helpful() else 1
        if left < engines * (self.bench.start_s + self._least_s()):
            spent = f"--max-seconds {self.config.max_seconds:g} are too few; --resume with more tries it"
            self._lose(candidate, Status.INTERRUPTED, f"not tried: {spent}")
        else:
            self._measure(candidate, others)

    def _measure(self, candidate: Candidate, others: int) -> None:
        """Measure a candidate unless that is done, in its share of the time.

        Args:
            others: how many may come after it.
        """

        def seconds() -> float:
            left = self.until - time.perf_counter() - others * self.bench.start_s
            return max(left / (others + 1), self._least_s())

        if not self.bench.finished(candidate):
            self.bench.measure(candidate, seconds)

    def _lose(self, candidate: Candidate, status: Status, reason: str) -> None:
        if not self.bench.finished(candidate):
            self.bench.note(candidate)
            self.bench.lose(candidate, status, reason)

    def _least_s(self) -> float:
        """Seconds of sampling, below which a candidate has no interval."""
        return max(LEAST_S, ROUNDS * ARMS * MARGIN * self.bench.file_s)

    def _helpful(self) -> list[str]:
        """Names of the candidates so far that beat stock, best first."""
        summary = summarise(self.recorder.record, self.recorder.results)
        judge_together(summary)
        deciding.widen(summary.contrasts)
        return [row.candidate for row in deciding.helpful(summary.contrasts, self.config.goal)]

    def _together(self, single: list[Candidate]) -> Candidate | None:
        """The helpful changes that go together; None if there are not several."""
        by_name: dict[str, Change] = {each.name: each.changes[0] for each in single}
        chosen = changes.combine(by_name[name] for name in self._helpful() if name in by_name)
        return Candidate(tuple(chosen)) if len(chosen) > 1 else None
