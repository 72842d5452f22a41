"""ASIDs: whose translation it is.

Translations carry the ASID they were made under, so that guests need no flush when they take turns (APM2 15.16). An L0
has fewer ASIDs than it offers, or maps all of L1's to one; it must flush where L1 need not. If it does not, one guest
reads through the tables of another.
"""

import pytest

from harness import VMEXIT, clause
from suites.lib.needs import need_two_asids
from suites.lib.tlb_maps import AT_HERE, AT_THERE, GLOBAL, THERE, FarPage, far_guest, read_byte


@clause("core.tlb.asids_run")
@pytest.mark.parametrize("which", ["first", "second", "middle", "last"])
def test_asid_runs(l1, which):
    last = l1.cpuid.nasid - 1
    asid = {"first": 1, "second": min(2, last), "middle": max(1, last // 2), "last": last}[which]
    guest = l1.guest("done: vmmcall", vmcb={"asid": asid})

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["done"], asid=asid)


@clause("core.tlb.fresh_asid")
@pytest.mark.parametrize("flags", [0, GLOBAL], ids=["plain", "global"])
@pytest.mark.parametrize("np", [False, True], ids=["np_off", "np_on"])
def test_fresh_asid_sees_the_tables_as_they_are(l1, np, flags):
    """ASID 1 has read the page before L1 turned the entry; ASID 2 was not used since the flush of all."""
    if np:
        l1.need("NP")
    need_two_asids(l1)
    guest, far = far_guest(l1, "mov al, [rbx]\nvmmcall\nnext: mov al, [rbx]\ndone: vmmcall", flags=flags, np=np)
    assert guest.run().matches(code=VMEXIT.VMMCALL)
    far.turn(l1)
    guest.vmcb.update({"rip": guest["next"], "asid": 2, "tlb_control": 0})

    exit = guest.run()

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["done"])
    assert l1.expect("the byte that ASID 2 reads", read_byte(exit), AT_THERE, width_bytes=1)


@clause("core.tlb.asids_apart")
@pytest.mark.parametrize(
    ("mode", "flags"),
    [("long64", 0), ("long64", GLOBAL), ("pae32", GLOBAL), ("paged32", 0)],
    ids=["long64", "long64-global", "pae32-global", "paged32"],
)
@pytest.mark.parametrize("np", [False, True], ids=["np_off", "np_on"])
def test_two_guests_take_turns(l1, np, mode, flags):
    """Two sets of tables for the same linear address, six turns, one flush before the first."""
    if np:
        l1.need("NP")
    need_two_asids(l1)
    base = "rbx" if mode == "long64" else "ebx"
    guest, far = far_guest(l1, f"next: mov al, [{base}]\ndone: vmmcall", mode, flags=flags, np=np)
    other = FarPage(l1, mode, flags)
    other.place(guest, target=THERE)
    last = l1.cpuid.nasid - 1

    for turn in range(6):
        tables, asid, byte = ((far, 1, AT_HERE), (other, last, AT_THERE))[turn % 2]
        fields = {"rip": guest["next"], "cr3": tables.base, "asid": asid, "tlb_control": int(turn == 0)}
        guest.vmcb.update(fields)
        exit = guest.run()
        assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["done"])
        assert l1.expect(f"turn {turn}: the byte that ASID {asid} reads", read_byte(exit), byte, width_bytes=1)
