"""The main job's rows that its tables and charts show: means over layers, of the rank that decides."""

from __future__ import annotations

from dataclasses import dataclass

from harness.analysis.rows import ContrastRow, KernelRow, PrefillRow
from harness.experiments.prefill.rows import PrefillSummary
from harness.runs.summary import Index


@dataclass(frozen=True)
class Mean:
    """The summary's rows with layer "mean", and those end to end, by what identifies them.

    With several ranks, the slowest one's unless another is given.
    """

    summary: PrefillSummary
    rank: int | None = None

    @property
    def kernels(self) -> list[KernelRow]:
        """The rows of kernels."""
        return self.summary.index(self.summary.kernels).select(rank=self._rank, layer="mean")

    def at(self, spread_k: int, **more: object) -> list[KernelRow]:
        """Those at one spread_k, with these values."""
        return self._kernels.select(spread_k=spread_k, **more)

    @property
    def _kernels(self) -> Index[KernelRow]:
        return self.summary.index(self.kernels)

    @property
    def _contrasts(self) -> Index[ContrastRow]:
        return self.summary.index(self.summary.contrasts)

    @property
    def _rank(self) -> int | None:
        return self.summary.slowest_rank if self.rank is None else self.rank  # None with one rank

    def kernel(self, kernel: str, arm: str, spread_k: int, data: str = "captured") -> KernelRow | None:
        """A kernel's row."""
        return self._kernels.find(kernel=kernel, arm=arm, spread_k=spread_k, data=data)

    def cache_write(self, spread_k: int, arm: str) -> KernelRow | None:
        """The row of the kernel that writes the cache: `paged`, or `converted` and `unconverted`."""
        return self._kernels.find(stage="cache_write", arm=arm, spread_k=spread_k)

    def contrast(
        self, kernel: str, baseline: str, treatment: str, spread_k: int, data: str | None = "captured"
    ) -> ContrastRow | None:
        """A contrast's row."""
        whole = kernel == "prefill"
        return self._contrasts.find(
            kernel=kernel,
            baseline=baseline,
            treatment=treatment,
            spread_k=spread_k,
            data=data,
            layer=None if whole else "mean",
            rank=None if whole else self._rank,
        )

    def prefill_contrast(self, baseline: str, treatment: str) -> ContrastRow | None:
        """The contrast of two arms of the prefill that exist at only one spread_k each."""
        return self._contrasts.find(kernel="prefill", baseline=baseline, treatment=treatment)

    def sweep(self) -> list[PrefillRow]:
        """The prefill's rows over spread_k, without its other arms."""
        return self.summary.index(self.summary.end_to_end).select(arm="paged")

    def baseline_us(self, kernel: str, baseline: str, spread_k: int) -> float | None:
        """The median of an arm that is only a baseline within the series of spread_k ("paged@1")."""
        row = self._contrasts.find(
            kernel=kernel,
            baseline=baseline,
            spread_k=spread_k,
            layer="mean",
            data="captured",
            rank=self._rank,
        )
        return row.baseline_us if row else None

    def engine_kernels(self) -> list[str]:
        """The engine's own attention kernels: those with a dense or a paged arm."""
        arms = self._kernels.distinct("kernel", "stage", "arm")
        engines = (kernel for kernel, stage, arm in arms if stage == "kernel" and arm in ("dense", "paged"))
        return list(dict.fromkeys(engines))

    def spread_ks(self) -> list[int]:
        """All values of spread_k tried."""
        tried = self._kernels.distinct("spread_k") + self.summary.index(self.sweep()).distinct("spread_k")
        return sorted({k for (k,) in tried})
