"""The account as figures: what the paged KV cache costs, component by component, and where the time goes."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from harness.experiments.prefill.breakdown import decimals
from harness.report.attribution_plot import COLOURS, DARK, ORDER, STEP_COLOURS
from harness.report.page import svg
from harness.report.page.samples import Samples
from harness.report.page.svg import Key, Scale, Tip
from harness.report.rows import Row, named_arm
from harness.report.tables import interval_of, percent, with_interval
from harness.units import counted

ROW_PX = 50.0
NARROWEST = 0.09  # of the width: a segment that has room for its figure
OTHER_STEPS = "#56B4E9"  # allocation and compact, which are no parts of the total


def components(summary: Row) -> Markup:
    """A bar for each component with its interval, and the replay's prediction; "" without any in percent."""
    account: Row = summary.get("attribution") or {"measured": []}
    rows = [row for row in account["measured"] if row["pct"] is not None]
    if not rows:
        return Markup("")
    predicted = {row["component"]: row for row in account["predicted"] if row["pct"] is not None}
    floor = account["noise_floor_pct"]
    reach = [0.0] + ([] if floor is None else [-floor, floor])
    for row in [*rows, *predicted.values()]:
        reach += [row["pct"], *(row["ci95_pct"] or ())]
    scale, height = Scale.around(reach, 0.04), len(rows) * ROW_PX
    drawn, keys = (
        [svg.axis(scale, height, "% of the prefill")],
        [Key(with_interval("measured", *(row["ci95_pct"] for row in rows)), "var(--soft)")],
    )
    if predicted:
        keys.append(Key("predicted from replayed kernels", "var(--ink)", "diamond", hollow=True))
    if floor is not None:
        left, right = scale.at(-floor), scale.at(floor)
        drawn.insert(0, svg.rect(left, 0, right - left, height, class_="band"))
        keys.append(Key("noise floor (A/A)", "var(--band)"))
    for n, row in enumerate(rows):
        forecast = predicted.get(row["component"])
        tip = _component_tip(row, forecast, decimals(account))
        drawn += _component(row, forecast, tip, scale, n * ROW_PX)
    title = "What the paged KV cache costs a prefill"
    picture = svg.drawing(title, height + svg.AXIS_PX, *drawn, class_="bars")
    return svg.figure(title, picture, svg.legend(keys))


def _component_tip(row: Row, forecast: Row | None, digits: int) -> Tip:
    """What is known of a component."""
    measured = interval_of(row["ms"], row["ci95_ms"], digits, unit=" ms")
    lines = [
        f"{_name(row)}: {row['treatment']} minus {row['baseline']}",
        f"measured {measured}, {row['verdict']}",
        f"{percent(row['pct'], row['ci95_pct'])} of the prefill",
        f"n = {counted(row['n'], 'pair')}",
    ]
    if forecast:
        lines.append(f"predicted {interval_of(forecast['ms'], forecast['ci95_ms'], digits, unit=' ms')}")
    return Tip(lines + ([row["reason"]] if row["reason"] else []))


def _component(row: Row, forecast: Row | None, tip: Tip, scale: Scale, top: float) -> list[Markup]:
    """A component's name and figures over its bar."""
    start, end = sorted((scale.at(0), scale.at(row["pct"])))
    colour = STEP_COLOURS.get(row["component"], OTHER_STEPS)
    parts = [svg.rect(0, top + 1, 1, ROW_PX - 2, class_="halo")]
    parts.append(svg.rect(start, top + 22, end - start, 18, fill=colour, class_="bar"))
    if row["ci95_pct"]:
        low, high = (scale.at(bound) for bound in row["ci95_pct"])
        parts.append(svg.line(low, top + 31, high, top + 31, class_="interval"))
        parts += [svg.line(end, top + 26, end, top + 36, class_="interval") for end in (low, high)]
    if forecast:
        place = svg.percent(scale.at(forecast["pct"]))
        parts.append(svg.marker("diamond", place, top + 41, stroke="var(--ink)", fill="var(--paper)"))
    said = f"{_name(row)}: {percent(row['pct'], row['ci95_pct'])}, {row['verdict']}"
    return [svg.text(said, 0, top + 15, class_="label"), svg.mark(tip, *parts)]


def _name(row: Row) -> str:
    return str(row["component"]).replace("_", " ")


def where_the_time_goes(summary: Row, samples: Samples) -> Markup:
    """A bar for each arm that was profiled, in its categories, up to its median; "" if there is none."""
    account = summary.get("attribution")
    if not account or not account["profiled"]:
        return Markup("")
    profiled = {(row["arm"], row["spread_k"]) for row in account["profiled"]}
    arms = [
        row
        for row in summary["end_to_end"]
        if row["median_ms"] is not None and (row["arm"], row["spread_k"]) in profiled | {("paged", 1)}
    ]
    arms.sort(
        key=lambda row: (ORDER.index(row["arm"]) if row["arm"] in ORDER else len(ORDER), -row["spread_k"])
    )
    if not arms:
        return Markup("")
    together = [sum(part["ms"] or 0.0 for part in account["components"] if _same(part, row)) for row in arms]
    longest = max([*together, *(bound for row in arms for bound in row["ci95_ms"] or [row["median_ms"]])])
    scale, height = Scale(0.0, 1.02 * longest), len(arms) * ROW_PX
    drawn = [svg.axis(scale, height, "ms per prefill")]
    for n, row in enumerate(arms):
        drawn += _arm(account, row, scale, n * ROW_PX, samples)
    title = "Where the time goes: one profiled prefill of each arm"
    shown = dict.fromkeys(part["category"] for part in account["components"] if part["ms"])
    keys = [Key(name, _fill(name), hatched=name not in COLOURS) for name in shown]
    picture = svg.drawing(title, height + svg.AXIS_PX, *drawn, class_="bars")
    median = with_interval("the arm's median prefill without a profiler", *(row["ci95_ms"] for row in arms))
    note = f"The line is {median}."
    return svg.figure(title, picture, svg.legend(keys), note=note)


def _arm(account: Row, row: Row, scale: Scale, top: float, samples: Samples) -> list[Markup]:
    """An arm's name over its categories, end to end, and its median."""
    digits = decimals(account)
    name = named_arm(row["arm"], row["spread_k"])
    drawn = [svg.text(f"{name}: {row['median_ms']:.{digits}f} ms", 0, top + 15, class_="label")]
    start, parts = 0.0, [part for part in account["components"] if _same(part, row) and part["ms"]]
    if not parts:
        drawn.append(svg.rect(0, top + 22, scale.at(row["median_ms"]), 18, class_="outline"))
        drawn.append(svg.text("not profiled", 0.02, top + 35))
    for part in parts:
        share = "" if part["pct"] is None else f", {part['pct']:.1f}% of the prefill"
        tip = Tip([f"{name}: {part['category']}", f"{part['ms']:.{digits}f} ms{share}"])
        drawn.append(svg.mark(tip, *_segment(part, scale.at(start), scale.at(part["ms"]), top, digits)))
        start += part["ms"]
    drawn.append(_median(row, name, scale, top, digits, samples))
    return drawn


def _segment(part: Row, left: float, width: float, top: float, digits: int) -> list[Markup]:
    category = part["category"]
    drawn = [svg.rect(left, top + 22, width, 18, fill=_fill(category), class_="segment")]
    if width > NARROWEST:
        side = "on-dark" if category in DARK else "on-light" if category in COLOURS else "on-paper"
        shown = f"{part['ms']:.{min(digits, 2)}f}"
        drawn.append(svg.text(shown, left + width / 2, top + 35, text_anchor="middle", class_=side))
    return drawn


def _median(row: Row, name: str, scale: Scale, top: float, digits: int, samples: Samples) -> Markup:
    place = scale.at(row["median_ms"])
    parts = [svg.line(place, top + 18, place, top + 44, class_="interval")]
    if row["ci95_ms"]:
        low, high = (scale.at(bound) for bound in row["ci95_ms"])
        parts.append(svg.line(low, top + 31, high, top + 31, class_="interval"))
    halo = svg.element("circle", cx=svg.percent(place), cy=f"{top + 31:.1f}", r="9", class_="halo")
    return svg.mark(samples.prefill_tip(row, name, digits), *parts, halo)


def _fill(category: str) -> str:
    if category not in COLOURS:
        return "url(#hatch)"
    return "var(--ink)" if category == "other" else COLOURS[category]


def _same(part: Row, row: Row) -> bool:
    return (part["arm"], part["spread_k"]) == (row["arm"], row["spread_k"])


def missing(summary: Row) -> Sequence[str]:
    """Which components have no bar, and why."""
    account = summary.get("attribution")
    if not account:
        return ["The prefill was not timed with attention steered inside the engine, so there is no account."]
    return [
        f"{_name(row)}: not measured ({row['reason']})" for row in account["measured"] if row["ms"] is None
    ]
