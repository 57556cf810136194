"""Longer position tables: trained rows first, then the same rows again."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from patches import PatchError, Symbol
from patches.positions import repeat_rows


@given(st.integers(1, 20), st.integers(1, 90), st.integers(0, 2))
def test_rows_repeat_and_special_rows_do_not(trained, wanted, offset):
    table = torch.arange(float(offset + trained))[:, None]
    longer = repeat_rows(table, wanted, offset)
    assert len(longer) == offset + max(wanted, trained)
    assert torch.equal(longer[:offset], table[:offset])
    for row in range(len(longer) - offset):
        assert longer[offset + row] == table[offset + row % trained]


def test_an_empty_table_is_refused():
    with pytest.raises(PatchError, match="no rows"):
        repeat_rows(torch.zeros(2, 4), 8, offset=2)


def test_a_symbol_that_moved_is_named():
    assert "json:no_such_function" in (Symbol("json:no_such_function").problem() or "")


def test_a_symbol_that_lost_a_parameter_is_named():
    problem = Symbol("json:dumps", ("obj", "block_table")).problem()
    assert problem == "json:dumps has no parameter block_table"
