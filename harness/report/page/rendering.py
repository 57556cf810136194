"""Rendering of templates, with the page's styles and script inlined: a page is one file that loads
nothing.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

VERDICTS = {"slower": "▲", "faster": "▼", "same": "=", "unclear": "?"}


def render(template: str, **values: Any) -> str:
    """Render a template of this package with the page's styles and script; all values are escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("harness.report.page", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    own = resources.files("harness.report.page")
    inlined = {
        name: Markup(own.joinpath(f"page.{name}").read_text(encoding="utf-8")) for name in ("css", "js")
    }
    return environment.get_template(template).render(**inlined, verdicts=VERDICTS, **values)
