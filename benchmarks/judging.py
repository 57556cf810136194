"""Conclusions from several tools' figures for the same kernels: who is right, why, and whose figures are
repeatable.

No torch here: a benchmark's JSON can be judged again anywhere. An observation is one tool's of one call in
one process, a dictionary with
    call, tool
    us              its figure for the kernel on one segment of blocks
    contrast %      its figure for the kernel on several segments, over that on one, less 1
    behind others us    of this harness only: its figure where other kernels ran ahead, in random order
and of the process in which the tool was traced also
    traced us       its figure while a CUPTI trace was taken
    kernel us       what the kernel itself took in that trace
    clock MHz       the SM clock meanwhile
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

OURS = "this harness, events"
OVER_100_US_PCT, OVER_20_US_PCT = 1.0, 3.0

Row = dict[str, Any]


def target_pct(us: float) -> float | None:
    """How far apart figures for a kernel of this duration may be; None: too short for a target."""
    if us > 100:
        return OVER_100_US_PCT
    return OVER_20_US_PCT if us > 20 else None


def agreement(observations: Iterable[Row]) -> list[Row]:
    """A row for each call and tool, medians over processes.

    "ours / it" compares figures, "error %" a figure with what the kernel took while that tool ran: a tool is
    right if its error is within the target, whatever the others say. "adds us" is the same in us.
    """
    rows = [_medians(members) for members in _by_call_and_tool(observations)]
    ours = {row["call"]: row["us"] for row in rows if row["tool"] == OURS}
    for row in rows:
        us, kernel_us = row["us"], row["kernel us"]
        if us and ours.get(row["call"]):
            row["ours / it"] = ours[row["call"]] / us
        if us and kernel_us:
            error, allowed = 100 * (us / kernel_us - 1), target_pct(kernel_us)
            row |= {"adds us": us - kernel_us, "error %": error}
            row["right"] = None if allowed is None else abs(error) <= allowed
    return rows


def conclusions(rows: Sequence[Row]) -> list[str]:
    """For each call and each other tool: whether they agree, and if not, which is right and why."""
    ours = {row["call"]: row for row in rows if row["tool"] == OURS and row["us"]}
    others = [row for row in rows if row["tool"] != OURS and row["us"] and row["call"] in ours]
    return [f"{row['call']}: {_conclusion(ours[row['call']], row)}" for row in others]


def _conclusion(ours: Row, other: Row) -> str:
    tool, ratio = other["tool"], ours["us"] / other["us"]
    allowed = target_pct(min(ours["us"], other["us"]))
    apart = f"{_pct(ratio)} against {tool} ({ours['us']:.4g} and {other['us']:.4g} us)"
    if allowed is None:
        return f"{apart}: too short for a target"
    if abs(100 * (ratio - 1)) <= allowed:
        return f"{apart}: they agree within {allowed:g}%"
    if not (ours["kernel us"] and other["kernel us"]):
        return f"{apart}: over {allowed:g}%, and no trace of both that could decide"
    kernel_ratio = ours["kernel us"] / other["kernel us"]
    return "; ".join(
        [
            f"{apart}: over {allowed:g}%",
            f"the kernel itself took {ours['kernel us']:.4g} and {other['kernel us']:.4g} us by CUPTI "
            f"({_pct(kernel_ratio)}){_clocks(ours, other)}, the timing makes {_pct(ratio / kernel_ratio)}",
            f"{_who_is_right(ours, other)}: {_error(ours)}, {_error(other)}",
        ]
    )


def _who_is_right(ours: Row, other: Row) -> str:
    right = [row["tool"] for row in (ours, other) if row["right"]]
    if len(right) == 2:
        return "both are right about what they ran"
    return f"{right[0]} is right" if right else "neither is right"


def _error(row: Row) -> str:
    return f"{row['tool']} is {row['error %']:+.1f}% ({row['adds us']:+.3g} us) off its own trace"


def _clocks(ours: Row, other: Row) -> str:
    if not (ours["clock MHz"] and other["clock MHz"]):
        return ""
    cycles = [row["kernel us"] * row["clock MHz"] for row in (ours, other)]
    clocks = f"{ours['clock MHz']:.0f} and {other['clock MHz']:.0f} MHz"
    return f" at {clocks}, {_pct(cycles[0] / cycles[1])} in cycles"


def _pct(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.1f}%"


def spreads(observations: Iterable[Row]) -> list[Row]:
    """The spread of each tool's figures over processes, in percent of their median.

    "contrast" is of the difference that the layout makes, which is what the harness is for, in percentage
    points. "range" is the largest less the smallest, "middle half" the distance of the quartiles.
    """
    rows = []
    for members in _by_call_and_tool(observations):
        us = np.array([one["us"] for one in members if one["us"]])
        contrast = np.array([one["contrast %"] for one in members if one.get("contrast %") is not None])
        if len(us) < 2 or len(contrast) < 2:
            continue
        row: Row = {"call": members[0]["call"], "tool": members[0]["tool"], "processes": len(us)}
        row |= {f"us {name} %": value for name, value in _apart(100 * us / np.median(us)).items()}
        row["contrast %"] = float(np.median(contrast))
        row |= {f"contrast {name}": value for name, value in _apart(contrast).items()}
        rows.append(row)
    return rows


def _apart(values: np.ndarray) -> dict[str, float]:
    low, high = np.percentile(values, [25, 75])
    return {"range": float(np.ptp(values)), "middle half": float(high - low)}


def smallest(rows: Sequence[Row]) -> list[str]:
    """For each call, the tool with the smallest spreads."""
    found = []
    for call in dict.fromkeys(row["call"] for row in rows):
        mine = [row for row in rows if row["call"] == call]
        best = {name: min(mine, key=lambda row: row[name]) for name in mine[0] if name.endswith(_ENDINGS)}
        texts = [f"{name.removesuffix(' %')} {row[name]:.2g} ({row['tool']})" for name, row in best.items()]
        found.append(f"{call}: smallest {', '.join(texts)}")
    return found


_ENDINGS = ("range %", "middle half %", "range", "middle half")


def _by_call_and_tool(observations: Iterable[Row]) -> list[list[Row]]:
    groups: dict[tuple[str, str], list[Row]] = {}
    for one in observations:
        groups.setdefault((one["call"], one["tool"]), []).append(one)
    calls = list(dict.fromkeys(call for call, _ in groups))
    return sorted(groups.values(), key=lambda members: calls.index(members[0]["call"]))


def _medians(members: Sequence[Row]) -> Row:
    """One row of medians; None where there is no observation; remarks are kept."""
    row: Row = {"call": members[0]["call"], "tool": members[0]["tool"]}
    for name in ("us", "behind others us", "traced us", "kernel us", "clock MHz"):
        values = [one[name] for one in members if one.get(name)]
        row[name] = float(np.median(values)) if values else None
    remarks = dict.fromkeys(one["remark"] for one in members if one.get("remark"))
    return row | ({"remark": "; ".join(remarks)} if remarks else {})
