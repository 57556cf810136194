"""Why a verdict: its reason code, the numbers that it rests on, and what would decide one that is unclear."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.analysis import stats, verdicts
from harness.analysis.breakdown.rows import MeasuredRow
from harness.analysis.families import rows_with
from harness.analysis.rows import ContrastRow
from harness.analysis.verdicts import noise_factor_needed_pct, noise_floor_needed_pct
from harness.report.tables import Table, interval
from harness.runs.stored import Stored
from harness.runs.summary import Reason
from harness.units import pluralise

TITLE = "Why these verdicts"
NOTHING = "No verdicts, so there is nothing to explain."
ONE_PROCESS = "Rounds are of one process, and no interval holds what differs between processes."
NAMES = ("kernel", "metric", "contrast", "component", "step", "variant", "request")  # of a row
PAIRS = (("treatment", "baseline"), ("winner", "second"))
AXES = ("layer", "data", "spread_k", "rank", "batch_size", "input_len", "share_pct")
USUAL = {"layer": "mean", "data": "captured", "spread_k": 0}  # what goes without saying; 0: the engine's own
MOST_TIMES = 100  # as many rounds; beyond that, more rounds are no advice


@dataclass(frozen=True)
class Evidence:
    """A verdict and what it rests on; None: not known, or not part of it."""

    name: str
    verdict: str
    code: Reason | None  # None: an earlier version gave the verdict
    ci95_pct: stats.Interval | None
    tolerance_pct: float
    n: int | None = None  # rounds
    noise_floor_pct: float | None = None
    p_value: float | None = None
    holm_level: float | None = None
    clock_mhz: float | None = None
    of_quotient: bool = False  # a noise floor widens the interval by a factor
    zero_decides: bool = True  # see verdicts.times_the_rounds

    def line(self) -> str:
        """All of it in a line, but for the tolerance, which others share."""
        facts = [
            f"95% {interval(self.ci95_pct)}" if self.ci95_pct else "no interval",
            f"noise floor {self.noise_floor_pct:.2f}%" if self.noise_floor_pct is not None else "",
            pluralise(self.n, "round") if self.n is not None else "",
            self._p_value() if self.p_value is not None else "",
            f"{self.clock_mhz:.0f} MHz" if self.clock_mhz else "",
        ]
        code = self.code or "no reason recorded"
        text = f"{self.name}: {self.verdict} ({code}): {', '.join(filter(None, facts))}"
        decides = self.decides()
        return f"{text}; would be decided by {decides}" if decides else text

    def _p_value(self) -> str:
        level = f" (Holm: up to {self.holm_level:.2g})" if self.holm_level is not None else ""
        return f"p = {self.p_value:.2g}{level}"

    def decides(self) -> str | None:
        """What would decide it; None if it is decided, or nobody can say."""
        match self.code, self.ci95_pct:
            case Reason.INTERVAL_TOO_WIDE, (_, _) as bounds:
                return self._more_rounds(
                    verdicts.times_the_rounds(
                        bounds, self.tolerance_pct, self._to_claim(), zero_decides=self.zero_decides
                    )
                )
            case Reason.NOT_CLAIMABLE, _:
                return self._more_rounds(self._to_claim())
            case Reason.WITHIN_NOISE, (_, _) as bounds:
                needed_pct = noise_factor_needed_pct if self.of_quotient else noise_floor_needed_pct
                return f"a noise floor below {needed_pct(bounds, self.tolerance_pct):.2f}%"
            case Reason.NO_INTERVAL, _ if (self.n or 0) < stats.INTERVAL_SAMPLES:
                return f"at least {stats.INTERVAL_SAMPLES} rounds"
            case Reason.ARM_NOT_OK, _:
                return "a run in which both arms are ok"
            case Reason.NO_NOISE_FLOOR, _:
                return f"a noise floor: A/A with {stats.INTERVAL_SAMPLES} rounds or more"
        return None

    def _to_claim(self) -> float:
        """The factor by which rounds must grow for its p-value to be small enough."""
        if self.p_value is None or self.holm_level is None:
            return 1.0
        return verdicts.times_the_rounds_to_claim(self.p_value, self.holm_level)

    def _more_rounds(self, times: float) -> str:
        if times > MOST_TIMES:
            return f"over {MOST_TIMES} times as many rounds"
        count = f" ({self.n * times:.0f})" if self.n else ""
        return f"about {times:.{0 if times >= 10 else 1}f} times as many rounds{count}"


def lists(summary: Stored, of: str = "", processes: int = 1) -> dict[str, list[Evidence]]:
    """The evidence for each verdict of a summary, by a title for each of its lists.

    Single layers and random inputs alone are left out, as in other tables.

    Args:
        of: what the summary is of, where there are several.
        processes: in which the same was measured.
    """
    tolerance = getattr(summary, "tolerance_pct", stats.SAME_TOLERANCE_PCT)
    found: dict[str, list[Evidence]] = {}
    for where, owner, row in rows_with(summary, "verdict", "reason_code"):
        if row.verdict is not None and not _is_detail(row):
            title = ", ".join(filter(None, [of, where.replace("_", " ")]))
            title += f" (one of {processes} processes)" if processes > 1 else ""
            found.setdefault(title, []).append(_evidence(row, owner, tolerance))
    return found


def tables(found: Mapping[str, Sequence[Evidence]]) -> list[Table]:
    """A line for each verdict, list by list, then the reason codes in words; [] without verdicts."""
    rows = [row for each in found.values() for row in each]
    if not rows:
        return []
    tolerances = dict.fromkeys(f"{row.tolerance_pct:g}%" for row in rows)
    legend = [f"{code}: {code.about}" for code in Reason if any(row.code is code for row in rows)]
    legend += [f"Tolerance: {', '.join(tolerances)}. {ONE_PROCESS}"]
    listed = [
        Table(f"{TITLE}: {title}", (), [], [row.line() for row in each]) for title, each in found.items()
    ]
    return [*listed, Table("Reason codes", (), [], legend)]


def screen(found: Mapping[str, Sequence[Evidence]]) -> str:
    """The tables as plain text, 80 columns wide."""
    return "\n\n".join(table.screen() for table in tables(found)) or NOTHING


def _is_detail(row: Any) -> bool:
    return isinstance(row, ContrastRow) and (row.layer not in ("mean", None) or row.data == "synthetic")


def _evidence(row: Any, owner: Any, tolerance_pct: float) -> Evidence:
    conditions = owner if isinstance(row, MeasuredRow) else row  # a breakdown's are those of its prefills
    speed_up = getattr(row, "ci95_speed_up", None)
    bounds = getattr(row, "ci95_pct", None) or getattr(row, "delta_ci95_pct", None)
    if speed_up:  # of the treatment's time
        bounds = 100 * (1 / speed_up[1] - 1), 100 * (1 / speed_up[0] - 1)
    return Evidence(
        name=_name(row),
        verdict=row.verdict,
        code=row.reason_code,
        ci95_pct=bounds,
        tolerance_pct=tolerance_pct,
        n=getattr(row, "n", None),
        noise_floor_pct=getattr(conditions, "noise_floor_pct", None),
        p_value=getattr(row, "p_value", None),
        holm_level=getattr(row, "holm_level", None),
        clock_mhz=getattr(conditions, "clock_mhz", None),
        of_quotient=hasattr(row, "ci95_speed_up"),
    )


def _name(row: Stored) -> str:
    """What identifies a row, e.g. "prefill, paged against paged@1, spread_k 8"."""
    keys = row.to_json()
    parts = [str(keys[key]) for key in NAMES if keys.get(key) is not None]
    parts += [f"{keys[one]} against {keys[two]}" for one, two in PAIRS if {one, two} <= keys.keys()]
    parts += list(_places(keys))
    return ", ".join(parts)


def _places(keys: dict[str, Any]) -> Iterable[str]:
    for axis in AXES:
        if (value := keys.get(axis)) is not None and value != USUAL.get(axis):
            yield f"{axis} {value}"
