"""LBR virtualization on: five registers are the guest's.

With 0B8h[0]=1 VMRUN keeps L1's DEBUGCTL and its four records, and loads L2's from 670h to 690h; #VMEXIT stores L2's
there and gives L1 its own again (APM2 15.23.1). An L0 that leaves out one of the five, or one direction, shows L2
where L1's code runs, or L1 the L0's; one that lets its own use of the registers through does the same to both.
"""

import pytest

from harness import clause, masked, unchanged
from suites.lib.branch_records import (
    ADDRESSES,
    BTF,
    LBR,
    PRESET,
    PRESET_KEPT,
    RECORDING,
    address,
    addresses,
    are,
    between,
    branch,
    lbr_stays,
    need_branch_records,
    own_records,
    records,
    same_as,
    set_debugctl,
    store_records,
    stored,
)
from suites.lib.event_guest import EventGuest

OTHERS = {
    "br_from": 0xFFFF_8765_4321_0005,
    "br_to": 0xFFFF_9876_5432_1006,
    "last_excp_from": 0xFFFF_A987_6543_2107,
    "last_excp_to": 0xFFFF_BA98_7654_3218,
}
JUMP = "jump: jmp there\nnop\nthere: "
OWN_DEBUGCTL = pytest.mark.parametrize("debugctl", [0, LBR], ids=["l1_off", "l1_on"])


def guest_that_reads(l1, **fields):
    """An L2 that stores its five registers at once; `page` is where."""
    page = l1.scratch()
    return l1.guest(f"{store_records(page)}end: vmmcall", vmcb=RECORDING | fields), page


@clause("lbrvirt.debugctl_writable")
def test_lbr_can_be_set_in_l1(l1):
    """All else in this suite that is about L1's own records is skipped where it cannot."""
    assert l1.expect("DEBUGCTL.LBR (MSR 1D9h[0]) stays set in L1", lbr_stays(l1), True)


@clause("lbrvirt.vmrun_loads")
@pytest.mark.parametrize("values", [PRESET, OTHERS], ids=["low", "high"])
@pytest.mark.parametrize("dbgctl", [0, LBR, BTF, LBR | BTF], ids=["off", "lbr", "btf", "lbr-btf"])
def test_l2_reads_what_the_vmcb_has(l1, dbgctl, values):
    """All five, by RDMSR in code that has no branch. BTF without RFLAGS.TF does nothing."""
    guest, page = guest_that_reads(l1, dbgctl=dbgctl, **values)

    exit = guest.run(read={"l2": stored(page)})

    assert exit.reached("end")
    assert are(l1, "L2's", records(exit.memory["l2"]), {"dbgctl": dbgctl} | addresses(values))


@clause("lbrvirt.vmrun_loads")
@pytest.mark.parametrize("name", ADDRESSES)
def test_each_field_has_its_register(l1, name):
    """One differs from the others, which are all the same."""
    values = dict.fromkeys(ADDRESSES, 0x0000_1234_5678_9ABC) | {name: 0x0000_0FED_CBA9_8765}
    guest, page = guest_that_reads(l1, **values)

    exit = guest.run(read={"l2": stored(page)})

    assert are(l1, "L2's", records(exit.memory["l2"]), addresses(values))


@clause("lbrvirt.vmexit_saves")
@pytest.mark.parametrize("values", [PRESET, OTHERS], ids=["low", "high"])
@pytest.mark.parametrize(
    ("before", "after"),
    [(0, LBR), (LBR, 0), (LBR, LBR | BTF), (BTF, 0)],
    ids=["off-to-lbr", "lbr-to-off", "lbr-to-both", "btf-to-off"],
)
def test_l2s_debugctl_is_saved(l1, before, after, values):
    """What L2 wrote stands in 670h; its records, which did not change, stand where they stood."""
    code = f"{set_debugctl(after)}rdmsr\nmov ebx, eax\nend: vmmcall"
    exit = l1.guest(code, vmcb=RECORDING | {"dbgctl": before} | values).run()

    assert exit.reached("end", dbgctl=after, regs={"rbx": after}, fields=addresses(values))


@clause("lbrvirt.vmexit_saves")
def test_l2s_branch_is_saved(l1):
    exit = (guest := l1.guest(f"{JUMP}vmmcall", vmcb=RECORDING)).run()

    assert exit.reached("there", dbgctl=LBR, fields=branch(guest["jump"], guest["there"]))


@clause("lbrvirt.vmexit_saves", "lbrvirt.vmrun_loads")
def test_records_go_on_at_the_next_vmrun(l1):
    """What #VMEXIT saved is what the next VMRUN loads: L2 reads its branch of the first run in the second."""
    page = l1.scratch()
    guest = l1.guest(f"{JUMP}vmmcall\nnext: {store_records(page)}end: vmmcall", vmcb=RECORDING)
    first = guest.run()
    assert first.reached("there", fields=branch(guest["jump"], guest["there"]))

    exit = guest.resume("next", run={"read": {"l2": stored(page)}})

    assert exit.reached("end", fields=branch(guest["jump"], guest["there"]))
    assert are(l1, "L2's", records(exit.memory["l2"]), branch(guest["jump"], guest["there"]))


@clause("lbrvirt.l1_restored")
@OWN_DEBUGCTL
@pytest.mark.parametrize("dbgctl", [0, LBR], ids=["l2_off", "l2_on"])
def test_l1_has_its_own_again(l1, dbgctl, debugctl):
    """L2 branches, takes an exception, and writes its DEBUGCTL: all five of L1's are as they were."""
    code = f"{JUMP}ud2\nother: {set_debugctl(LBR - dbgctl)}jmp end\nnop\nend: vmmcall"
    guest = EventGuest(l1, code, handlers={}, no_intercept=["#UD"], vmcb=RECORDING | {"dbgctl": dbgctl})

    ran = between(l1, guest.guest, debugctl=debugctl)

    assert ran.exit.reached("end", dbgctl=LBR - dbgctl)
    assert are(l1, "before VMRUN, L1's", ran.before, {"dbgctl": debugctl} | own_records(ran.exit))
    assert are(l1, "after #VMEXIT, L1's", ran.after, same_as(ran.before))


@clause("lbrvirt.l1_restored")
@pytest.mark.parametrize("dbgctl", [0, LBR, BTF, LBR | BTF], ids=["off", "lbr", "btf", "lbr-btf"])
def test_vmcb_values_do_not_reach_l1(l1, dbgctl):
    """L2 does nothing at all, and the VMCB's values are patterns."""
    ran = between(l1, l1.guest("end: vmmcall", vmcb=RECORDING | {"dbgctl": dbgctl}), debugctl=LBR)

    assert ran.exit.reached("end", dbgctl=dbgctl, fields=PRESET_KEPT)
    assert are(l1, "after #VMEXIT, L1's", ran.after, {"dbgctl": LBR} | own_records(ran.exit))


@clause("lbrvirt.l1_restored")
def test_l1_goes_on_recording(l1):
    """With LBR set in L1, and clear in L2, L1's next branch is recorded again."""
    guest = l1.guest(f"{JUMP}vmmcall", vmcb=RECORDING | {"dbgctl": 0})

    ran = between(l1, guest, debugctl=LBR, then="resumed: jmp resumed_to\nnop\nresumed_to:\n")

    assert ran.exit.reached("there", fields=PRESET_KEPT)
    wanted = addresses({"br_from": ran.exit.l1["resumed"], "br_to": ran.exit.l1["resumed_to"]})
    assert are(l1, "after #VMEXIT and a branch, L1's", ran.after, {"dbgctl": LBR} | wanted)


@clause("lbrvirt.l1_does_not_reach_l2")
@OWN_DEBUGCTL
@pytest.mark.parametrize("dbgctl", [0, LBR], ids=["l2_off", "l2_on"])
def test_l2_does_not_see_l1s(l1, dbgctl, debugctl):
    """L1 has records and, or not, LBR set; L2 reads the VMCB's values alone."""
    guest, page = guest_that_reads(l1, dbgctl=dbgctl)

    ran = between(l1, guest, debugctl=debugctl, read={"l2": stored(page)})

    assert ran.exit.reached("end", dbgctl=dbgctl, fields=PRESET_KEPT)
    assert are(l1, "L2's", records(ran.exit.memory["l2"]), {"dbgctl": dbgctl} | PRESET_KEPT)


@clause("lbrvirt.l1_does_not_reach_l2")
def test_l1s_lbr_does_not_record_in_l2(l1):
    """L1 has LBR set, L2 has not: L2's branch is recorded nowhere."""
    guest = l1.guest(f"{JUMP}vmmcall", vmcb=RECORDING | {"dbgctl": 0})

    ran = between(l1, guest, debugctl=LBR)

    assert ran.exit.reached("there", dbgctl=0, fields=PRESET_KEPT)
    assert are(l1, "after #VMEXIT, L1's", ran.after, {"dbgctl": LBR} | own_records(ran.exit))


@clause("lbrvirt.l1_does_not_reach_l2")
def test_l2s_lbr_does_not_record_in_l1(l1):
    """L2 has LBR set, L1 has not: a branch of L1 right after #VMEXIT is recorded nowhere."""
    guest = l1.guest(f"{JUMP}vmmcall", vmcb=RECORDING)

    ran = between(l1, guest, debugctl=0, then="jmp resumed_to\nnop\nresumed_to:\n")

    assert ran.exit.reached("there", dbgctl=LBR, fields=branch(guest["jump"], guest["there"]))
    assert are(l1, "after #VMEXIT and a branch, L1's", ran.after, {"dbgctl": 0} | own_records(ran.exit))


@clause("lbrvirt.guests_apart")
def test_two_guests_in_turn(l1):
    """Each has its own records, though they take turns and one does not record."""
    one = l1.guest(f"{JUMP}vmmcall\nnext: nop\nend: vmmcall", vmcb=RECORDING)
    two = l1.guest(f"{JUMP}vmmcall\nnext: nop\nend: vmmcall", vmcb=RECORDING | {"dbgctl": 0} | OTHERS)
    assert one.run().reached("there", dbgctl=LBR, fields=branch(one["jump"], one["there"]))
    assert two.run().reached("there", dbgctl=0, fields=addresses(OTHERS))

    assert one.resume("next").reached("end", dbgctl=LBR, fields=branch(one["jump"], one["there"]))
    assert two.resume("next").reached("end", dbgctl=0, fields=addresses(OTHERS))


@clause("lbrvirt.toggled")
def test_off_leaves_what_was_saved(l1):
    """On, off, on. The fields stay as last saved while it is off, and are loaded when it is on again."""
    page = l1.scratch()
    code = f"{JUMP}vmmcall\nsecond: jmp second_to\nnop\nsecond_to: vmmcall\nthird: {store_records(page)}end: vmmcall"
    guest = l1.guest(code, vmcb=RECORDING)
    saved = branch(guest["jump"], guest["there"])
    assert guest.run().reached("there", dbgctl=LBR, fields=saved)
    off = guest.resume("second", lbr_virt_enable=0)
    assert off.reached("second_to", dbgctl=unchanged, fields=dict.fromkeys(PRESET, unchanged))

    on = guest.resume("third", lbr_virt_enable=1, run={"read": {"l2": stored(page)}})

    assert on.reached("end", dbgctl=LBR, fields=saved)
    assert are(l1, "L2's", records(on.memory["l2"]), {"dbgctl": LBR} | saved)


@clause("lbrvirt.toggled")
@pytest.mark.parametrize("dbgctl", [0, LBR], ids=["off", "lbr"])
def test_turned_on_at_a_later_vmrun(l1, dbgctl):
    """Off, on, off: what the VMCB holds is loaded when the bit is first set, not what was there before."""
    guest = l1.guest(f"vmmcall\n{JUMP}vmmcall\nthird: nop\nend: vmmcall", vmcb=RECORDING | {"lbr_virt_enable": 0})
    assert guest.run().ran
    on = guest.resume("jump", lbr_virt_enable=1, dbgctl=dbgctl, **PRESET)
    assert on.reached("there", dbgctl=dbgctl, fields=branch(guest["jump"], guest["there"]) if dbgctl else PRESET_KEPT)

    off = guest.resume("third", lbr_virt_enable=0, dbgctl=LBR, **OTHERS)

    assert off.reached("end", dbgctl=LBR, fields=OTHERS)


@clause("lbrvirt.toggled")
def test_l1_keeps_its_own_while_it_toggles(l1):
    """L1's records after a run with the bit set and one without: those of L1, as L2 has no branch in the second."""
    guest = l1.guest(f"{JUMP}vmmcall\nnext: nop\nend: vmmcall", vmcb=RECORDING)
    assert guest.run().reached("there", fields=branch(guest["jump"], guest["there"]))
    guest.vmcb.update({"rip": guest["next"], "lbr_virt_enable": 0})

    ran = between(l1, guest, debugctl=LBR)

    assert ran.exit.reached("end")
    assert are(l1, "after #VMEXIT, L1's", ran.after, {"dbgctl": LBR} | own_records(ran.exit))


@clause("lbrvirt.invalid_keeps_l1s")
@OWN_DEBUGCTL
def test_refused_vmrun_leaves_l1s_records(l1, debugctl):
    """ASID 0: L1 has its five registers as before, and nothing of the VMCB's."""
    guest = l1.guest("vmmcall", vmcb=RECORDING | {"dbgctl": LBR - debugctl, "asid": 0})

    ran = between(l1, guest, debugctl=debugctl)

    assert ran.exit.is_invalid
    assert are(l1, "after VMEXIT_INVALID, L1's", ran.after, {"dbgctl": debugctl} | own_records(ran.exit))


@clause("lbrvirt.no_vmsave_state")
def test_vmsave_writes_no_records(l1):
    """L1 has LBR set and records; VMSAVE leaves 670h to 697h of its page as they were."""
    need_branch_records(l1)
    page = l1.scratch()
    l1.fill(page, 0x1000, 0x5A)
    code = f"{set_debugctl(LBR)}jmp there\nnop\nthere: mov eax, {page:#x}\nvmsave\n{set_debugctl(0)}"

    assert l1.code(code).returned
    assert l1.expect("670h to 697h are as they were after VMSAVE", l1.read(page + 0x670, 0x28) == b"\x5a" * 0x28, True)


@clause("lbrvirt.no_vmsave_state")
def test_vmload_loads_no_records(l1):
    """The page's 670h to 697h do not reach L1's registers."""
    need_branch_records(l1)
    page, kept = l1.scratch(), l1.scratch()
    fill = "".join(f"mov dword ptr ds:[{page + at:#x}], {at + 0x1000:#x}\n" for at in range(0x670, 0x698, 4))
    code = (
        f"{set_debugctl(LBR)}jump: jmp there\nnop\nthere: mov eax, {page:#x}\nvmsave\n{fill}vmload\n"
        f"{store_records(kept)}{set_debugctl(0)}"
    )

    result = l1.code(code)

    assert result.returned
    wanted = {"dbgctl": LBR} | addresses({"br_from": result["jump"], "br_to": result["there"]})
    assert are(l1, "after VMLOAD, L1's", records(l1.read(*stored(kept))), wanted)


STACK = {"dbgextnctl": 0x40, "lbr_select": 0x1FF, "lbr_stack": int.from_bytes(bytes(range(1, 129)) * 2, "little")}


@clause("lbrvirt.stack_absent")
@pytest.mark.parametrize("lbr_virt_enable", [0, 1], ids=["disabled", "enabled"])
def test_stack_fields_are_ignored(l1, lbr_virt_enable):
    """698h, A70h to B77h: L2 runs, and not a byte of them changes."""
    guest = l1.guest(f"{JUMP}vmmcall", vmcb=RECORDING | STACK | {"lbr_virt_enable": lbr_virt_enable})

    assert guest.run().reached("there", fields=dict.fromkeys(STACK, unchanged))


READ_STACK = "mov ecx, 0xC000010F\nrdmsr\nmov ebx, eax\nmov ecx, 0xC000010E\nrdmsr\nmov esi, eax\nend: vmmcall"


@clause("lbrvirt.stack_switched")
def test_stack_registers_are_loaded(l1):
    """DebugExtnCtl and the selection are those of the VMCB in L2, and stand there after the exit."""
    values = {"dbgextnctl": 0, "lbr_select": 0x5}
    guest = l1.guest(READ_STACK, vmcb=RECORDING | values)

    exit = guest.run()

    assert exit.reached("end", fields=values, regs={"rbx": 0, "rsi": masked(5, 0x1FF)})


@clause("lbrvirt.vmexit_saves")
def test_upper_bits_may_vary(l1):
    """All ones in the four: bits 56:0 come back."""
    ones = dict.fromkeys(ADDRESSES, (1 << 64) - 1)
    exit = l1.guest("nop\nend: vmmcall", vmcb=RECORDING | ones).run()

    assert exit.reached("end", fields=dict.fromkeys(ADDRESSES, address((1 << 64) - 1)))
