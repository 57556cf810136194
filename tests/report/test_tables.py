"""How lines become a table on a screen."""

from __future__ import annotations

import re

from harness.report.tables import WIDTH, Line, Section, Table, screen, with_interval

WORDS = ("7", "+2.32% [+2.15, +2.51]", "slower", "0.27%", "flash_attn_varlen_func")


def table(label: str) -> str:
    return screen(
        ("", "ms", "change [95%]", "verdict", "noise", "kernel"), [Section("", [Line(label, WORDS)])]
    )


def test_columns_move_together_only_where_the_table_is_wider_than_the_screen():
    head, rule, line = table("l" * 13).splitlines()
    assert (len(rule), len(line)) == (WIDTH, WIDTH)
    assert "  " in rule
    head, rule, line = table("l" * 18).splitlines()
    assert (len(rule), len(line)) == (WIDTH, WIDTH)
    assert rule.split(" ") == ["-" * width for width in (18, 2, 21, 7, 5, 22)]
    assert line.split() == ["l" * 18, *" ".join(WORDS).split()]
    assert head.split() == ["ms", "change", "[95%]", "verdict", "noise", "kernel"]


def test_in_markdown_a_text_across_columns_is_in_its_own():
    lines = [
        Line("Paged", ("1.0", "2.0", "3.0")),
        Line("Tax", text="+0.1 (+9%)", interval="[+8%, +9%]", verdict="slower"),
    ]
    columns = ("", "warm-up", "average", "median")
    for column in (1, 3):
        rows = Table("t", columns, [Section("", lines)], text_column=column).markdown().splitlines()[-2:]
        paged, tax = ([cell.strip() for cell in row.strip("|").split("|")] for row in rows)
        assert paged == ["Paged", "1.0", "2.0", "3.0", "", ""]
        assert tax.index("+0.1 (+9%)") == column
        assert tax[-2:] == ["[+8%, +9%]", "slower"]


def test_a_legend_promises_an_interval_only_where_one_is_drawn() -> None:
    assert with_interval("measured", None, [1.0, 2.0]) == "measured, 95% interval"
    assert with_interval("measured", None, None) == "measured, too few rounds for an interval"


def test_a_table_in_latex_has_its_texts_in_their_columns_and_no_bare_special_characters() -> None:
    lines = [Line("a_1", ("1", "2")), Line("diff", text="+1", interval="[+1%, +2%]", verdict="slower")]
    shown = Table("50% & more", ("", "us", "ms"), [Section("kernel_x", lines)], below=["a_1: #1"]).latex()
    assert r"\caption{50\% \& more}" in shown
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)&", row.rstrip("\\"))] for row in shown.splitlines()]
    assert ["", "us", "ms", r"95\% interval", "verdict"] in rows
    assert [r"kernel\_x", "", "", "", ""] in rows
    assert [r"a\_1", "1", "2", "", ""] in rows
    assert ["diff", "+1", "", r"[+1\%, +2\%]", "slower"] in rows
    assert r"\footnotesize a\_1: \#1" in shown
