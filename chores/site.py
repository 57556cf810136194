"""Hooks of mkdocs.yml: pages of the repository's root join the site, and doctests become code blocks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
# Where a file of the root is on the site.
ON_SITE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "CITATION.cff": "CITATION.cff",
    "LICENSE": "LICENSE",
}


def on_files(files: Files, *, config: Any) -> Files:
    """Add the root's pages to the site's files."""
    for name, place in ON_SITE.items():
        content = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, place, content=with_links_from_docs(content)))
    return files


def with_links_from_docs(page: str) -> str:
    """A page of the root, its relative links as from docs/."""
    moved = re.sub(r"\]\(docs/", "](", page)
    return re.sub(r"\]\(([\w.]+)\)", lambda link: f"]({ON_SITE.get(link[1], link[1])})", moved)


class FencedDoctests(griffe.Extension):  # type: ignore[misc]  # a package of .venv-docs
    """Makes a code block of each doctest; mkdocstrings does so in sections named Examples alone."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Fence the doctests of one docstring: the lines from a prompt to the next empty one."""
        if obj.docstring:
            text = obj.docstring.value
            obj.docstring.value = re.sub(
                r"(?m)^>>> (?:.+\n?)+", lambda lines: f"```pycon\n{lines[0].rstrip()}\n```\n", text
            )
