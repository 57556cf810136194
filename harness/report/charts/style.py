"""How matplotlib's charts look: for reading beside a run's page, and at the width of a paper's column."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Style:
    """Sizes in inches and points; characters to a line of text."""

    kinds: tuple[str, ...]  # of files
    suffix: str  # of their names
    dpi: int  # of the PNG
    text: float  # pt
    title: float | None  # pt; None: a caption says what the title would
    panel_title: float  # pt
    marks: float  # of markers and line widths, against those of SCREEN
    width: float | None  # of the figure; None: panels side by side, as wide as it takes
    lines_height: float  # of a panel with lines
    row_height: float  # of a row of bars, and of each further line of its label
    label_chars: int  # of a row
    y_chars: int
    legend_chars: int
    note_chars: int
    panel_title_chars: int

    def beside_labels(self, chars: int) -> int:
        """Characters to a line below or above a panel that leaves room for its rows' labels."""
        return chars if self.width is None else chars * 3 // 4


SCREEN = Style(
    kinds=("png", "svg", "pdf"), suffix="", dpi=200, text=9.5, title=11, panel_title=10, marks=1.0,
    width=None, lines_height=3.0, row_height=0.42, label_chars=44, y_chars=34, legend_chars=42,
    note_chars=90, panel_title_chars=1000,
)  # fmt: skip
PAPER = Style(
    kinds=("png", "pdf"), suffix="-paper", dpi=600, text=8, title=None, panel_title=8, marks=0.65, width=3.3,
    lines_height=2.1, row_height=0.19, label_chars=22, y_chars=24, legend_chars=46, note_chars=35,
    panel_title_chars=38,
)  # fmt: skip
