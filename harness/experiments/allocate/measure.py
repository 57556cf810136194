"""Into how many segments does a server's traffic split each request's blocks? Without a model."""

from __future__ import annotations

from pathlib import Path

import patches
from harness import interrupts
from harness.experiments import views
from harness.experiments.allocate.options import TRACE, AllocateConfig
from harness.running.recorder import Recorder, recording
from harness.runs.record import Cell, Result, Status
from harness.units import pluralise
from harness.workloads import Work
from harness.workloads.allocation import Allocated, Pool, Prompt, allocate, fits, make_prompts
from harness.workloads.layouts import Layouts, layouts_name, write_layouts


def run(config: AllocateConfig, source: None = None) -> None:
    """Run the experiment, leaving a run directory; raises as `recording` does."""
    recording(config, (config.prompts or TRACE).name, measure, views.write)


def measure(config: AllocateConfig, recorder: Recorder) -> None:
    """Serve the requests from each pool, one after the other."""
    work = config.work()
    skipped = f"; {pluralise(len(work.skipped), 'wrong line')} left out" if work.skipped else ""
    with recorder.update_record() as record:
        record.prompt = f"{pluralise(len(work.requests), 'request')} ({work.format}){skipped}"
    for block_size, num_blocks, order in config.pools():
        series = f"order={order} block_size={block_size} num_blocks={num_blocks}"
        if series not in recorder.finished:
            interrupts.check()
            recorder.say(f"{order}, {num_blocks} blocks of {block_size} tokens ...")
            pool = Pool(
                num_blocks, block_size, config.enable_prefix_caching, order,
                config.max_num_batched_tokens, config.max_num_seqs, config.tokens_per_s,
            )  # fmt: skip
            recorder.add([_serve(work, pool, series, recorder.directory.path)])


def _serve(work: Work, pool: Pool, series: str, folder: Path) -> Result:
    """All requests from one pool; their layouts become a file in `folder`."""
    prompts = make_prompts(work, pool.block_size, hashed=pool.enable_prefix_caching)
    cell = _cell(pool)
    if not any(fits(prompt, pool) for prompt in prompts):
        reason = f"no request fits {pool.num_blocks} blocks of {pool.block_size} tokens; raise --num-blocks"
        return Result(cell, series, Status.UNSUPPORTED, reason)
    ended = []
    for each in allocate(prompts, pool):
        interrupts.check()
        ended.append(each)
    source = f"{work.format}, {pool.order}, prefix caching {'on' if pool.enable_prefix_caching else 'off'}"
    layouts = Layouts(pool.block_size, pool.num_blocks, source, tuple(each.layout for each in ended))
    write_layouts(folder / layouts_name(pool.order, pool.block_size, pool.num_blocks), layouts)
    return Result(cell, series, Status.OK, readings=_readings(prompts, ended))


def _cell(pool: Pool) -> Cell:
    return Cell(
        stage="allocation",
        kernel="KVCacheManager",
        provider=patches.installed_vllm() or "vLLM",
        arm=pool.order,
        spread_k=0,
        block_size=pool.block_size,
        layer=None,
        data="synthetic",
        point=(("num_blocks", pool.num_blocks), ("caching", "on" if pool.enable_prefix_caching else "off")),
    )


def _readings(prompts: list[Prompt], ended: list[Allocated]) -> dict[str, list[float]]:
    """A value for each request that was served, in the order in which their prefills ended."""
    return {
        "end_s": [round(each.end_s, 6) for each in ended],
        "blocks": [float(len(each.layout.block_ids)) for each in ended],
        "segments": [float(each.layout.segments) for each in ended],
        "hit_blocks": [float(each.layout.hit_blocks) for each in ended],
        "running": [float(each.running) for each in ended],
        "left_out": [float(len(prompts) - len(ended))],
    }
