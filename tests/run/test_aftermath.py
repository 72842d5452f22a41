"""The search for the fewest earlier tests: it finds them, keeps their order, and ends."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from harness.run.aftermath import Spent, fewest


@pytest.mark.parametrize(
    "needed",
    [{0}, {99}, {37}, {3, 70}, {10, 11, 12}, {0, 50, 99}],
    ids=lambda needed: "-".join(map(str, sorted(needed))),
)
def test_finds_the_fewest(needed: set[int]) -> None:
    tried: list[list[int]] = []

    def shows(some: Sequence[int]) -> bool:
        tried.append(list(some))
        return needed <= set(some)

    assert fewest(range(100), shows) == (sorted(needed), True, True)
    assert all(some == sorted(some) for some in tried)
    assert len(tried) <= 1 + 8 * len(needed)  # halving


def test_what_does_not_show_again_is_told() -> None:
    assert fewest([1, 2], lambda some: False) == ([1, 2], False, False)


def test_when_its_time_is_spent_the_rest_is_the_answer() -> None:
    calls = 0

    def shows(some: Sequence[int]) -> bool:
        nonlocal calls
        calls += 1
        if calls > 3:
            raise Spent
        return 40 in some

    left, shown, whole = fewest(range(64), shows)

    assert (40 in left, len(left), shown, whole) == (True, 32, True, False)
