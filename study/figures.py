"""What a run has to say to the study: its figures by name, differences in percent of their baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.analysis import figures, stats
from harness.analysis.breakdown.rows import Breakdown
from harness.analysis.contrasts import name_in_series
from harness.analysis.rows import find
from harness.experiments.prefill.mean import Mean
from harness.experiments.prefill.rows import PrefillSummary
from harness.runs.record import Result, latest

Figures = Mapping[str, float]
PARTS = ("fragmentation", "paging", "cache_write", "total", "placebo")
OF_A_CALL = ("contiguous", "fragmented@1", "fragmented", "fragmented@1 again")


def of_prefill(breakdown: Breakdown) -> Figures:
    """What the paged KV cache costs, measured in percent and ms, predicted in ms; the engine's prefill."""
    found = {"engine ms": breakdown.engine_ms}
    for name in PARTS:
        row, sums = find(breakdown.measured, component=name), find(breakdown.predicted, component=name)
        found |= {name: row.pct, f"{name} ms": row.ms} if row else {}
        found |= {f"predicted {name} ms": sums.ms} if sums else {}
    return _known(found)


def of_graphs(summary: PrefillSummary) -> Mapping[str, Figures]:
    """By mode of CUDA graphs, of the engines of --cudagraph-modes."""
    modes = {str(row.value): row for row in summary.variants if row.option == "cudagraph_mode"}
    return {
        mode: _known(
            {"engine ms": row.engine_ms, "paging": row.paging.pct, "cache_write": row.cache_write.pct}
        )
        for mode, row in modes.items()
    }


def _known(found: Mapping[str, float | None]) -> Figures:
    return {name: value for name, value in found.items() if value is not None}


def of_captured(summary: PrefillSummary) -> Figures:
    """Of the engine's own kernel on captured calls, replayed; {} without any."""
    mean = Mean(summary)
    for kernel in mean.engine_kernels():
        most = max(mean.spread_ks())
        rows = {
            "paging": mean.contrast(kernel, "dense", "paged@1", 1),
            "fragmentation": mean.contrast(kernel, "paged@1", "paged", most),
            "placebo": mean.contrast(kernel, "paged@1", "placebo", most),
        }
        return {name: row.delta_pct for name, row in rows.items() if row}
    return {}


def of_calls(results: Sequence[Result]) -> Mapping[int, Figures]:
    """By version of FlashAttention in vLLM, of the series of a run of `kernels` with the most segments."""
    arms: dict[int, dict[str, Result]] = {}
    series = f"spread={max((result.cell.spread_k for result in results), default=1)}"
    for result in figures.pull_in(latest(results)):
        if result.series == series and result.samples_us and result.cell.kernel.startswith("vllm-fa"):
            arms.setdefault(int(result.cell.kernel[-1]), {})[name_in_series(result)] = result
    found: dict[int, dict[str, float]] = {}
    for version, named in sorted(arms.items()):
        if not named.keys() >= {*OF_A_CALL}:
            continue  # an arm that failed
        dense, one, most, again = (named[name] for name in OF_A_CALL)
        found[version] = {
            "paging": _pct(dense, one),
            "fragmentation": _pct(one, most),
            "A/A": _pct(one, again),
            **({"placebo": _pct(one, named["placebo"])} if "placebo" in named else {}),
            "call us": stats.median_interval(one.samples_us).median,
        }
        if version == 3 and 2 in found:
            found[version]["against FA2"] = _pct(arms[2]["fragmented@1"], one)
    return found


def _pct(one: Result, two: Result) -> float:
    pct: float = figures.of_pairs(one.samples_us, two.samples_us, sound=True)["delta_pct"]
    return pct
