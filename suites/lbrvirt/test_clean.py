"""Clean bit 10: the five fields.

With 0C0h[10] clear VMRUN reads 670h to 697h; with it set it may use what it has of the last VMRUN of this VMCB
(APM2 15.15.3). A changed field whose clean bit is set is therefore old or new, never a third thing. No clean bit is
named for 0B8h[0], so that all bits are clear where it changes. An L0 that looks at the wrong bit, or that keeps a
DEBUGCTL of its own, runs L2 on the old one.
"""

import pytest

from harness import any_of, clause, unchanged
from suites.lib.branch_records import (
    ADDRESS_BITS,
    ADDRESSES,
    LBR,
    PRESET,
    RECORDING,
    REGISTERS,
    are,
    branch,
    records,
    same_as,
    store_records,
    stored,
)

LBR_CLEAN = 1 << 10
ALL_CLEAN = 0x0FFF  # bits 11:0
NEW = {
    "dbgctl": 0, "br_from": 0x0000_5111_1111_1111, "br_to": 0x0000_5222_2222_2222,
    "last_excp_from": 0x0000_5333_3333_3333, "last_excp_to": 0x0000_5444_4444_4444,
}  # fmt: skip
OLD = {"dbgctl": LBR} | PRESET


def read_twice(l1, clean, **changed):
    """L2 reads its records in two VMRUNs; before the second one fields are changed and clean bits set."""
    page = l1.scratch()
    guest = l1.guest(f"first: nop\nvmmcall\nsecond: {store_records(page)}end: vmmcall", vmcb=RECORDING)
    assert guest.run().ran
    exit = guest.resume("second", clean=clean, **changed, run={"read": {"l2": stored(page)}})
    assert exit.reached("end", clean=unchanged)
    return records(exit.memory["l2"])


@clause("lbrvirt.clean_bit_clear")
@pytest.mark.parametrize("name", REGISTERS)
@pytest.mark.parametrize("clean", [0, ALL_CLEAN & ~LBR_CLEAN], ids=["none", "all_others"])
def test_change_is_seen(l1, clean, name):
    """The other four are as they were."""
    wanted = OLD | {name: NEW[name]}

    got = read_twice(l1, clean, **{name: NEW[name]})

    assert are(l1, "L2's", got, same_as(wanted))


@clause("lbrvirt.clean_bit_set")
@pytest.mark.parametrize("name", REGISTERS)
def test_change_is_old_or_new(l1, name):
    got = read_twice(l1, ALL_CLEAN, **{name: NEW[name]})

    value = got[name] if name == "dbgctl" else got[name] & ADDRESS_BITS
    assert l1.expect(f"L2's {REGISTERS[name].name}", value, any_of(OLD[name], NEW[name]))


@clause("lbrvirt.clean_bit_set")
def test_without_a_change_all_is_as_saved(l1):
    """The clean bit is set and nothing was changed: L2 finds what its own branch left, saved by #VMEXIT."""
    page = l1.scratch()
    code = f"jump: jmp there\nnop\nthere: vmmcall\nsecond: {store_records(page)}end: vmmcall"
    guest = l1.guest(code, vmcb=RECORDING)
    assert guest.run().reached("there", fields=branch(guest["jump"], guest["there"]))

    exit = guest.resume("second", clean=ALL_CLEAN, run={"read": {"l2": stored(page)}})

    assert exit.reached("end", fields=branch(guest["jump"], guest["there"]))
    assert are(l1, "L2's", records(exit.memory["l2"]), {"dbgctl": LBR} | branch(guest["jump"], guest["there"]))


@clause("lbrvirt.clean_bit_clear")
@pytest.mark.parametrize("enable", [0, 1], ids=["on-to-off", "off-to-on"])
def test_enable_bit_with_no_clean_bit(l1, enable):
    """0B8h[0] changes, with 0C0h = 0."""
    guest = l1.guest(
        "first: nop\nvmmcall\njump: jmp there\nnop\nthere: vmmcall", vmcb=RECORDING | {"lbr_virt_enable": 1 - enable}
    )
    assert guest.run().ran

    exit = guest.resume("jump", lbr_virt_enable=enable, clean=0, **OLD)

    wanted = branch(guest["jump"], guest["there"]) if enable else dict.fromkeys(ADDRESSES, unchanged)
    assert exit.reached("there", fields=wanted)
