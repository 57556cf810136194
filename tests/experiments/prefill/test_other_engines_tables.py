"""Tables of other engines."""

from __future__ import annotations

from dataclasses import replace

from harness.experiments.prefill.end_to_end_tables import engine_tables as tables
from harness.experiments.prefill.end_to_end_tables import label
from harness.runs.record import Status
from tests.made_up.prefill_gpu import breakdown
from tests.made_up.variants import record, results
from tests.made_up.views import prefill_summary, summary_of


def test_without_a_second_baseline_the_footnote_says_that_the_floor_is_not_known() -> None:
    alone = [r for r in results() if not r.control]
    screen = tables(prefill_summary(summary_of(record(), alone)))[0].screen()
    assert "not known, as there is no A/A" in " ".join(screen.split())


def test_if_no_engine_ran_there_are_reasons_and_no_empty_table() -> None:
    lost = [replace(r, status=Status.ERROR, reason="no", samples_us=[]) for r in results()]
    (table,) = tables(prefill_summary(summary_of(record(), lost)))
    assert table.screen().count("error [1]") == 6


def test_a_run_without_variants_has_no_such_tables() -> None:
    assert breakdown()[1]["variants"] == []
    assert tables(prefill_summary(breakdown()[1])) == []


def test_labels_are_short() -> None:
    names = ("baseline again", "block_size=64", "flash_attn_version=2", "attention_backend=TRITON_ATTN")
    assert [label(name) for name in names] == ["baseline again", "block size 64", "FA2", "TRITON_ATTN"]
