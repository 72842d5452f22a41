"""LBR virtualization off, or not there: L1 and L2 have one set of registers.

With 0B8h[0]=0 neither VMRUN nor #VMEXIT touches DEBUGCTL and the four records: L2 finds L1's, L1 finds L2's, and an L2
that sets LBR leaves an L1 that records (APM2 15.23.1). Where CPUID does not offer LbrVirt the bit means nothing. 670h
to 697h are neither read nor written then. An L0 that uses LBR virtualization for itself copies to and fro at the wrong
moment, or lets the fields through because its own VMCB has the bit set.
"""

import pytest

from harness import clause, unchanged
from suites.lib.branch_records import (
    ADDRESSES,
    ALL_EXCEPTIONS,
    BTF,
    LBR,
    PRESET,
    addresses,
    are,
    between,
    event,
    need_branch_records,
    own_records,
    records,
    same_as,
    set_debugctl,
    store_records,
    stored,
)
from suites.lib.event_guest import EventGuest

JUMP = "jump: jmp there\nnop\nthere: "
FIELDS = {"lbr_virt_enable": 0, "dbgctl": 0} | PRESET
UNTOUCHED = dict.fromkeys(("dbgctl", *ADDRESSES), unchanged)

# On a machine without LbrVirt the bit may be set: both clauses are then asked, each with its own parameter.
DISABLED = [
    pytest.param(0, id="disabled"),
    pytest.param(1, id="not_offered", marks=pytest.mark.clause("lbrvirt.absent_is_ignored")),
]
SHARED = pytest.mark.parametrize("enable", DISABLED)


@clause("lbrvirt.off_shares_l1s")
@SHARED
@pytest.mark.parametrize("debugctl", [0, LBR], ids=["l1_off", "l1_on"])
def test_l2_has_l1s_registers(l1, enable, debugctl):
    """L2 has no branch: what it reads is what L1 had, and not the VMCB's patterns."""
    page = l1.scratch()
    fields = FIELDS | {"lbr_virt_enable": enable, "dbgctl": LBR - debugctl}
    guest = l1.guest(f"{store_records(page)}end: vmmcall", vmcb=fields)

    ran = between(l1, guest, debugctl=debugctl, read={"l2": stored(page)})

    assert ran.exit.reached("end", fields=UNTOUCHED)
    assert are(l1, "L2's", records(ran.exit.memory["l2"]), {"dbgctl": debugctl} | own_records(ran.exit))


@clause("lbrvirt.off_shares_l2s")
@SHARED
@pytest.mark.parametrize("debugctl", [0, LBR], ids=["l1_off", "l1_on"])
def test_l2_sets_lbr_and_branches(l1, enable, debugctl):
    """L1 finds L2's branch as its last, and LBR set, whatever it was before: #VMEXIT does not clear it."""
    guest = l1.guest(f"{set_debugctl(LBR)}{JUMP}vmmcall", vmcb=FIELDS | {"lbr_virt_enable": enable})

    ran = between(l1, guest, debugctl=debugctl)

    assert ran.exit.reached("there", fields=UNTOUCHED)
    wanted = own_records(ran.exit) | addresses({"br_from": guest["jump"], "br_to": guest["there"]})
    assert are(l1, "after #VMEXIT, L1's", ran.after, {"dbgctl": LBR} | wanted)


@clause("lbrvirt.off_shares_l2s")
@SHARED
def test_l2_clears_lbr(l1, enable):
    """L2's branch behind that is not recorded, and L1 does not record any more."""
    guest = l1.guest(f"{set_debugctl(0)}{JUMP}vmmcall", vmcb=FIELDS | {"lbr_virt_enable": enable, "dbgctl": LBR})

    ran = between(l1, guest, debugctl=LBR, then="jmp resumed_to\nnop\nresumed_to:\n")

    assert ran.exit.reached("there", fields=UNTOUCHED)
    assert are(l1, "after #VMEXIT and a branch, L1's", ran.after, {"dbgctl": 0} | own_records(ran.exit))


@clause("lbrvirt.off_shares_l2s")
@SHARED
def test_l1s_lbr_records_l2s_branch(l1, enable):
    """L2 never writes DEBUGCTL; L1 had LBR set, and so L2's branch is L1's last."""
    guest = l1.guest(f"{JUMP}vmmcall", vmcb=FIELDS | {"lbr_virt_enable": enable})

    ran = between(l1, guest, debugctl=LBR)

    assert ran.exit.reached("there", fields=UNTOUCHED)
    wanted = own_records(ran.exit) | addresses({"br_from": guest["jump"], "br_to": guest["there"]})
    assert are(l1, "after #VMEXIT, L1's", ran.after, {"dbgctl": LBR} | wanted)


@clause("lbrvirt.off_shares_l2s")
@SHARED
def test_l2s_exception_is_l1s_last(l1, enable):
    """LastInt too."""
    code = f"{JUMP}ud2\nother: vmmcall"
    fields = FIELDS | {"lbr_virt_enable": enable}
    guest = EventGuest(l1, code, handlers={}, no_intercept=ALL_EXCEPTIONS, vmcb=fields)

    ran = between(l1, guest.guest, debugctl=LBR)

    assert ran.exit.reached("other", fields=UNTOUCHED)
    wanted = event(guest["there"], guest["other"], (guest["jump"], guest["there"]))
    assert are(l1, "after #VMEXIT, L1's", ran.after, {"dbgctl": LBR} | wanted)


@clause("lbrvirt.off_shares_l2s")
@SHARED
def test_without_a_branch_all_stays(l1, enable):
    """L1 with LBR set, L2 without a branch: VMRUN and #VMEXIT change nothing."""
    ran = between(l1, l1.guest("nop\nend: vmmcall", vmcb=FIELDS | {"lbr_virt_enable": enable}), debugctl=LBR)

    assert ran.exit.reached("end", fields=UNTOUCHED)
    assert are(l1, "before VMRUN, L1's", ran.before, {"dbgctl": LBR} | own_records(ran.exit))
    assert are(l1, "after #VMEXIT, L1's", ran.after, same_as(ran.before))


@clause("lbrvirt.off_ignores_fields")
@SHARED
@pytest.mark.parametrize("dbgctl", [0, LBR, BTF, (1 << 64) - 1], ids=["off", "lbr", "btf", "ones"])
def test_fields_are_left_alone(l1, enable, dbgctl):
    """670h to 697h, with patterns and with ones, on any machine; L2 has a branch and an exit."""
    exit = l1.guest(f"{JUMP}vmmcall", vmcb=FIELDS | {"lbr_virt_enable": enable, "dbgctl": dbgctl}).run()

    assert exit.reached("there", fields=UNTOUCHED)


@clause("lbrvirt.off_ignores_fields")
@SHARED
@pytest.mark.parametrize("debugctl", [0, LBR], ids=["l1_off", "l1_on"])
def test_vmcb_does_not_start_recording(l1, enable, debugctl):
    """The VMCB's DBGCTL is the opposite of L1's: L2 runs with L1's."""
    fields = FIELDS | {"lbr_virt_enable": enable, "dbgctl": LBR - debugctl}
    guest = l1.guest(f"{JUMP}vmmcall", vmcb=fields)

    ran = between(l1, guest, debugctl=debugctl)

    assert ran.exit.reached("there", fields=UNTOUCHED)
    branched = addresses({"br_from": guest["jump"], "br_to": guest["there"]}) if debugctl else {}
    assert are(l1, "after #VMEXIT, L1's", ran.after, {"dbgctl": debugctl} | own_records(ran.exit) | branched)


@clause("lbrvirt.off_ignores_fields")
@SHARED
def test_l1_that_records_does_not_open_the_fields(l1, enable):
    """L1 writes DEBUGCTL, for which an L0 may turn LBR virtualization on for itself, then runs an L2 without it."""
    need_branch_records(l1)
    guest = l1.guest(f"{JUMP}vmmcall", vmcb=FIELDS | {"lbr_virt_enable": enable, "dbgctl": LBR})
    guest.setup(set_debugctl(LBR))
    guest.teardown(set_debugctl(0))

    assert guest.run().reached("there", fields=UNTOUCHED)
