"""The support table: what every kernel supports, from the kernels' declarations, in 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Protocol

from harness.kernels.support import Feature, Sizes, Support

# Short, so that the legend fits in two columns.
COLUMNS = {
    Feature.DENSE: ("dns", "K and V without a block table"),
    Feature.PAGED: ("pgd", "block table"),
    Feature.CAUSAL: ("cau", "causal mask"),
    Feature.FULL: ("ful", "no causal mask"),
    Feature.GQA: ("gqa", "grouped-query attention"),
    Feature.MQA: ("mqa", "one KV head"),
    Feature.SCALE: ("scl", "scale other than 1/sqrt(head size)"),
    Feature.WINDOW: ("win", "sliding window, causal"),
    Feature.SYMMETRIC: ("w=w", "window of equal sides, not causal"),
    Feature.LOPSIDED: ("w/w", "window of unequal sides, not causal"),
    Feature.SOFTCAP: ("cap", "logit soft-cap"),
    Feature.ALIBI: ("ali", "ALiBi slopes"),
    Feature.SINKS: ("snk", "attention sinks"),
    Feature.BATCH: ("bat", "several requests in one call"),
    Feature.RAGGED: ("rag", "requests of different lengths"),
}
LABEL = 17
WIDTH = 78
SHORT_DTYPES = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32"}


class Row(Protocol):
    """A kernel under its short name, with its declaration."""

    @property
    def label(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def support(self) -> Support: ...


def features(kernels: Sequence[Row]) -> list[str]:
    """Lines: kernel x feature, "+" where supported, and the meaning of the columns."""
    lines = [" " * LABEL + "".join(f" {short}" for short, _ in COLUMNS.values())]
    for kernel in kernels:
        taken = kernel.support.features
        marks = "".join("   +" if feature in taken else "   ." for feature in COLUMNS)
        lines.append(f"{kernel.label:{LABEL}}{marks}")
    legend = [f"{short} {meaning}" for short, meaning in COLUMNS.values()]
    half = (len(legend) + 1) // 2
    lines.append("")
    for first, second in zip(legend[:half], [*legend[half:], ""], strict=False):
        lines.append(f"{first:39}{second}".rstrip())
    for kernel in kernels:
        for pair in kernel.support.apart:
            one, other = COLUMNS[pair.one][0], COLUMNS[pair.other][0]
            lines.append(f"{kernel.label}: not {one} and {other} together{pair.where}")
    return lines


def sizes(kernels: Sequence[Row]) -> list[str]:
    """Lines: the function's name, dtypes, head sizes and page sizes of every kernel."""
    lines = [f"{'':{LABEL}} {'types':14} {'pages':5} head sizes"]
    for kernel in kernels:
        support = kernel.support
        dtypes = " ".join(SHORT_DTYPES[name] for name in support.dtypes)
        pages = _short(support.page_sizes) if Feature.PAGED in support.features else "."
        row = f"{kernel.label:{LABEL}} {dtypes:14} {pages:5} {_short(support.head_sizes)}"
        if support.paged_head_sizes:
            row += f" (pages: {_short(support.paged_head_sizes)})"
        lines += textwrap.wrap(row, WIDTH, subsequent_indent=" " * (LABEL + 22))
    return [*lines, "", "8n: multiples of 8"]


def _short(sizes: Sizes) -> str:
    if sizes.only:
        return ", ".join(map(str, sizes.only))
    words = "any" if sizes.multiple_of == 1 else f"{sizes.multiple_of}n"
    if sizes.smallest > sizes.multiple_of:
        words = f"from {sizes.smallest}"
    return f"{words} to {sizes.largest}" if sizes.largest else words
