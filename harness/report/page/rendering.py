"""Rendering of templates, with the page's styles and script inlined: a page is one file that loads
nothing.
"""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from harness.terminal import escape

# The page's own script and no other; nothing is loaded.
POLICY = (
    "default-src 'none'; script-src 'sha256-{}'; style-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'"
)
VERDICTS = {"slower": "▲", "faster": "▼", "same": "=", "unclear": "?"}


def render(template: str, **values: Any) -> str:
    """Render a template of this package with the page's styles and script; all values are escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("harness.report.page", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=_escape_controls,
    )
    own = resources.files("harness.report.page")
    inlined = {
        name: Markup(own.joinpath(f"page.{name}").read_text(encoding="utf-8")) for name in ("css", "js")
    }
    policy = POLICY.format(base64.b64encode(hashlib.sha256(inlined["js"].encode()).digest()).decode())
    return environment.get_template(template).render(**inlined, policy=policy, verdicts=VERDICTS, **values)


def _escape_controls(value: object) -> object:
    """What a template shows, without what reorders it or is not seen; markup, which has escaped it, stays."""
    return escape(value) if isinstance(value, str) and not isinstance(value, Markup) else value
