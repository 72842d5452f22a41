"""VMRUN and the page directory pointers of a legacy PAE guest.

Without nested paging hardware loads the four entries that CR3 points at as MOV CR3 does, and refuses VMRUN if a present
one has a reserved bit set (APM2 15.5.1). With nested paging it does not read them at VMRUN: each is walked when it is
used, and a bad one gives L2 a page fault, or nothing if no access needs it (APM2 15.25.10).
A wrong L0 does not check, checks the entries when it should not, or keeps the entries of another guest.
"""

import struct

import pytest

from harness import VMEXIT, clause, masked

RESERVED_LOW = (1, 2, 5, 6, 7, 8)
PF_PRESENT, PF_RESERVED = 1 << 0, 1 << 3
ENTRIES = [pytest.param(n, id=f"entry{n}") for n in range(4)]
RESERVED = [
    *(pytest.param(bit, id=f"bit{bit}") for bit in RESERVED_LOW),
    *(pytest.param(bit, id=f"bit{bit}") for bit in range(52, 64)),
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


@clause("core.checks.pae_pdpe")
@pytest.mark.parametrize("bit", RESERVED)
@pytest.mark.parametrize("entry", ENTRIES)
def test_reserved_bit_is_refused(l1, entry, bit):
    guest, pointers = with_pointers(l1, "vmmcall")
    pointers[entry] |= 1 << bit
    put(guest, pointers)

    assert guest.run().is_invalid


@clause("core.checks.pae_pdpe")
@pytest.mark.parametrize("above", [pytest.param(n, id=f"maxphyaddr+{n}") for n in range(12)])
def test_address_beyond_maxphyaddr_is_refused(l1, above):
    guest, pointers = with_pointers(l1, "vmmcall")
    bit = l1.cpuid.maxphyaddr + above
    if bit > 51:
        pytest.skip(f"MAXPHYADDR is {l1.cpuid.maxphyaddr}: bit {bit} is asked for by its number")
    pointers[3] |= 1 << bit
    put(guest, pointers)

    assert guest.run().is_invalid


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
    info1 = masked(PF_PRESENT | PF_RESERVED, PF_PRESENT | PF_RESERVED)

    exit = guest.run()

    assert exit.matches(code=VMEXIT.EXCP_PF, rip=guest["start"], info1=info1, info2=guest["start"])


@clause("core.checks.pae_pdpe_with_np")
def test_entry_that_is_not_present_faults_in_l2_with_nested_paging(l1):
    """The neighbour: not present, so P is clear and RSV is too."""
    guest, pointers = with_pointers(l1, "start: vmmcall", np=True)
    put(guest, [0, *pointers[1:]])
    info1 = masked(0, PF_PRESENT | PF_RESERVED)

    exit = guest.run()

    assert exit.matches(code=VMEXIT.EXCP_PF, rip=guest["start"], info1=info1, info2=guest["start"])
