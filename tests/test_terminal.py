"""What is printed: nothing is obeyed, and a screen that cannot be written is no error of the run."""

from __future__ import annotations

import io
import sys

import pytest

from harness import terminal


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b31m\r\x00\x7f", r"\x9b31m\r\x00\x7f"),
        ("a\u202eb\u2066\u200d", r"a\u202eb\u2066\u200d"),
        ("\u2028\ufeff\ud800", r"\u2028\ufeff\ud800"),
        ("one\n\ttwo שלום ±µ–…", "one\n\ttwo שלום ±µ–…"),
    ],
)
def test_control_characters_are_shown_and_text_is_left_alone(text: str, shown: str) -> None:
    assert terminal.escape(text) == shown


def test_what_an_encoding_lacks_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    with terminal.kept():
        terminal.show("gpt-µ")
    assert written.getvalue() == b"gpt-\\xb5\n"


def test_a_missing_stdout_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with terminal.kept():
        terminal.show("nobody sees it")
    assert sys.stdout is None
