"""Which answers count as the same."""

from __future__ import annotations

import math

from harness.engine.answers import compare
from harness.engine.serving import Answer


def said(token, **logprobs):
    return Answer(token, {int(name[1:]): value for name, value in logprobs.items()}, ())


STOCK = said(1, t1=-0.5, t2=-1.0, t3=-4.0)


def test_identical_answers():
    found = compare([STOCK], [STOCK], "bfloat16")
    assert found.identical
    assert found.equal


def test_rounding_is_allowed_by_data_type():
    near = said(1, t1=-0.55, t2=-0.95, t3=-4.0)
    assert compare([STOCK], [near], "bfloat16").equal
    assert not compare([STOCK], [near], "bfloat16").identical
    assert not compare([STOCK], [near], "float32").equal


def test_another_token_is_allowed_only_of_a_tie():
    tie = said(1, t1=-0.70, t2=-0.75)
    other = said(2, t1=-0.75, t2=-0.70)
    found = compare([tie], [other], "bfloat16")
    assert (found.same_tokens, found.ties, found.equal) == (0, 1, True)
    assert not compare([STOCK], [said(2, t1=-0.5, t2=-1.0)], "bfloat16").equal
    assert not compare([STOCK], [said(9, t1=-0.5, t9=-0.6)], "bfloat16").equal


def test_what_is_not_a_number_is_not_equal():
    assert not compare([STOCK], [said(1, t1=math.nan)], "bfloat16").equal


def test_pooled_vectors():
    one, near, off = (Answer(None, {}, each) for each in ((3.0, 4.0), (3.0, 4.05), (4.0, 3.0)))
    assert compare([one], [near], "bfloat16").equal
    assert not compare([one], [near], "float32").equal
    assert not compare([one], [off], "bfloat16").equal
    assert not compare([one], [Answer(None, {}, (3.0, 4.0, 0.0))], "bfloat16").equal
    assert not compare([one], [Answer(None, {}, (math.nan, 4.0))], "bfloat16").equal
