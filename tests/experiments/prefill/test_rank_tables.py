"""The ranks' own table."""

from __future__ import annotations

from dataclasses import replace

from harness.experiments.prefill import kernel_tables
from harness.experiments.prefill.summary import summarise
from harness.experiments.prefill.view import document
from harness.runs.record import Result
from tests import fixtures
from tests.fixtures import screen_table

SCREEN = """\
Ranks

rank        baseline ms  median ms             difference  verdict
----------  -----------  ---------  ---------------------  -------
cpu_attention_with_kv_cache: paged in one run against dense
0                0.1999     0.2118  +6.02% [+5.80, +6.12]   slower
1, slowest       0.2998     0.3177  +6.02% [+5.80, +6.12]   slower

cpu_attention_with_kv_cache: paged, 8 runs against one
0                0.2119     0.2146  +1.37% [+0.97, +1.43]   slower
1, slowest       0.3178     0.3219  +1.37% [+0.97, +1.43]   slower

ms per attention call of the engine's kernel, mean over the layers. The tables
    above show the slowest rank: the others wait for it in every layer.
"""


def two_ranks() -> list[Result]:
    """The made-up run of one rank twice; everything takes the second rank half as long again."""
    found = []
    for result in fixtures.results():
        if result.cell.stage == "end_to_end":
            found.append(result)
            continue
        for rank, factor in ((0, 1.0), (1, 1.5)):
            cell = replace(result.cell, rank=rank)
            samples = [factor * sample for sample in result.samples_us]
            series = f"{result.series} rank={rank}"
            found.append(replace(result, cell=cell, samples_us=samples, series=series))
    return found


def test_one_rank_has_no_table():
    assert kernel_tables.ranks(summarise(fixtures.record(), fixtures.results())) is None


def test_ranks_stand_side_by_side():
    found = kernel_tables.ranks(summarise(fixtures.record(), two_ranks()))
    assert found.screen() + "\n" == SCREEN


def test_all_other_tables_show_the_slowest_rank():
    record = fixtures.record()
    tables = document(record, summarise(record, two_ranks()))
    assert "mean over 2 layers (0, 5), the slowest rank: 1" in tables.screen_summary()
    paged = next(line for line in screen_table(tables, 1).splitlines() if line.startswith("Paged, 1 run"))
    assert "0.3177" in paged, "half as long again as 0.2118"
    assert {row.split(",")[9] for row in tables.csv().splitlines()[1:]} == {"0", "1", ""}
