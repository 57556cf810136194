"""Formatting of figures, and tables as plain text or markdown."""

from __future__ import annotations

import itertools
import re
import shlex
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field

from tabulate import tabulate

from harness.runs.schema import RunRecord
from harness.terminal import in_one_line

WIDTH = 80
NONE = "-"


@dataclass(frozen=True)
class Line:
    """A line of a table: either one cell per column, or text (a difference, a reason) across them."""

    label: str
    cells: tuple[str, ...] = ()
    text: str = ""
    interval: str = ""
    verdict: str = ""


@dataclass(frozen=True)
class Section:
    """Lines under one heading, which is not printed if empty."""

    heading: str
    lines: list[Line]


@dataclass(frozen=True)
class Table:
    """A table with its title, and prose above and below it."""

    title: str
    columns: tuple[str, ...]
    sections: list[Section]
    above: list[str] = field(default_factory=list)
    below: list[str] = field(default_factory=list)
    text_column: int = 1  # in markdown, the column for a line's text

    def screen(self) -> str:
        """The table as plain text."""
        table = screen(self.columns, self.sections) if self.sections else ""
        parts = [wrap([self.title, *self.above]), table, wrap(self.below)]
        return "\n\n".join(part for part in parts if part)

    def markdown(self) -> str:
        """The table as a section of a markdown file."""
        table = markdown(self.columns, self.sections, text_column=self.text_column)
        parts = [f"## {self.title}", list_lines(self.above), table, list_lines(self.below)]
        return "\n\n".join(part for part in parts if part)

    def latex(self) -> str:
        """The table for a paper, with its notes below; needs the package booktabs."""
        headers, rows = _rows(self.columns, self.sections, self.text_column)
        body = tabulate(
            rows,
            headers=headers,
            tablefmt="latex_booktabs",
            disable_numparse=True,
            colalign=("left", *["right"] * (len(headers) - 1)),
        )
        notes = [f"\\\\[2pt] \\footnotesize {_escape_latex(line)}" for line in self.below]
        lines = ["\\begin{table}", "\\centering", f"\\caption{{{_escape_latex(self.title)}}}", body, *notes]
        return "\n".join([*lines, "\\end{table}"])


@dataclass
class Notes:
    """Numbered footnotes; the same text gets the same number."""

    texts: list[str] = field(default_factory=list)

    def mark(self, text: str) -> str:
        """The mark for a note, e.g. "[1]"."""
        if text not in self.texts:
            self.texts.append(text)
        return f"[{self.texts.index(text) + 1}]"

    def lines(self) -> list[str]:
        """The notes, to print below the table."""
        return [f"[{number}] {text}" for number, text in enumerate(self.texts, start=1)]


def facts(record: RunRecord) -> list[str]:
    """The facts above a run's tables: status, model, device, versions, command."""
    model = {"weights": record.model.weights, "dtype": record.model.dtype}
    of_model = [f"{name}: {value}" for name, value in model.items() if value is not None]
    return [
        f"status: {record.status}",
        *([", ".join(of_model)] if of_model else []),
        f"device: {record.device.name}",
        "versions: " + ", ".join(f"{name} {v}" for name, v in record.versions.items()),
        command(record.command),
    ]


def command(words: Sequence[str] | None) -> str:
    """The command that started the run, as typed, unless it was started from Python."""
    return "command: none, started from Python" if words is None else f"command: `{shlex.join(words)}`"


def ms(value_us: float | None, digits: int = 3) -> str:
    """Microseconds as milliseconds."""
    return NONE if value_us is None else f"{value_us / 1000:.{digits}f}"


def signed(value: float, digits: int = 2) -> str:
    """A number with its sign; none if it rounds to zero."""
    return f"{value:+.{digits}f}" if round(value, digits) else f"{0:.{digits}f}"


def with_interval(what: str, *intervals: object) -> str:
    """A legend's text for figures drawn with their intervals, or without if none has one."""
    return f"{what}, 95% interval" if any(intervals) else f"{what}, too few rounds for an interval"


def span_pct(values: Sequence[float]) -> str:
    """The smallest and largest percentage, or one if they print alike."""
    ends = (f"{value:.2f}%" for value in (min(values), max(values)))
    return " to ".join(dict.fromkeys(ends))


def difference(delta_us: float, delta_pct: float, digits: int) -> str:
    """A difference in ms and in percent, e.g. "+0.011 (+9.06%)"."""
    return f"{signed(delta_us / 1000, digits)} ({signed(delta_pct)}%)"


def interval(ci_pct: Sequence[float] | None) -> str:
    """An interval in percent, e.g. "[+8.91%, +9.20%]"."""
    return "no interval" if ci_pct is None else f"[{signed(ci_pct[0])}%, {signed(ci_pct[1])}%]"


def screen(columns: Sequence[str], sections: Sequence[Section]) -> str:
    """Sections as one table in plain text: their cells share columns, texts span these.

    Columns of a table wider than the screen move closer together.
    """
    lines = [line for section in sections for line in section.lines]
    blank = [""] * (len(columns) - 1)
    rule, head, *body = tabulate(  # column names as a row, because tabulate pads headers
        [
            map(in_one_line, row)
            for row in (columns, *([line.label, *(line.cells or blank)] for line in lines))
        ],
        tablefmt="simple",
        disable_numparse=True,
        colalign=("left", *["right"] * len(blank)),
    ).splitlines()
    if len(rule) > WIDTH:
        rule, head, *body = _closer(rule, [rule, head, *body])
    printed = [head, rule]
    width = len(rule.split()[0])
    for section in sections:
        heading = [wrap([section.heading])] if section.heading else []
        printed += ["", *heading] if len(printed) > 2 else heading
        for line in section.lines:
            row = body.pop(0)
            printed.append(row if line.cells else _across(line, width))
    return "\n".join(text.rstrip() for text in printed)


def _closer(rule: str, rows: Sequence[str]) -> list[str]:
    """Rows with one space between columns instead of two; `rule` gives the columns' widths."""
    ends = list(itertools.accumulate(len(dashes) + 2 for dashes in rule.split()))
    return [
        " ".join(row[start : end - 2] for start, end in zip([0, *ends], ends, strict=False)) for row in rows
    ]


def _across(line: Line, width: int) -> str:
    bounds = f"95% {line.interval}" if line.interval.startswith("[") else line.interval
    return f"{line.label:<{width}}  {line.text:<19}  {bounds:<24}  {line.verdict}"


def markdown(columns: Sequence[str], sections: Sequence[Section], text_column: int) -> str:
    """The same in markdown; texts go into the given column, intervals and verdicts into their own."""
    headers, rows = _rows(columns, sections, text_column, heading="**{}**")
    alignment = ("left", *["right"] * (len(headers) - 1))
    return tabulate(rows, headers=headers, tablefmt="pipe", disable_numparse=True, colalign=alignment)


def _rows(
    columns: Sequence[str], sections: Sequence[Section], text_column: int, heading: str = "{}"
) -> tuple[list[str], list[list[str]]]:
    """The header, and rows of as many cells; with columns for intervals and verdicts if any line has one."""
    extra = any(line.verdict for section in sections for line in section.lines)
    rows: list[list[str]] = []
    for section in sections:
        if section.heading:
            rows.append([heading.format(section.heading)])
        for line in section.lines:
            cells = list(line.cells) or [""] * (len(columns) - 1)
            if line.text:
                cells[text_column - 1] = line.text
            rows.append([*map(in_one_line, (line.label, *cells)), line.interval, line.verdict])
    headers = [*columns, "95% interval", "verdict"] if extra else [*columns]
    width = len(headers)
    return headers, [(row + [""] * width)[:width] for row in rows]


def _escape_latex(text: str) -> str:
    return re.sub(r"([&%$#_{}])", r"\\\1", text)


def wrap(lines: Sequence[str]) -> str:
    """Prose lines, wrapped to the screen's width."""
    return "\n".join(textwrap.fill(line, WIDTH - 1, subsequent_indent="    ") for line in lines)


def list_lines(lines: Sequence[str]) -> str:
    """Prose lines as a list in markdown."""
    return "\n".join(f"- {line}" for line in lines)


def interval_of(
    value: float | None, bounds: Sequence[float] | None, digits: int, sign: bool = True, unit: str = ""
) -> str:
    """A figure with its interval, "-" for None."""
    if value is None:
        return NONE
    shown = [signed(x, digits) if sign else f"{x:.{digits}f}" for x in (value, *(bounds or ()))]
    return f"{shown[0]}{unit}" + (f" [{shown[1]}, {shown[2]}]" if bounds else "")


def percent(value: float | None, bounds: Sequence[float] | None, digits: int = 2, sign: bool = True) -> str:
    """A share with its interval, e.g. "+2.41% [+2.10, +2.80]", "-" of None; fewer decimals if it is large."""
    if value is None:
        return NONE
    digits = min(digits, 1 if max(map(abs, (value, *(bounds or ())))) >= 10 else 2)
    return interval_of(value, bounds, digits, sign, "%")
