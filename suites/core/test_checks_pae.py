"""VMRUN and the page directory pointers of a legacy PAE guest.

Without nested paging the manual says two things of a present entry with a reserved bit set: VMRUN reads the four
entries that CR3 points at and refuses (APM2 15.5.1), or guests have them walked when they are used, and a bad one gives
a page fault then (APM2 5.5.3). With nested paging only the second holds (APM2 15.25.10).
A wrong L0 does neither, checks the entries when it should not, or keeps the entries of another guest.
"""

import struct

import pytest

from harness import VMEXIT, clause, masked
from suites.lib.beyond_memory import ABOVE_LIMIT, ABOVE_MAXPHYADDR, beyond

RESERVED_LOW = (1, 2, 5, 6, 7, 8)
PF_PRESENT, PF_RESERVED = 1 << 0, 1 << 3
ENTRIES = [pytest.param(n, id=f"entry{n}") for n in range(4)]
RESERVED = [
    *(pytest.param(bit, id=f"bit{bit}") for bit in RESERVED_LOW),
    *ABOVE_LIMIT,
]


def with_pointers(l1, code, **change):
    """A PAE guest with four pointers of its own, which lead to the directories of the map it would have had."""
    guest = l1.guest(code, mode="pae32", **change)
    shared = guest.vmcb["cr3"]
    pointers = [shared + 0x1000 * (n + 1) | 1 for n in range(4)]
    guest.vmcb["cr3"] = l1.scratch(1)
    return guest, pointers


def put(guest, pointers):
    """Writes the four pointers where CR3 points at."""
    guest.write(guest.vmcb["cr3"], struct.pack("<4Q", *pointers))


def at_use(guest, entry):
    """Where a bad entry is walked: L2's first fetch goes through the first, nothing of L2's through the others."""
    if entry:
        return {"code": VMEXIT.VMMCALL, "rip": guest["start"]}
    info1 = masked(PF_PRESENT | PF_RESERVED, PF_PRESENT | PF_RESERVED)
    return {"code": VMEXIT.EXCP_PF, "rip": guest["start"], "info1": info1, "info2": guest["start"]}


@clause("core.checks.pae_pdpe")
@pytest.mark.parametrize("bit", RESERVED)
@pytest.mark.parametrize("entry", ENTRIES)
def test_reserved_bit_is_refused_or_faults_at_use(l1, entry, bit):
    guest, pointers = with_pointers(l1, "start: vmmcall")
    pointers[entry] |= 1 << bit
    put(guest, pointers)

    exit = guest.run()

    assert exit.is_invalid or exit.matches(**at_use(guest, entry))


@clause("core.checks.pae_pdpe")
@pytest.mark.parametrize("above", ABOVE_MAXPHYADDR)
def test_address_beyond_maxphyaddr_is_refused_or_faults_at_use(l1, above):
    guest, pointers = with_pointers(l1, "start: vmmcall")
    pointers[0] |= 1 << beyond(l1, above)
    put(guest, pointers)

    exit = guest.run()

    assert exit.is_invalid or exit.matches(**at_use(guest, 0))


@clause("core.checks.pae_pdpe")
@pytest.mark.parametrize("bit", [3, 4, 9, 10, 11], ids=["pwt", "pcd", "avl9", "avl10", "avl11"])
def test_defined_and_available_bits_run(l1, bit):
    """The legal neighbours, in all four entries."""
    guest, pointers = with_pointers(l1, "start: vmmcall")
    put(guest, [pointer | 1 << bit for pointer in pointers])

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["start"])


@clause("core.checks.pae_pdpe")
@pytest.mark.parametrize("entry", [pytest.param(n, id=f"entry{n}") for n in (1, 2, 3)])
def test_entry_that_is_not_present_runs(l1, entry):
    """The legal neighbour: an entry of zeros that L2 does not use."""
    guest, pointers = with_pointers(l1, "start: vmmcall")
    pointers[entry] = 0
    put(guest, pointers)

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["start"])


@clause("core.checks.pae_pdpe_with_np")
@pytest.mark.parametrize("bit", [1, 5, 8, 63], ids=lambda bit: f"bit{bit}")
@pytest.mark.parametrize("entry", [pytest.param(n, id=f"entry{n}") for n in (1, 2, 3)])
def test_reserved_bit_in_an_unused_entry_runs_with_nested_paging(l1, entry, bit):
    """L2 lives in the first gigabyte and never walks the bad entry."""
    guest, pointers = with_pointers(l1, "start: vmmcall", np=True)
    pointers[entry] |= 1 << bit
    put(guest, pointers)

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["start"])


@clause("core.checks.pae_pdpe_with_np")
@pytest.mark.parametrize("bit", [1, 5, 8, 63], ids=lambda bit: f"bit{bit}")
def test_reserved_bit_in_the_walked_entry_faults_in_l2_with_nested_paging(l1, bit):
    """L2's first fetch walks it: #PF with P and RSV set, which L1 intercepts."""
    guest, pointers = with_pointers(l1, "start: vmmcall", np=True)
    pointers[0] |= 1 << bit
    put(guest, pointers)

    exit = guest.run()

    assert exit.matches(**at_use(guest, 0))


@clause("core.checks.pae_pdpe_with_np")
def test_entry_that_is_not_present_faults_in_l2_with_nested_paging(l1):
    """The neighbour: not present, so P is clear and RSV is too."""
    guest, pointers = with_pointers(l1, "start: vmmcall", np=True)
    put(guest, [0, *pointers[1:]])
    info1 = masked(0, PF_PRESENT | PF_RESERVED)

    exit = guest.run()

    assert exit.matches(code=VMEXIT.EXCP_PF, rip=guest["start"], info1=info1, info2=guest["start"])
