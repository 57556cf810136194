"""The experiments, one folder each. Commands, reports and the Python API know them by the table below.

Nothing heavy is imported here: `job`, `view` and `charts` name modules, imported when they are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.config import Common
from harness.experiments.advise import options as advise_options
from harness.experiments.allocate import options as allocate_options
from harness.experiments.backends import options as backends_options
from harness.experiments.cache import options as cache_options
from harness.experiments.kernels import options as kernels_options
from harness.experiments.kvcache import options as kvcache_options
from harness.experiments.memory import options as memory_options
from harness.experiments.prefill import inputs as prefill_inputs
from harness.experiments.prefill import options as prefill_options
from harness.experiments.transfer import options as transfer_options
from harness.experiments.workload import options as workload_options

if TYPE_CHECKING:
    from harness.models import ModelSource
    from harness.runs.record import Result


@dataclass(frozen=True)
class Experiment:
    """A question and what answers it."""

    about: str  # one line for --help
    question: str  # what it answers: the head of its report.html
    config: type[Common]  # its options
    groups: Mapping[str, Sequence[str]]  # the options as --help shows them: title -> fields
    resolve: Callable[[Any, Any], Common]  # (config, "cuda" or "cpu") -> config; raises ConfigError
    job: str  # the module whose run(config, source) measures; source: find_model's result, or None
    view: str  # the module that makes a run's summary and document: see views.View
    charts: str  # the module that makes its charts: see views.Charts
    find_model: Callable[[Any], ModelSource | None] | None = None  # of a resolved config; raises ModelError
    adapt: Callable[[Any, Mapping[str, Any]], Common] | None = None  # ahead of resolve: (config, as typed)
    compared: Callable[[Result], bool] = lambda result: True  # which results `compare` compares
    timed: bool = True  # whether it has times to compare
    limits_starts: bool = False  # whether --max-seconds includes the engines' starts
    # What a resolved config will measure, a line each: --dry-run.
    plan: Callable[[Any], Sequence[str]] = lambda config: ()


# By the name of the subcommand, which is also `config.experiment`.
EXPERIMENTS: dict[str, Experiment] = {
    "prefill": Experiment(
        about="run the main job, as run_vllm_prefill.py does",
        question="How much of a prefill is due to the paged KV cache, and how much of that to its layout?",
        config=prefill_options.RunConfig,
        groups=prefill_options.GROUPS,
        resolve=prefill_options.resolve,
        job="harness.experiments.prefill.measure",
        view="harness.experiments.prefill.view",
        charts="harness.experiments.prefill.charts",
        plan=prefill_options.plan,
        find_model=prefill_inputs.find_model,
        adapt=prefill_inputs.adapt,
        compared=lambda result: result.cell.data == "captured",
    ),
    "kernels": Experiment(
        about="time flash-attn's three functions or other kernels on random Q, K and V, without an engine",
        question="How fast are attention kernels on contiguous K and V, and on spread_k segments?",
        config=kernels_options.KernelsConfig,
        groups=kernels_options.GROUPS,
        resolve=kernels_options.resolve,
        job="harness.experiments.kernels.measure",
        view="harness.experiments.kernels.view",
        charts="harness.experiments.kernels.charts",
        plan=kernels_options.plan,
    ),
    "cache": Experiment(
        about="prefills with and without a warm prefix cache that holds a share of the prompt",
        question="How much time does a warm prefix cache save a prefill when it holds a share of the prompt?",
        config=cache_options.CacheConfig,
        groups=cache_options.GROUPS,
        resolve=cache_options.resolve,
        job="harness.experiments.cache.measure",
        view="harness.experiments.cache.view",
        charts="harness.experiments.cache.charts",
        plan=cache_options.plan,
        find_model=cache_options.find_model,
    ),
    "memory": Experiment(
        about="memory at every stage of a job, in transformers and in vLLM",
        question="What occupies memory at each stage, and how much of the KV cache holds no token?",
        config=memory_options.MemoryConfig,
        groups=memory_options.GROUPS,
        resolve=memory_options.resolve,
        job="harness.experiments.memory.measure",
        view="harness.experiments.memory.view",
        charts="harness.experiments.memory.charts",
        plan=memory_options.plan,
        find_model=memory_options.find_model,
        timed=False,
    ),
    "backends": Experiment(
        about="attention backends over batch sizes and lengths, prefilling or decoding",
        question="Which of vLLM's attention backends is fastest at which batch size and length?",
        config=backends_options.BackendsConfig,
        groups=backends_options.GROUPS,
        resolve=backends_options.resolve,
        job="harness.experiments.backends.measure",
        view="harness.experiments.backends.view",
        charts="harness.experiments.backends.charts",
        plan=backends_options.plan,
        find_model=backends_options.find_model,
    ),
    "kvcache": Experiment(
        about="generation without a KV cache, with one, and with vLLM's paged one, token by token",
        question="How much time does a KV cache save a generation, token by token, and how much memory does "
        "it take?",
        config=kvcache_options.KVCacheConfig,
        groups=kvcache_options.GROUPS,
        resolve=kvcache_options.resolve,
        job="harness.experiments.kvcache.measure",
        view="harness.experiments.kvcache.view",
        charts="harness.experiments.kvcache.charts",
        plan=kvcache_options.plan,
        find_model=kvcache_options.find_model,
    ),
    "allocate": Experiment(
        about="the layouts that a trace makes in vLLM's KV cache, without a model",
        question="Into how many segments does a server's traffic split each request's blocks?",
        config=allocate_options.AllocateConfig,
        groups=allocate_options.GROUPS,
        resolve=allocate_options.resolve,
        job="harness.experiments.allocate.measure",
        view="harness.experiments.allocate.view",
        charts="harness.experiments.allocate.charts",
        plan=allocate_options.plan,
        timed=False,
    ),
    "transfer": Experiment(
        about="time every way of moving a request's KV cache to the host, back, or to the next GPU",
        question="How long does moving a request's KV cache take, by layout and by way of copying?",
        config=transfer_options.TransferConfig,
        groups=transfer_options.GROUPS,
        resolve=transfer_options.resolve,
        job="harness.experiments.transfer.measure",
        view="harness.experiments.transfer.view",
        charts="harness.experiments.transfer.charts",
        plan=transfer_options.plan,
        compared=lambda result: result.cell.stage == "transfer" and result.cell.arm != "placebo",
    ),
    "advise": Experiment(
        about="what to start vLLM with for your prompts: changes tried in real engines",
        question="Which of vLLM's options, and does the plugin, make this work faster, and by how much?",
        config=advise_options.AdviseConfig,
        groups=advise_options.GROUPS,
        resolve=advise_options.resolve,
        job="harness.experiments.advise.measure",
        view="harness.experiments.advise.view",
        charts="harness.experiments.advise.charts",
        plan=advise_options.plan,
        find_model=advise_options.find_model,
        limits_starts=True,
    ),
    "workload": Experiment(
        about="a whole work of many requests, in steps that vLLM's scheduler composes",
        question="What does the KV cache cost your own work, in steps as vLLM's scheduler composes them?",
        config=workload_options.WorkloadConfig,
        groups=workload_options.GROUPS,
        resolve=workload_options.resolve,
        job="harness.experiments.workload.measure",
        view="harness.experiments.workload.view",
        charts="harness.experiments.workload.charts",
        plan=workload_options.plan,
        find_model=workload_options.find_model,
        compared=lambda result: result.cell.stage == "end_to_end",
    ),
}
