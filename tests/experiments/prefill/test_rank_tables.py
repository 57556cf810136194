"""The ranks' own table."""

from __future__ import annotations

from harness.experiments.prefill import kernel_tables
from tests.made_up.prefill import record, results, two_ranks
from tests.made_up.views import document_of, prefill_summary, spread_table, summary_of

SCREEN = """\
Ranks

rank        baseline ms  median ms             difference  verdict
----------  -----------  ---------  ---------------------  -------
cpu_attention_with_kv_cache: paged in one segment against dense
0                0.1999     0.2118  +6.03% [+5.89, +6.17]   slower
1, slowest       0.2998     0.3177  +6.03% [+5.89, +6.17]   slower

cpu_attention_with_kv_cache: paged, 8 segments against one
0                0.2119     0.2146  +1.25% [+1.09, +1.41]   slower
1, slowest       0.3178     0.3219  +1.25% [+1.09, +1.41]   slower

ms per attention call of the engine's kernel, mean over the layers. The tables
    above show the slowest rank, for which the others wait in every layer.
"""


def test_one_rank_has_no_table():
    assert kernel_tables.ranks(prefill_summary(summary_of(record(), results()))) is None


def test_ranks_stand_side_by_side():
    found = kernel_tables.ranks(prefill_summary(summary_of(record(), two_ranks())))
    assert found.screen() + "\n" == SCREEN


def test_all_other_tables_show_the_slowest_rank():
    tables = document_of(record(), two_ranks())
    assert "mean over 2 layers (0, 5), the slowest rank: 1" in tables.screen_summary()
    paged = next(line for line in spread_table(tables, 1).splitlines() if line.startswith("Paged, 1 segment"))
    assert "0.3177" in paged, "half as long again as 0.2118"
    assert {row.split(",")[9] for row in tables.csv().splitlines()[1:]} == {"0", "1", ""}
