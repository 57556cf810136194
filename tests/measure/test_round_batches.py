"""When a series is precise enough."""

from __future__ import annotations

import numpy as np

from harness.measure.round_batches import CHECK_STEP, PrecisionCheck, RoundBatches


def batches(rounds: int) -> RoundBatches:
    """Rounds differ by 20%; within one, arms 0 and 1 by 0.01%, and arm 2 from both as rounds do."""
    rng = np.random.default_rng(4)
    level, other = 100 * rng.uniform(0.9, 1.1, (2, rounds))
    made = RoundBatches()
    batch = made.start()
    noise = 0.01 * rng.standard_normal((2, rounds))
    batch.samples = {0: [*(level + noise[0])], 1: [*(level + noise[1])], 2: [*other]}
    batch.rounds = rounds
    return made


def test_contrasts_decide_and_only_those_between_ready_arms():
    made = batches(10 * CHECK_STEP)
    assert PrecisionCheck([(0, 1)], 0.5).is_met(made, [0, 1, 2])
    assert not PrecisionCheck([(0, 1), (0, 2)], 0.5).is_met(made, [0, 1, 2])
    assert PrecisionCheck([(0, 1), (0, 2)], 0.5).is_met(made, [0, 1]), "arm 2 has failed"
    assert not PrecisionCheck([(0, 2)], 0.5).is_met(made, [0, 1]), (
        "no contrast is left, and arms alone are wide"
    )
    assert PrecisionCheck([], 50.0).is_met(made, [0, 1])


def test_it_is_asked_seldom():
    few, many = batches(CHECK_STEP - 1), batches(CHECK_STEP)
    check = PrecisionCheck([(0, 1)], 50.0)
    assert not check.is_met(few, [0, 1])
    assert check.is_met(many, [0, 1])
    assert not check.is_met(many, [0, 1]), "the next check is CHECK_STEP rounds later"
