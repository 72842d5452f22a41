"""The order of the tests: another one finds a test that passes or deviates by what ran before it."""

from __future__ import annotations

import random

import pytest


def shuffle(items: list[pytest.Item], seed: int) -> None:
    """Puts the tests into the order that belongs to `seed`: the same for the same tests, in every worker."""
    items.sort(key=lambda item: item.nodeid)  # so that the order hangs on the seed alone
    random.Random(seed).shuffle(items)
