"""Each access of suites/lib/emulated_access.py runs, and is met at the page and the table that a test takes away."""

from __future__ import annotations

import pytest

from harness import VMEXIT
from suites.lib.emulated_access import ACCESSES, LEVELS, Operand, P, U
from tests.guest.test_on_emulators import l1, session  # noqa: F401  (fixtures)

pytestmark = pytest.mark.emulator


@pytest.mark.parametrize("name", ACCESSES)
def test_access_comes_through(l1, name):  # noqa: F811
    guest = (operand := Operand(l1, ACCESSES[name])).guest

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=operand.guest["done"])


@pytest.mark.parametrize("where", ["page", *LEVELS])
@pytest.mark.parametrize("name", ["mov_load", "rep_movs_to", "lock_cmpxchg16b", "push_from"])
def test_taken_away_it_is_a_nested_page_fault_there(l1, name, where):  # noqa: F811
    operand = Operand(l1, ACCESSES[name])
    operand.set_nested(where, 0)

    exit = operand.guest.run()

    assert exit.matches(code=VMEXIT.NPF, rip=operand.guest["probe"])
    assert exit.info2 & ~0xF == operand.gpa(where) & ~0xF


@pytest.mark.parametrize("name", ACCESSES)
def test_only_what_writes_needs_the_permission(l1, name):  # noqa: F811
    operand = Operand(l1, ACCESSES[name])
    operand.set_nested("page", P | U)

    code = VMEXIT.NPF if ACCESSES[name].writes else VMEXIT.VMMCALL
    assert operand.guest.run().code == code
