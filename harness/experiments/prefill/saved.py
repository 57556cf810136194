"""Replay without an engine: attention calls from files, each in a cache made for it."""

from __future__ import annotations

from pathlib import Path

import torch

from harness.calls import capture
from harness.experiments import views
from harness.experiments.prefill.options import RunConfig
from harness.experiments.prefill.replaying import SAMPLED_LAYERS, Replaying
from harness.replay.bench import Bench, ReplaySpec
from harness.running.recorder import Recorder, recording
from harness.runs.schema import Model
from harness.units import pick_evenly


def run(config: RunConfig) -> None:
    """Replay the captures of `config.from_captures`; raises as `recording` does."""
    recording(config, f"captures in {config.from_captures}", replay, views.write)


def replay(config: RunConfig, recorder: Recorder) -> None:
    """Load, replay and store; `config` has the captures' lengths and block size."""
    assert config.from_captures is not None
    replaying, bench = Replaying(config, recorder), Bench(ReplaySpec.of(config))
    replaying.record_equipment(bench.equipment(replaying.lacks_ceilings))
    calls = _load(config.from_captures, config.layers, replaying.device)
    replaying.describe(calls, Model(name=recorder.record.model.name, weights="captured"))
    recorder.notice(
        f"replayed from {config.from_captures} without an engine: caches are rebuilt and nothing is timed "
        "end to end"
    )
    todo = replaying.todo(calls)
    budget = replaying.budget_for(todo, 1.0)
    with torch.inference_mode(), recorder.bar("replay", sum(map(len, todo.values()))) as bar:
        for k, pending in replaying.in_passes(todo):
            with recorder.peak_memory(f"spread={k}"):
                for call, first_of_shape in pending:
                    place = bench.replay.own_cache(call, k, config.segments(k))
                    for index in replaying.alone(k, call.layer, first_of_shape):
                        replaying.take([bench.measure_request(place, index, budget, None)], budget)
                    with_synthetic = first_of_shape and config.synthetic
                    replaying.take([bench.measure(place, with_synthetic, budget, None)], budget)
                    bar.update()
    replaying.note_limits(bench.launch_bound)


def _load(folder: Path, layers: object, device: str) -> list[capture.AttentionCall]:
    calls = [capture.load(path, device) for path in sorted(folder.glob("*.safetensors"))]
    if layers == "sample":
        return [calls[n] for n in pick_evenly(len(calls), SAMPLED_LAYERS)]
    return [call for call in calls if not isinstance(layers, list) or call.layer in layers]
