"""Where gathering first begins to pay off, of known differences, and what a connector reads of it."""

from __future__ import annotations

import math

import pytest

from harness.experiments.transfer import policy
from harness.experiments.transfer.break_even import FASTEST, Found, locate
from harness.experiments.transfer.rows import TransferContrast, TransferSummary
from tests.made_up import transfer
from tests.made_up.builder import run_record
from tests.made_up.views import summary_of


def difference(spread_k: int, delta_us: float, half_width_us: float | None = 1.0) -> TransferContrast:
    """Gather minus another way."""
    bounds = None if half_width_us is None else (delta_us - half_width_us, delta_us + half_width_us)
    return TransferContrast(
        contrast="gather", kernel="gather_copy", baseline="copy_blocks", spread_k=spread_k,
        direction="to_host", kv_layout="interleaved", layer_tensors="apart", layout="planned",
        baseline_us=100.0, delta_us=delta_us, delta_pct=delta_us, ci95_us=bounds, ci95_pct=bounds,
        verdict="unclear", n=9,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("deltas", "expected"),
    [
        ({}, Found("unclear")),
        ({1: -9.0, 16: -20.0}, Found("always", None, None, 1, True)),
        ({1: 9.0, 16: 4.0}, Found("never", None, 16, None, True)),
        ({4: 10.0, 16: -10.0}, Found("from", 8.0, 4, 16, True)),  # half-way between log(4) and log(16)
        ({1: 30.0, 16: -10.0}, Found("from", 8.0, 1, 16, True)),
        ({1: -5.0, 4: 10.0, 16: -10.0, 64: -50.0}, Found("from", 8.0, 4, 16, True)),  # for good
        ({1: -5.0, 4: -10.0, 16: 0.5}, Found("never", None, 16, None, False)),
        ({4: 0.5, 16: -0.5}, Found("from", 8.0, 4, 16, False)),
    ],
)
def test_the_sign_changes_where_the_line_through_the_points_crosses_zero(
    deltas: dict[int, float], expected: Found
) -> None:
    found = locate([difference(k, delta) for k, delta in deltas.items()])
    assert (found.gather, found.last_slower, found.first_faster, found.certain) == (
        expected.gather,
        expected.last_slower,
        expected.first_faster,
        expected.certain,
    )
    assert (found.spread_k is None) == (expected.spread_k is None)
    if expected.spread_k:
        assert math.isclose(found.spread_k or 0, expected.spread_k)


def test_without_intervals_nothing_is_certain() -> None:
    assert not locate([difference(4, 10.0, None), difference(16, -10.0, None)]).certain


@pytest.fixture
def summary() -> TransferSummary:
    return TransferSummary.parse(summary_of(transfer.record(), transfer.results()))


def test_the_fastest_other_way_decides_not_the_yardstick(summary: TransferSummary) -> None:
    found = {row.against: row for row in summary.break_even if row.direction == "to_host"}
    assert set(found) == {"copy_blocks", "copy_merged", FASTEST}
    assert found["copy_blocks"].gather == "always"
    # copy_merged takes 40 us less than the yardstick and 64 us more a segment; the gather 90 us more.
    assert (found[FASTEST].last_slower, found[FASTEST].first_faster) == (1, 8)
    assert found[FASTEST].spread_k == found["copy_merged"].spread_k
    assert found[FASTEST].segments_per_block == pytest.approx((found[FASTEST].spread_k or 0) / 64)


def test_a_connector_reads_when_to_gather_and_what_a_block_takes(summary: TransferSummary) -> None:
    table = policy.of(run_record(transfer.record()), summary)
    to_host, to_peer = table.entries
    assert (table.device, table.request_bytes, table.blocks) == ("NVIDIA H100", 2**27, 64)
    assert (to_host.block_bytes, to_host.descriptors_per_block) == (64 * 1024, 32)
    assert to_host.gather == "from"
    assert 1 / 64 < (to_host.gather_from_segments_per_block or 0) < 8 / 64
    assert [each.way for each in to_host.fastest] == ["copy_merged", "gather_copy", "gather_copy"]
    assert to_host.yardstick_gbps == pytest.approx(2**27 / transfer.YARDSTICK_US / 1e3, rel=0.01)
    assert (to_peer.gather, to_peer.fastest, to_peer.yardstick_gbps) == ("unclear", [], None)
    assert policy.TransferPolicy.check(table.to_json()) == table


def test_a_hand_over_is_the_prefill_and_then_the_transfer(summary: TransferSummary) -> None:
    assert {row.direction for row in summary.hand_over} == {"to_host"}
    for row in summary.hand_over:
        assert row.prefill_spread_k == row.spread_k
        assert row.total_us == row.prefill_us + row.transfer_us
        assert row.prefill_us == pytest.approx(30000, rel=0.01)
    slowest = max(summary.hand_over, key=lambda row: row.transfer_pct)
    assert slowest.kernel == "copy_blocks"
