"""Who says what: synthesizers take turns, slow ones fewer where asked, and nothing else changes by it."""

from __future__ import annotations

from collections import Counter

import numpy as np

from edgeaudio_models.synthesis.planning import Cast, plan_clips

CAST = Cast(train=((0, "a"), (1, "b"), (2, "c")), validation=((0, "d"), (2, "e")))


def turns(n_clips: int, rounds: dict[int, int] | None = None) -> list[tuple[str, int]]:
    plan = plan_clips("word", ["one", "two"], n_clips, cast=CAST, seed=3, rounds=rounds or {})
    return [(clip.split, clip.synthesizer) for clip in plan]


def test_all_take_equal_turns_in_each_split() -> None:
    counts = Counter(turns(600))
    assert [counts["train", i] for i in range(3)] == [170, 170, 170]
    assert [counts["validation", i] for i in (0, 2)] == [45, 45]


def test_a_slow_one_speaks_in_one_round_of_so_many() -> None:
    counts = Counter(turns(700, {2: 5}))
    assert abs(counts["train", 0] - counts["train", 1]) <= 1
    np.testing.assert_allclose(counts["train", 2] / counts["train", 0], 1 / 5, atol=0.02)
    np.testing.assert_allclose(counts["validation", 2] / counts["validation", 0], 1 / 5, atol=0.05)


def test_one_round_is_what_is_planned_without_rounds() -> None:
    assert turns(50, {2: 1}) == turns(50)
