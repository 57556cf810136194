"""The tables: one per spread_k, one over all of them; for the screen, as markdown and as CSV."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from harness import batch
from harness.analysis.rows import select
from harness.config.kernel_names import FUNCTIONS, WITHOUT_TABLE
from harness.experiments.prefill import breakdown_tables as attribution
from harness.experiments.prefill import end_to_end_tables as prefills
from harness.experiments.prefill import other_engines_tables as variants
from harness.experiments.prefill import rank_tables as ranks
from harness.experiments.prefill import request_tables as requests
from harness.report import tables as text
from harness.report.rows import (
    Mean,
    baseline_line,
    change,
    difference_line,
    folded,
    heading,
    marked,
    status_line,
    time_line,
    total_us,
    warning_lines,
)
from harness.report.tables import NONE, Line, Notes, Section, Table, listed, ms, signed
from harness.units import counted

Row = dict[str, Any]
COLUMNS = ("", "warm-up ms", "average ms", "median ms", "gather ms", "total ms")
SUMMARY_COLUMNS = ("spread_k", "captured ms", "vs spread=1", "verdict", "synth. ms", "vs synth.")
PREFILL_COLUMNS = ("spread_k", "median ms", "vs spread=1", "verdict")  # where no kernel was measured
CSV_COLUMNS = (
    *("stage", "kernel", "provider", "arm", "spread_k", "block_size", "layer", "layers", "data", "rank"),
    *("median_us", "ci95_low_us", "ci95_high_us", "mean_us", "warmup_us", "gather_us", "gather_gbps"),
    *("tflops", "gbps", "share_of_ceiling_pct", "clock_mhz", "n", "stopped", "status", "reason", "warnings"),
)
CSV_COUNTS = ("spread_k", "block_size", "layers", "rank", "n")
LABELS = {
    "paged": "Paged",
    "contiguous": "Contiguous",
    "fragmented": "Non-contiguous",
    "dense": "Dense",
    "compact": "Compact",
}


@dataclass(frozen=True)
class Tables:
    """The tables of a run, finished or not, from its record (run.json) and its summary (summary.json)."""

    record: Row
    summary: Row

    def comparison(self, spread_k: int) -> Table | None:
        """`Comparison Results (spread=K)`; None without any kernel's row."""
        notes = Notes()
        sections = self._sections(spread_k, notes)
        if not sections:
            return None
        above, below = [self._unit() + ", captured data"], [*notes.lines(), *self._warnings(spread_k)]
        return Table(f"Comparison Results (spread={spread_k})", COLUMNS, sections, above, below)

    def overview(self) -> Table | None:
        """The table over all spread_k; None if nothing was measured."""
        notes = Notes()
        sections = self._summary_sections(notes)
        below = [*notes.lines(), *self._reading()]
        columns, above = self._summary_columns(), self._summary_unit()
        return Table("Summary over all spread_k", columns, sections, above, below) if sections else None

    def screen_table(self, spread_k: int) -> str:
        """`Comparison Results (spread=K)` as plain text, 80 columns wide; "" without any kernel's row."""
        table = self.comparison(spread_k)
        return table.screen() if table else ""

    def screen_summary(self) -> str:
        """The table over all spread_k, the account, the notices, and last the answer; 80 columns wide."""
        notes = Notes()
        sections = self._summary_sections(notes)
        notices = text.wrapped([f"Note: {notice}" for notice in self.record["notices"]])
        above = text.wrapped(["Summary over all spread_k", *self._summary_unit()])
        table = text.screen(self._summary_columns(), sections) if sections else "nothing was measured"
        below = text.wrapped([*notes.lines(), *prefills.warning_lines(self._mean), *self._reading()])
        further = [table.screen() for table in (*self.further(), *attribution.tables(self.summary)[::-1])]
        answer = text.wrapped([attribution.sentence(self.summary)])
        return "\n\n".join(part for part in (above, table, below, *further, notices, answer) if part)

    def markdown(self) -> str:
        """The whole of tables.md."""
        parts = [f"# {self.title()}", *(f"> {notice}" for notice in self.record["notices"])]
        answer = attribution.sentence(self.summary)
        parts += [f"**{answer}**" if answer else "", listed(text.facts(self.record))]
        parts += [listed([*self._summary_unit(), *self._reading()])]
        parts += [table.markdown() for table in attribution.tables(self.summary, full=True)]
        for spread_k in self._mean.spread_ks():
            notes = Notes()
            if sections := self._sections(spread_k, notes):
                table = text.markdown(COLUMNS, sections, text_column=3)
                below = listed([*notes.lines(), *self._warnings(spread_k)])
                parts += [f"## Comparison Results (spread={spread_k})", table, below]
        notes = Notes()
        sections = self._summary_sections(notes)
        table = text.markdown(self._summary_columns(), sections, text_column=1) if sections else ""
        below = listed([*notes.lines(), *prefills.warning_lines(self._mean)])
        parts += ["## Summary over all spread_k", table or "nothing was measured", below]
        parts += [table.markdown() for table in self.further()]
        return "\n\n".join(part for part in parts if part) + "\n"

    def csv(self) -> str:
        """All rows of `kernels`, "mean" and "sum" too, and of `end_to_end`, in one tidy table; in us."""
        rows = [{**row} for row in self.summary["kernels"]]
        for row in self.summary["end_to_end"]:
            times = {"median_us": row["median_ms"], "ci95_us": row["ci95_ms"]}
            if row["median_ms"] is not None:
                times["median_us"] = row["median_ms"] * 1000
                times["ci95_us"] = row["ci95_ms"] and [bound * 1000 for bound in row["ci95_ms"]]
            kept = {key: value for key, value in row.items() if not key.endswith("_ms")}
            rows.append({"stage": "end_to_end", "kernel": "prefill", "data": "captured"} | kept | times)
        for row in rows:
            row["ci95_low_us"], row["ci95_high_us"] = row.pop("ci95_us") or (None, None)
            row["warnings"] = "; ".join(row["warnings"])
        frame = pd.DataFrame(rows, columns=list(CSV_COLUMNS)).round(4)
        csv: str = frame.astype(dict.fromkeys(CSV_COUNTS, "Int64")).to_csv(index=False)
        return csv

    def further(self) -> list[Table]:
        """The prefill's other arms, ranks, single requests, other engines."""
        found = (prefills.arms_table(self._mean), ranks.table(self.summary), *requests.tables(self.summary))
        return [*(table for table in found if table), *variants.tables(self.summary)]

    @property
    def _mean(self) -> Mean:
        return Mean(self.summary)

    def spread_ks(self) -> list[int]:
        """All spread_k that anything was tried at."""
        return self._mean.spread_ks()

    def title(self) -> str:
        """Which model, which prompts, on what."""
        prompts = batch.of_record(self.record)
        of_prompts = f", {batch.described(prompts)}" if prompts else ""
        return f"{self.record['model']['name']}{of_prompts}, on {self.record['device']['name']}"

    def _unit(self) -> str:
        rank = self.summary["slowest_rank"]
        return self._layers() + ("" if rank is None else f", the slowest rank: {rank}")

    def _layers(self) -> str:
        layers = self.record.get("layers")
        prompts = batch.of_record(self.record)
        call = "ms per attention call" + (f" of {batch.described(prompts)}" if len(prompts) > 1 else "")
        if not layers:
            return call
        if len(layers) == 1:
            return f"{call}, layer {layers[0]}"
        shown = ", ".join(map(str, layers)) if len(layers) <= 6 else f"{layers[0]} to {layers[-1]}"
        return f"{call}, mean over {len(layers)} layers ({shown})"

    def _summary_unit(self) -> list[str]:
        return [self._unit()] if self.summary["kernels"] else []

    def _summary_columns(self) -> tuple[str, ...]:
        return SUMMARY_COLUMNS if self.summary["kernels"] else PREFILL_COLUMNS

    def _reading(self) -> list[str]:
        tolerance = self.summary["tolerance_pct"]
        paired = (
            f"Differences are medians of paired differences with a 95% interval; same: the interval lies "
            f"within +-{tolerance:g}%. A/A is the paged one-run arm against itself: the noise floor."
        )
        if not self.summary["kernels"]:
            return [paired]
        return [
            paired,
            "with gather: the kernel's median plus its gather's; the sum has no pairs with spread=1.",
            "vs synth.: captured minus synthetic inputs, the kernel alone, on the layers measured with both.",
        ]

    def _sections(self, spread_k: int, notes: Notes) -> list[Section]:
        found = [self._function(kernel, spread_k, notes) for kernel in FUNCTIONS]
        found += [self._engine_kernel(kernel, spread_k, notes) for kernel in self._mean.engine_kernels()]
        return [section for section in found if section]

    def _function(self, kernel: str, spread_k: int, notes: Notes) -> Section | None:
        """Contiguous, Non-contiguous and Core Diff of one of the three functions."""
        rows = [self._mean.kernel(kernel, arm, spread_k) for arm in ("contiguous", "fragmented")]
        present = [row for row in rows if row]
        if not present:
            return None
        digits = self._digits(spread_k)
        lines = [time_line(LABELS[row["arm"]], row, notes, digits) for row in present]
        title = heading(kernel, present[0], notes)
        core = self._mean.contrast(kernel, "contiguous", "fragmented", spread_k)
        split = self._mean.contrast(kernel, "fragmented@1", "fragmented", spread_k)
        label = "Core Diff"
        if core and kernel not in WITHOUT_TABLE:
            instead = "; Fragmentation is" if split else ""
            label += f" {notes.mark(f'a block table selects other code: this is not the layout{instead}')}"
        lines += difference_line(label, core, digits) + difference_line("Fragmentation", split, digits)
        return Section(title, lines)

    def _engine_kernel(self, kernel: str, spread_k: int, notes: Notes) -> Section | None:
        """The engine's kernel: dense, paged in one run and in spread_k runs, and its contrasts."""
        mean, digits = self._mean, self._digits(spread_k)
        dense, paged = (mean.kernel(kernel, arm, spread_k) for arm in ("dense", "paged"))
        lines = [time_line("Dense", dense, notes, digits)] if dense else []
        one_run_us = mean.baseline_us(kernel, "paged@1", spread_k)
        if spread_k > 1 and one_run_us is not None:
            lines.append(baseline_line("Paged, 1 run", one_run_us, digits))
        if paged:
            runs = counted(spread_k, "run")
            lines.append(time_line(f"Paged, {runs}", paged, notes, digits))
        if compact := mean.kernel(kernel, "compact", spread_k):
            lines.append(time_line("Compact", compact, notes, digits))
        if write := mean.cache_write(spread_k):
            lines.append(time_line("Cache write", write, notes, digits))
        if spread_k == 1:
            lines += difference_line("Paging tax", mean.contrast(kernel, "dense", "paged@1", 1), digits)
        else:
            split = mean.contrast(kernel, "paged@1", "paged", spread_k)
            lines += difference_line("Fragmentation", split, digits)
        lines += difference_line("A/A", mean.contrast(kernel, "paged@1", "paged@1 again", spread_k), digits)
        first = dense or paged
        return Section(heading(kernel, first, notes) + ": the engine's kernel", lines) if first else None

    def _summary_sections(self, notes: Notes) -> list[Section]:
        arms = [(kernel, "fragmented") for kernel in FUNCTIONS]
        arms += [(kernel, "paged") for kernel in self._mean.engine_kernels()]
        sections = []
        for kernel, arm in arms:
            rows = [row for k in self._mean.spread_ks() if (row := self._mean.kernel(kernel, arm, k))]
            if rows:
                name = LABELS[arm].lower() + (", with gather" if kernel in WITHOUT_TABLE else "")
                title = f"{heading(kernel, rows[0], notes)}: {name}"
                sections.append(Section(title, folded([self._summary_line(row, notes) for row in rows])))
        sweep = prefills.sweep_section(self._mean, len(self._summary_columns()), notes)
        return [*sections, sweep] if sweep else sections

    def _summary_line(self, row: Row, notes: Notes) -> Line:
        """Captured, its difference to spread_k = 1, synthetic, and captured against synthetic."""
        kernel, arm, k = row["kernel"], row["arm"], row["spread_k"]
        synthetic = self._mean.kernel(kernel, arm, k, "synthetic")
        if row["median_us"] is None:
            return status_line(str(k), row, notes)
        paired = self._mean.contrast(kernel, f"{arm}@1", arm, k)
        against = self._mean.contrast(kernel, f"synthetic {arm}", f"captured {arm}", k, None)
        digits = self._digits(k)
        cells = (
            ms(total_us(row), digits),
            change(paired) if paired else NONE,
            paired["verdict"] if paired else NONE,
            ms(total_us(synthetic), digits) if synthetic else NONE,
            f"{signed(against['delta_pct'])}%" if against else NONE,
        )
        return Line(marked(str(k), row, notes), cells)

    def _warnings(self, spread_k: int) -> list[str]:
        rows = select(self._mean.kernels, spread_k=spread_k, layer="mean", data="captured")
        return warning_lines(rows, lambda row: f"{row['kernel']}, {LABELS.get(row['arm'], row['arm'])}")

    def _digits(self, spread_k: int) -> int:
        """Decimals of a time in ms: tenths of a microsecond where kernels are short."""
        rows = select(self._mean.kernels, spread_k=spread_k, layer="mean")
        return 4 if all((row["median_us"] or 0) < 10_000 for row in rows) else 3
