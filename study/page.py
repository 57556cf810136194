"""Write docs/study/README.md and its figures from the study's data."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from harness.runs.store import write_atomic
from study import coverage, drawing, figures, findings, words
from study.points import Point

FOLDER = Path(__file__).resolve().parent
EXPECTED = ("H100", "H200")  # the study's devices


@dataclass(frozen=True)
class Device:
    """All points of one device."""

    name: str
    points: list[Point]
    failures: list[Point]
    figures: dict[str, str]
    coverage: list[coverage.Coverage]
    unplanned: list[str]

    @property
    def short(self) -> str:
        """H100, H200, or its full name."""
        return next((short for short in EXPECTED if short in self.name), self.name)

    def facts(self, part: str, name: str) -> str:
        """Facts from its runs' records, each value once."""
        values = dict.fromkeys(str(p.record[part].get(name) or "-") for p in self.points)
        return ", ".join(values)

    @property
    def commits(self) -> str:
        """The harness's commits, abbreviated, each once."""
        commits = (str(p.record["versions"].get("commit", "-")) for p in self.points)
        return ", ".join(dict.fromkeys(c[:10] + "-dirty" * c.endswith("-dirty") for c in commits))

    @property
    def failed(self) -> list[str]:
        """The points whose run failed, with its error."""
        return [
            f"{coverage.point_name(p.record['config'] | {'model': p.model})}: {p.record['error']}"
            for p in self.failures
        ]

    @property
    def dates(self) -> str:
        """The first and the last day."""
        days = sorted({p.record["started"][:10] for p in self.points})
        return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"


def write(points: Sequence[Point], failures: Sequence[Point], plans: Path, output: Path) -> Path:
    """Write README.md and figures/*.png, removing old figures. Returns the page's path.

    Args:
        plans: the folder of the study's sweeps, to say what is missing.
    """
    folder = output / "figures"
    for old in folder.glob("*.png"):
        old.unlink()
    names = dict.fromkeys(p.device for p in [*points, *failures])
    measured = {name: [p for p in points if p.device == name] for name in names}
    with drawing.plot_style():
        drawn = figures.write(measured, folder)
    devices = []
    for name, mine in measured.items():
        lost = [p for p in failures if p.device == name]
        plan = coverage.coverage(plans, mine, lost), coverage.unplanned(plans, mine)
        devices.append(Device(name, mine, lost, drawn[name], *plan))
    path = output / "README.md"
    write_atomic(path, render([device for device in devices if device.points]))
    return path


def render(devices: Sequence[Device]) -> str:
    """The page in markdown."""
    absent = [name for name in EXPECTED if not any(name in device.name for device in devices)]
    template = environment().get_template("page.md.j2")
    points = {device.short: device.points for device in devices}
    text = template.render(devices=devices, points=points, absent=absent)
    return re.sub(r"\n{3,}", "\n\n", text)


def environment() -> jinja2.Environment:
    """The environment of the page's template."""
    jinja = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # markdown
    )
    jinja.filters["line"] = lambda text: " ".join(text.split())
    jinja.filters["points"] = lambda some: f"{len(some)} point" + "s" * (len(some) != 1)
    jinja.globals.update(words=words, find=findings)
    return jinja
