"""How lines become a table on a screen."""

from __future__ import annotations

from harness.report.tables import WIDTH, Line, Section, screen, with_interval

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


def test_a_legend_promises_an_interval_only_where_one_is_drawn() -> None:
    assert with_interval("measured", None, [1.0, 2.0]) == "measured, 95% interval"
    assert with_interval("measured", None, None) == "measured, too few rounds for an interval"
