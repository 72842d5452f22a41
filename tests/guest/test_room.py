"""Guests of one test do not overwrite each other: each has its own VMCB, code and stack, the first one as ever."""

from __future__ import annotations

from itertools import pairwise

import pytest

from harness.guest.l1 import L1
from harness.link.session import Session
from harness.scenario import places
from harness.scenario.asm import Assembler
from tests.fake_executor import FakeTarget
from tests.fake_l1 import FakeL1


@pytest.fixture
def machine():
    return FakeL1()


@pytest.fixture
def l1(machine, tmp_path):
    session = Session(FakeTarget(respond=machine.respond))
    yield L1(session, Assembler(tmp_path), {})
    session.close()


def test_first_guest_lies_where_it_always_did(l1):
    guest = l1.guest("here: vmmcall")

    assert (guest.vmcb_pa, guest.code_base, guest["here"]) == (places.VMCB, places.GUEST_CODE, places.GUEST_CODE)
    assert (guest.vmcb["rip"], guest.vmcb["rsp"]) == (places.GUEST_CODE, places.GUEST_STACK_TOP)


def test_two_guests_keep_their_code_and_vmcb(l1, machine):
    one = l1.guest("mov eax, 1\nvmmcall", vmcb={"asid": 1})
    one.run()
    two = l1.guest("mov eax, 2\nvmmcall", vmcb={"asid": 2})
    two.run()

    for guest, asid in ((one, 1), (two, 2)):
        code = bytes(machine.memory[guest.code_base : guest.code_base + len(guest.code)])
        assert code == guest.code
        assert guest.run().vmcb["asid"] == asid


@pytest.mark.parametrize("mode", ["long64", "real16"])
def test_places_do_not_overlap(l1, mode):
    made = [l1.guest(".fill 9000, 1, 0x90\nvmmcall", mode=mode) for _ in range(5)]
    stacks = places.LOW_GUEST if mode == "real16" else 0
    ranges = [(guest.vmcb_pa, guest.vmcb_pa + 0x1000) for guest in made]
    ranges += [(guest.code_base, guest.code_base + len(guest.code) + 4) for guest in made]
    if not stacks:
        ranges += [(guest.vmcb["rsp"] - 0x800, guest.vmcb["rsp"]) for guest in made]

    ranges.sort()

    assert all(end <= start for (_, end), (start, _) in pairwise(ranges))


def test_second_guest_in_real_mode_begins_in_its_own_segment(l1):
    l1.guest("vmmcall", mode="real16")

    second = l1.guest("here: vmmcall", mode="real16")

    assert second.vmcb["cs.base"] == second.vmcb["ss.base"] == second.code_base == places.LOW_GUEST + 0x1_0000
    assert (second.vmcb["cs.selector"], second["here"], second.vmcb["rip"]) == (second.code_base >> 4, 0, 0)


def test_places_can_be_chosen(l1, machine):
    page, code, stack = l1.scratch(1), l1.scratch(1), l1.scratch(1)

    guest = l1.guest("here: vmmcall", vmcb_pa=page, code_base=code, stack_top=stack + 0x1000)
    guest.run()

    assert (guest["here"], guest.vmcb["rip"], guest.vmcb["rsp"]) == (code, code, stack + 0x1000)
    assert bytes(machine.memory[code : code + 3]) == guest.code
    assert int.from_bytes(machine.memory[page + 0x70 : page + 0x78], "little") == 0x81


def test_guests_without_end_are_refused(l1):
    with pytest.raises(MemoryError, match=r"room for .* guests"):
        for _ in range(1000):
            l1.guest("vmmcall")


def test_scratch_ends_below_the_guests(l1):
    with pytest.raises(MemoryError):
        l1.scratch((places.GUESTS - places.SCRATCH) // 4096 + 1)
