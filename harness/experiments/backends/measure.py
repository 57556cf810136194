"""Which attention backend is fastest at which batch sizes and lengths, prefilling or decoding?

Each of vLLM's backends runs in its own engine and process, one after the other, as an engine's KV cache takes
all free memory. The first backend runs twice, first and last. sdpa.math has no engine: it is PyTorch's
attention alone, on calls captured in an engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from harness import models
from harness.analysis import stats
from harness.experiments import views
from harness.experiments.backends.attention_alone import AttentionAlone, capture_calls, sdpa_series
from harness.experiments.backends.engine import BackendEngine, again
from harness.experiments.backends.options import SDPA, BackendsConfig, Size
from harness.measure.budget import Budget
from harness.models import ModelSource
from harness.running.recorder import Recorder, recording
from harness.running.sampling import Sampling
from harness.runs.schema import Model


def run(config: BackendsConfig, source: ModelSource) -> None:
    """Run the experiment, leaving a run directory; raises as `recording` does."""
    recording(config, source.name, partial(measure, source=source), views.write, source.notices)


def measure(config: BackendsConfig, recorder: Recorder, source: ModelSource) -> None:
    """Measure one series of all cells for each engine, and one per cell for sdpa.math."""
    source = models.materialise(source, config.seed)
    with recorder.update_record() as record:
        record.model = Model(
            name=record.model.name,
            weights=source.weights,
            num_layers=source.num_layers,
            num_heads=source.num_heads,
            num_kv_heads=source.num_kv_heads,
            head_dim=source.head_dim,
        )
    sampling = Sampling(config, recorder)
    cells, names, finished = config.cells(), config.engine_backends(), recorder.finished
    engines = [name for name in names if name not in finished]
    # With one backend there is no speed-up to compare with the noise floor.
    with_control = len(names) > 1 and not any(again(name) in finished for name in names)
    with_sdpa = SDPA in (config.attention_backends or [])
    alone = [size for size in cells if with_sdpa and sdpa_series(size) not in finished]
    parts = (len(engines) + with_control) * len(cells) + len(alone)
    budget = sampling.budget(parts, 1.0, min_rounds=stats.INTERVAL_SAMPLES)
    with recorder.bar("engines", len(engines) + with_control) as bar:
        for name in engines:
            BackendEngine(name, config, recorder, source, sampling, control=False).measure(budget)
            bar.update()
        measured = {result.series for result in recorder.results if result.samples_us}
        if with_control and (first := next((name for name in names if name in measured), None)):
            BackendEngine(first, config, recorder, source, sampling, control=True).measure(budget)
            bar.update()
    attention = AttentionAlone(config, recorder, source, sampling)
    try:
        if alone:
            _measure_alone(alone, attention, budget)
    finally:  # also if the run ends here
        sampling.note_limits(getattr(attention.timer, "launch_bound", 0))


def _measure_alone(sizes: Sequence[Size], attention: AttentionAlone, budget: Budget) -> None:
    """Measure a series for each cell of sdpa.math, freeing the memory of one before the next."""
    recorder = attention.recorder
    with TemporaryDirectory(prefix="attention-calls-") as folder:
        calls = capture_calls(attention.config, recorder, attention.source, sizes, Path(folder))
        with torch.inference_mode(), recorder.bar(SDPA, len(sizes)) as bar:
            for size in sizes:
                with recorder.peak_memory(sdpa_series(size)):
                    attention.measure(size, calls[size], budget)
                bar.update()
