"""Shared by the experiments that replay attention calls: time, the work left to do, what is stored."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial

from harness import batch
from harness.analysis import stats
from harness.calls.capture import AttentionCall
from harness.experiments.prefill.options import RunConfig
from harness.measure.budget import Budget
from harness.replay.bench import Equipment, Sampled
from harness.running.sampling import Sampling
from harness.runs.record import request_series_name, series_name
from harness.runs.schema import Ceilings, Model, RequestRecord
from harness.units import pick_evenly

# By spread_k: calls to replay, and whether each is also run on random Q, K and V.
Todo = dict[int, list[tuple[AttentionCall, bool]]]

SAMPLED_LAYERS = 3
PASSES = 3  # over spread_k, each with a prefill at every one
MOST_ALONE = 8  # requests of a batch, differing in length or number of segments


class Replaying(Sampling):
    """Divides the configured time among series of attention calls and stores their results."""

    config: RunConfig

    def record_equipment(self, equipment: Equipment) -> None:
        """Record the equipment used for measuring."""
        with self.recorder.update_record() as record:
            record.timer = equipment.timer
        if isinstance(equipment.ceilings, str):
            self.recorder.notice(f"the device's ceilings could not be measured: {equipment.ceilings}")
        if equipment.ceilings is not None:
            figures = None if isinstance(equipment.ceilings, str) else Ceilings(**equipment.ceilings)
            with self.recorder.update_record() as record:
                record.ceilings = figures

    @property
    def lacks_ceilings(self) -> bool:
        """Whether the ceilings have not been measured yet."""
        return "ceilings" not in self.recorder.record.model_fields_set

    def describe(self, calls: Sequence[AttentionCall], model: Model) -> None:
        """Record the calls' shapes, and the model with the calls' heads if there are any."""
        windows = {str(c.layer): c.sliding_window for c in calls if c.sliding_window != (-1, -1)}
        with self.recorder.update_record() as record:
            record.spread_k, record.num_blocks = self.config.spreads(), self.config.num_blocks()
            record.requests = self._requests()
            record.layers, record.layer_windows = [call.layer for call in calls], windows
            record.model = model
            if calls:
                call = calls[0]
                record.causal = call.causal
                model.num_heads, model.num_kv_heads = call.num_heads, call.num_kv_heads
                model.head_dim, model.dtype = call.head_dim, str(call.query.dtype).removeprefix("torch.")

    def _requests(self) -> list[RequestRecord]:
        """Every request's length, blocks and, by spread_k, the segments that its blocks are split into."""
        assert self.config.block_size is not None
        blocks = batch.blocks(self.config.requests, self.config.block_size)
        segments = {k: self.config.segments(k) for k in self.config.spreads()}
        return [
            RequestRecord(
                length=request.length, blocks=n, segments={str(k): of_k[i] for k, of_k in segments.items()}
            )
            for i, (request, n) in enumerate(zip(self.config.requests, blocks, strict=True))
        ]

    def todo(self, calls: Sequence[AttentionCall]) -> Todo:
        """The calls to replay that are not finished, and whether each is the first call of its shape."""
        first = {call.shape_key(): call.layer for call in reversed(calls)}
        return {
            k: [
                (call, first[call.shape_key()] == call.layer)
                for call in calls
                if not self._is_finished(k, call.layer)
            ]
            for k in self.config.spreads()
        }

    def in_passes(self, todo: Todo) -> list[tuple[int, list[tuple[AttentionCall, bool]]]]:
        """The same in passes over spread_k, each with some of the layers and in a random order of its own.

        So a mean over layers is of times from the whole run at every spread_k, and what changes with the
        hour does not look like an effect of spread_k. The first pass has every spread_k, with work or not.
        """
        layers = list(dict.fromkeys(call.layer for calls in todo.values() for call, _ in calls))
        passes, order = min(PASSES, len(layers)) or 1, random.Random(self.config.seed)
        work = []
        for n in range(passes):
            of_pass = set(layers[n::passes])
            for k in order.sample([*todo], len(todo)):
                pending = [(call, first) for call, first in todo[k] if call.layer in of_pass]
                if pending or n == 0:
                    work.append((k, pending))
        return work

    def _is_finished(self, spread_k: int, layer: int) -> bool:
        return self._of_all_ranks(partial(series_name, spread_k, layer))

    def _of_all_ranks(self, name: Callable[[int | None], str]) -> bool:
        """Whether that series is finished in every rank."""
        count = self.config.tensor_parallel_size
        ranks = range(count) if count > 1 else [None]
        return all(name(rank) in self.recorder.finished for rank in ranks)

    def budget_for(self, todo: Todo, share: float) -> Budget:
        """A budget with that share of the time for the calls; those with random inputs have twice the arms.

        A single layer, all that is left if more do not fit the time, gets intervals however long they take.
        """
        series = sum(1 + (first and self.config.synthetic) for calls in todo.values() for _, first in calls)
        alone = sum(
            len(self.alone(k, call.layer, first)) for k, calls in todo.items() for call, first in calls
        )
        layers = {call.layer for calls in todo.values() for call, _ in calls}
        if len(layers) == 1:
            return self.budget(series + alone, share, stats.INTERVAL_SAMPLES)
        return self.budget(series + alone, share, bounded=True)

    def take(self, sampled: Sequence[Sampled], budget: Budget) -> None:
        """Store a series sampled in every rank, and deduct it from the budget.

        Raises:
            KeyboardInterrupt: the user interrupted it.
        """
        for each in sampled:
            self.recorder.keep(each.series)
        budget.settle([each.budget for each in sampled])
        if any(each.interrupted for each in sampled):
            raise KeyboardInterrupt

    def alone(self, spread_k: int, layer: int, first_of_shape: bool) -> list[int]:
        """The requests of a batch that are still to be measured alone.

        They are of the first layer of every shape, at the largest spread_k, one for each length and number of
        segments.
        """
        return [
            index
            for index in self._kinds(spread_k, first_of_shape)
            if not self._of_all_ranks(partial(request_series_name, spread_k, layer, index))
        ]

    def _kinds(self, spread_k: int, first_of_shape: bool) -> list[int]:
        """The first request of each length and number of segments, sampled if there are many."""
        if not first_of_shape or len(self.config.requests) == 1 or spread_k != max(self.config.spreads()):
            return []
        lengths = [request.length for request in self.config.requests]
        of_requests = list(zip(lengths, self.config.segments(spread_k), strict=True))
        kinds = sorted(set(of_requests))
        return [of_requests.index(kinds[n]) for n in pick_evenly(len(kinds), MOST_ALONE)]
