"""TLB_CONTROL: L1 has L2's translations dropped.

01h at VMRUN drops everything, of all ASIDs, global pages too, before L2's first instruction (APM2 15.16.1). The field
is L1's: nothing writes it. An L0 that runs all of L1's guests under one ASID of its own, or keeps shadow tables, must
carry the flush through to them; if it does not, L2 uses memory that L1 gave to another.
"""

import pytest

from harness import VMEXIT, clause, unchanged
from suites.lib.needs import need_two_asids
from suites.lib.tlb_maps import AT_HERE, AT_THERE, GLOBAL, far_guest, read_byte

TWICE = {
    "long64": "mov al, [rbx]\nvmmcall\nnext: mov al, [rbx]\ndone: vmmcall",
    **dict.fromkeys(("compat32", "pae32", "paged32"), "mov al, [ebx]\nvmmcall\nnext: mov al, [ebx]\ndone: vmmcall"),
}


@clause("core.tlb.flush_all")
@pytest.mark.parametrize(
    ("flags", "np"),
    [(0, False), (GLOBAL, False), (GLOBAL, True)],
    ids=["plain-np_off", "global-np_off", "global-np_on"],
)
@pytest.mark.parametrize("mode", TWICE)
def test_new_translation_after_a_flush(l1, mode, flags, np):
    """L1 turns an entry of L2's tables to another page while L2 is out."""
    if np:
        l1.need("NP")
    guest, far = far_guest(l1, TWICE[mode], mode, flags=flags, np=np)
    first = guest.run()
    assert first.matches(code=VMEXIT.VMMCALL)
    assert l1.expect("the byte that L2 reads first", read_byte(first), AT_HERE, width_bytes=1)
    far.turn(l1)
    guest.vmcb.update({"rip": guest["next"], "tlb_control": 1})

    exit = guest.run()

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["done"])
    assert l1.expect("the byte that L2 reads after the flush", read_byte(exit), AT_THERE, width_bytes=1)


@clause("core.tlb.flush_all")
@pytest.mark.parametrize("flags", [0, GLOBAL], ids=["plain", "global"])
def test_flush_reaches_other_asids(l1, flags):
    """ASID 2 runs with the flush; ASID 1, which had read the page before, runs without one."""
    need_two_asids(l1)
    guest, far = far_guest(l1, TWICE["long64"], flags=flags)
    assert guest.run().matches(code=VMEXIT.VMMCALL)
    far.turn(l1)
    guest.vmcb.update({"rip": guest["done"], "asid": 2, "tlb_control": 1})
    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["done"])
    guest.vmcb.update({"rip": guest["next"], "asid": 1, "tlb_control": 0})

    exit = guest.run()

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["done"])
    assert l1.expect("the byte that ASID 1 reads", read_byte(exit), AT_THERE, width_bytes=1)


def flushed_guest(l1, value, **options):
    """A guest that has run once with 01h: `value` need not drop what earlier guests of its ASID left behind."""
    guest = l1.guest("done: vmmcall", **options)
    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["done"])
    guest.vmcb["tlb_control"] = value
    return guest


@clause("core.tlb.control_unchanged")
@pytest.mark.parametrize("np", [False, True], ids=["np_off", "np_on"])
@pytest.mark.parametrize("value", [0, 1, 3, 7])
def test_field_is_not_written(l1, value, np):
    if np:
        l1.need("NP")
    if value > 1:
        l1.need("FlushByAsid")
    guest = flushed_guest(l1, value, np=np)

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["done"], tlb_control=unchanged)


@clause("core.tlb.control_reserved")
@pytest.mark.parametrize("value", [2, 4, 5, 6, 8, 0x10, 0x80, 0xFF], ids=lambda value: f"{value:02x}")
def test_reserved_value_is_survived(l1, value):
    guest = flushed_guest(l1, value)

    exit = guest.run()

    assert exit.is_invalid or exit.matches(code=VMEXIT.VMMCALL, rip=guest["done"])
