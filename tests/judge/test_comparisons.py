"""A failing assert is given what it compared itself, and a comparison that nobody asked is found.

The suites' tests hold several comparisons, in loops, in helpers and joined by `or`. If a failure were given the rows of
another one, a baseline entry would excuse the wrong thing.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.judge.comparisons import noting, surely_asserts
from harness.judge.expect import Row, stated


def true(name="x"):
    return stated(name, [Row(name, "1", "1", "", True)])


def false(name="x"):
    return stated(name, [Row(name, "1", "2", "", False)])


def failure_of(test):
    with noting() as comparisons:
        with pytest.raises(AssertionError) as failed:
            test()
        place, matches, held = comparisons.of_failure(failed.value)
    return place, [match.title for match in matches], held


def stale_then_plain():
    value = 2 if false("stale") else 1
    assert value == 2


def stale_then_another():
    assert not false("stale")
    assert false("own")


def one_of_two():
    assert true("first") and false("second")


def either():
    assert false("first") or false("second")


def turn_before():
    for second in (true("passes"), false("second")):
        assert false("first") or second


def turn_of_a_helper_before():
    for names in ("ab", "cd"):
        assert any(false(x) if names == "cd" else true(x) for x in names)


def over_lines():
    assert (
        true("first")
        and false("second")
    )  # fmt: skip


def helper(name):
    return true("inside") and false(name)


def by_a_helper_that_returns_it():
    assert helper("of the helper")


def asserting(name):
    assert false(name)


def by_a_helper_that_asserts():
    assert not false("stale")
    asserting("in the helper")


def all_of_them():
    assert all([true("first"), false("second"), true("third")])


@pytest.mark.parametrize(
    ("test", "titles", "source"),
    [
        (stale_then_plain, [], "assert value == 2"),
        (stale_then_another, ["own"], 'assert false("own")'),
        (one_of_two, ["second"], 'assert true("first") and false("second")'),
        (either, ["first", "second"], 'assert false("first") or false("second")'),
        (turn_before, ["first", "second"], 'assert false("first") or second'),
        (turn_of_a_helper_before, ["c", "d"], 'assert any(false(x) if names == "cd" else true(x) for x in names)'),
        (all_of_them, ["second"], 'assert all([true("first"), false("second"), true("third")])'),
        (over_lines, ["second"], 'assert ( true("first") and false("second") )'),
        (by_a_helper_that_returns_it, ["of the helper"], 'assert helper("of the helper")'),
        (by_a_helper_that_asserts, ["in the helper"], "assert false(name)"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)  # fmt: skip
def test_a_failure_is_given_its_own_comparisons(test, titles, source):
    place, named, held = failure_of(test)

    assert (named, held, place.source) == (titles, False, source)
    assert place.path == __file__
    line = Path(__file__).read_text().splitlines()[place.line - 1].strip()
    assert source.startswith(line)


def test_an_assert_of_the_contrary_names_what_holds():
    def test():
        assert not true("it holds")

    _, named, held = failure_of(test)

    assert (named, held) == (["it holds"], True)


def forgotten():
    first = false("forgotten")
    del first
    assert true("asked")


def made_needless():
    assert any([true("first"), false("second")])


def kept_and_asked():
    kept = [true("first"), true("second")]
    for one in kept:
        assert one


@pytest.mark.parametrize(
    ("test", "source"),
    [
        (forgotten, 'first = false("forgotten")'),
        (made_needless, None),
        (kept_and_asked, None),
    ],
)  # fmt: skip
def test_what_was_never_asked_is_found(test, source):
    with noting() as comparisons:
        test()

    place = comparisons.unasked(test.__code__)
    assert (place.source if place else None) == source


def plain():
    value = 1
    assert value


def in_a_loop():
    for value in ():
        assert value


def behind_a_return(value=0):
    if not value:
        return
    assert value


def of_a_constant():
    assert True


def in_a_block():
    with noting():
        assert plain


@pytest.mark.parametrize(
    ("function", "sure"),
    [(plain, True), (in_a_loop, False), (behind_a_return, False), (of_a_constant, False), (in_a_block, True)],
)
def test_an_assert_that_surely_ran(function, sure):
    assert surely_asserts(function) is sure
