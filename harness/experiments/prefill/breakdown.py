"""The account's other tables: where the time goes, inputs captured and random, when gathering pays."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.report.rows import Row, named_arm, with_reason
from harness.report.tables import NONE, Line, Notes, Section, Table, interval_of, percent

SYNTHETIC = ("", "{unit}", "change [95%]", "verdict")
SYNTHETIC_FULL = ("", "{unit} [95%]", "change {unit} [95%]", "change % [95%]", "verdict", "rounds")
BREAK_EVEN = ("", "gather {unit}", "saving {unit} [95%]", "uses [95%]", "one use from")
BREAK_EVEN_FULL = ("", "paged {unit}", "contiguous {unit}", *BREAK_EVEN[1:], "pays")


def decimals(account: Row) -> int:
    """Decimals of a time in ms: three for a step of up to 100 ms, fewer for longer ones."""
    times = [account["engine_ms"], *(row["unprofiled_ms"] for row in account["profiled"])]
    longest = max((time for time in times if time is not None), default=0)
    return next((digits for digits, limit in ((3, 1e2), (2, 1e3), (1, 1e4)) if longest < limit), 0)


def where_table(account: Row, full: bool) -> Table | None:
    """Every profiled arm's step by category, in ms."""
    profiled = account["profiled"]
    if not profiled:
        return None
    arms = [(row["arm"], row["spread_k"]) for row in profiled]
    digits, notes = decimals(account), Notes()
    parts = {(c["arm"], c["spread_k"], c["category"]): c for c in account["components"]}
    lines = []
    for category in dict.fromkeys(category for _, _, category in parts):
        found = [parts.get((*arm, category)) for arm in arms]
        if full or any(round((part and part["ms"]) or 0, digits) for part in found):
            lines.append(Line(category, tuple(_part(part, digits, full) for part in found)))
    ending = [
        Line("prefill", tuple(_time(row["unprofiled_ms"], digits) for row in profiled)),
        Line("the profiled one", tuple(_time(row["profiled_ms"], digits) for row in profiled)),
        Line("overhead", tuple(_overhead(row, account["components"], notes) for row in profiled)),
    ]
    legend = (
        "ms, of one profiled prefill an arm; prefill: the median without a profiler, as everywhere else; "
        f"{_remainder(account)}: what the categories leave of the shorter of these two."
    )
    columns = ("", *(named_arm(*arm) for arm in arms))
    sections = [Section("", lines), Section("", ending)]
    return Table("Where the time goes", columns, sections, below=[*notes.lines(), legend])


def _part(part: Row | None, digits: int, full: bool) -> str:
    if part is None or part["ms"] is None:
        return NONE
    return f"{part['ms']:.{digits}f}" + (f" ({part['pct']:.1f}%)" if full and part["pct"] is not None else "")


def _overhead(row: Row, parts: Sequence[Row], notes: Notes) -> str:
    """What the profiler added (from 1000% on times what, "x52"), marked where the categories take longer than
    the step did without it."""
    if row["overhead_pct"] is None:
        return NONE
    pct = row["overhead_pct"]
    shown = f"{pct:+.0f}%" if pct < 1000 else f"x{1 + pct / 100:.0f}"
    arm = row["arm"], row["spread_k"]
    together = sum(part["ms"] or 0 for part in parts if (part["arm"], part["spread_k"]) == arm)
    if together <= 1.001 * row["unprofiled_ms"]:
        return shown
    return f"{shown} {notes.mark('the categories add up to more than the prefill: profiling slows them')}"


def _remainder(account: Row) -> str:
    """What the step is when it is in no category."""
    names = {row["category"] for row in account["components"]}
    return "outside operators" if "outside operators" in names else "GPU idle"


@dataclass(frozen=True)
class _Unit:
    """How times of a call are written: as the longest of a table needs it."""

    name: str
    us: float
    digits: int

    @classmethod
    def of(cls, times_us: Iterable[float | None]) -> _Unit:
        longest = max((time for time in times_us if time is not None), default=0)
        if longest < 10_000:
            return cls("us", 1, 1 if longest < 1000 else 0)
        return cls("ms", 1000, 1 if longest < 1_000_000 else 0)

    def show(self, us: float | None, bounds: Sequence[float] | None = None, sign: bool = False) -> str:
        """A time, or with a sign a difference, and its interval; "-" for None. No decimals from 1000 on."""
        if us is None:
            return NONE
        scaled = [value / self.us for value in (us, *(bounds or ()))]
        digits = self.digits if max(map(abs, scaled)) < 1000 else 0
        return interval_of(scaled[0], scaled[1:], digits, sign)

    def name_in(self, columns: Sequence[str]) -> tuple[str, ...]:
        return tuple(column.format(unit=self.name) for column in columns)


def synthetic_table(account: Row, full: bool) -> Table | None:
    """From random inputs to the captured ones, a step at a time."""
    rows, notes = account["captured_vs_synthetic"], Notes()
    if not rows:
        return None
    unit = _Unit.of(row["us"] for row in rows)
    lines = [_step(row, unit, full, notes) for row in rows]
    below = [f"{unit.name} per attention call of the engine's kernel, dense; change: from the line above."]
    columns = unit.name_in(SYNTHETIC_FULL if full else SYNTHETIC)
    return Table("Captured against synthetic", columns, [Section("", lines)], below=[*notes.lines(), *below])


def _step(row: Row, unit: _Unit, full: bool, notes: Notes) -> Line:
    share = NONE if row["delta_pct"] is None else percent(row["delta_pct"], row["delta_ci95_pct"])
    verdict, name = row["verdict"] or NONE, with_reason(row["step"], row, notes)
    if not full:
        return Line(name, (unit.show(row["us"]), share, verdict))
    change = unit.show(row["delta_us"], row["delta_ci95_us"], sign=True)
    return Line(name, (unit.show(row["us"], row["ci95_us"]), change, share, verdict, str(row["n"])))


def break_even_table(account: Row, full: bool) -> Table | None:
    """When gathering the cache first is worth its cost, per kernel and page size."""
    rows, notes = account["break_even"], Notes()
    if not rows:
        return None
    unit = _Unit.of(row[key] for row in rows for key in ("gather_us", "paged_us"))
    lines: dict[str, list[Line]] = {}
    for row in rows:
        lines.setdefault(f"{row['kernel']} ({row['provider']})", []).append(_uses(row, unit, full, notes))
    legend = (
        f"{unit.name} per layer. saving: paged minus contiguous; uses: attention calls on one gathered copy "
        "that pay for it; one use from: tokens from which one call does, if the gather grows with the length "
        "and the saving with its square."
    )
    columns = unit.name_in(BREAK_EVEN_FULL if full else BREAK_EVEN)
    sections = [Section(heading, found) for heading, found in lines.items()]
    return Table("Break-even of gathering", columns, sections, below=[*notes.lines(), legend])


def _uses(row: Row, unit: _Unit, full: bool, notes: Notes) -> Line:
    length, undecided = row["length_for_one_use"], row["reuses"] is None
    uses = interval_of(row["reuses"], row["reuses_ci95"], _digits_of_uses(row["reuses"]), sign=False)
    times = unit.show(row["gather_us"]), unit.show(row["saving_us"], row["saving_ci95_us"], sign=True)
    tokens = NONE if length is None else str(max(length, 1))  # a gather that costs next to nothing
    label = with_reason(f"block size {row['block_size']}", row, notes)
    if not full:
        return Line(label, (*times, row["pays"] if undecided else uses, tokens))
    kernels = unit.show(row["paged_us"]), unit.show(row["contiguous_us"])
    return Line(label, (*kernels, *times, uses, tokens, row["pays"]))


def _digits_of_uses(uses: float | None) -> int:
    """One decimal, but of less than a tenth two digits that are not zero."""
    return 1 - math.floor(math.log10(uses)) if uses and uses < 0.1 else 1


def _time(value: float | None, digits: int) -> str:
    return NONE if value is None else f"{value:.{digits}f}"
