"""Whether two engines gave the same answers, within what their data type leaves."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.engine.serving import Answer

# Kernels add in another order; through all layers that moves a logprob, or a vector by its length, by less.
LOGPROB_TOLERANCE, LOGPROB_TOLERANCE_16_BIT = 1e-3, 0.1
POOLED_TOLERANCE, POOLED_TOLERANCE_16_BIT = 1e-4, 0.03


@dataclass(frozen=True)
class Agreement:
    """How far one engine's answers are from another's."""

    prompts: int
    same_tokens: int | None  # of `prompts`; None: of a pooling model, which gives no tokens
    ties: int  # other tokens, which the baseline held to be as likely within the tolerance
    worst: float  # largest difference of a logprob, or of a pooled vector over its length; nan: not a number
    allowed: float
    identical: bool  # bit for bit

    @property
    def equal(self) -> bool:
        """Whether all answers are the same within the tolerance."""
        tokens_agree = self.same_tokens is None or self.same_tokens + self.ties == self.prompts
        return self.worst <= self.allowed and tokens_agree


def compare(expected: Sequence[Answer], got: Sequence[Answer], dtype: str) -> Agreement:
    """Hold answers to the same prompts against each other.

    Args:
        dtype: of activations, which decides what is allowed.
    """
    pairs = list(zip(expected, got, strict=True))
    identical = all(one == two for one, two in pairs)
    if expected[0].token is None:
        allowed = POOLED_TOLERANCE if dtype == "float32" else POOLED_TOLERANCE_16_BIT
        return Agreement(len(pairs), None, 0, _worst(_apart(*pair) for pair in pairs), allowed, identical)
    allowed = LOGPROB_TOLERANCE if dtype == "float32" else LOGPROB_TOLERANCE_16_BIT
    same = sum(one.token == two.token for one, two in pairs)
    ties = sum(one.token != two.token and _lead(one, two) <= 2 * allowed for one, two in pairs)
    worst = _worst(
        abs(one.logprobs[token] - two.logprobs[token])
        for one, two in pairs
        for token in one.logprobs.keys() & two.logprobs.keys()
    )
    return Agreement(len(pairs), same, ties, worst, allowed, identical)


def _lead(one: Answer, two: Answer) -> float:
    """By how much the first engine preferred its token to the second's; infinite if unlikely."""
    assert one.token is not None
    assert two.token is not None
    return one.logprobs[one.token] - one.logprobs.get(two.token, -math.inf)


def _apart(one: Answer, two: Answer) -> float:
    """The length of the difference of two pooled vectors over the first one's; 1 where their sizes differ."""
    if len(one.pooled) != len(two.pooled):
        return 1.0
    length = math.hypot(*one.pooled)
    return math.dist(one.pooled, two.pooled) / length if length else math.nan


def _worst(differences: Iterable[float]) -> float:
    values = list(differences)
    return math.nan if any(math.isnan(each) for each in values) else max(values, default=math.nan)
