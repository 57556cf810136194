"""A real headless browser, for what only a browser can tell: what is drawn, where it lies, what is loaded."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@contextmanager
def started() -> Iterator[Any]:
    """A Chromium found on PATH, driven by Playwright; skips the test where either is missing."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install playwright)")
    executable = next(filter(None, map(shutil.which, NAMES)), None)
    if executable is None:
        pytest.skip("no browser: install Chromium (Debian: apt install chromium)")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable)
        yield browser
        browser.close()


@contextmanager
def opened(browser: Any, path: Path, width: int = 1100, **options: Any) -> Iterator[Any]:
    """The file in a tab of its own. A word on the console, an error or another request fails the test."""
    with browser.new_context(viewport={"width": width, "height": 900}, **options) as context:
        tab = context.new_page()
        said: list[str] = []
        tab.on("console", lambda message: said.append(f"console: {message.text}"))
        tab.on("pageerror", lambda error: said.append(f"error: {error}"))
        tab.on("request", lambda request: said.append(request.url))
        tab.goto(path.as_uri())
        yield tab
        assert said == [path.as_uri()]
