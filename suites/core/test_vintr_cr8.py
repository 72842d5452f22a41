"""CR8 in L2.

With V_INTR_MASKING=1 CR8 is V_TPR, and the local APIC's TPR stays L1's; with V_INTR_MASKING=0 CR8 is the local APIC's
TPR, and a write changes V_TPR too (APM2 15.21.2). An L0 that mixes the two lets L2 mask L1's interrupts, or shows L2
what L1 has masked.
"""

import pytest

from harness import VMEXIT, clause, masked, unchanged

READ_AND_WRITE = "mov rbx, cr8\nmov eax, {}\nmov cr8, rax\nmov rcx, cr8\nend: vmmcall"

LEVELS = [(0, 9, 15), (2, 9, 5), (15, 1, 3), (4, 7, 11)]  # L1's TPR, V_TPR at VMRUN, what L2 writes


def _with_tpr(l1, code, tpr, **vmcb):
    """L1's own CR8 is `tpr` at VMRUN."""
    guest = l1.guest(code, vmcb=vmcb)
    guest.setup("mov cr8, rax", {"rax": tpr})
    guest.teardown("xor eax, eax\nmov cr8, rax")
    return guest


def _run(l1, guest, **run):
    exit = guest.run(**run)
    l1.window()  # takes what L1's TPR has masked until now
    return exit


@clause("core.vintr.cr8_is_v_tpr")
@pytest.mark.parametrize(("own", "v_tpr", "value"), LEVELS, ids=["own0", "own2", "own15", "own4"])
def test_cr8_is_v_tpr(l1, own, v_tpr, value):
    """L1's TPR, V_TPR, and what L2 writes all differ."""
    guest = _with_tpr(l1, READ_AND_WRITE.format(value), own, v_intr_masking=1, v_tpr=v_tpr)

    exit = _run(l1, guest)

    assert exit.matches(
        code=VMEXIT.VMMCALL, rip=guest["end"], regs={"rbx": v_tpr, "rcx": value}, v_tpr=masked(value, 15)
    )
    assert exit.matches(host={"CR8": unchanged})


@clause("core.vintr.cr8_is_tpr")
@pytest.mark.parametrize(("own", "v_tpr", "value"), LEVELS, ids=["own0", "own2", "own15", "own4"])
def test_cr8_is_the_apics_tpr(l1, own, v_tpr, value):
    """L2 reads L1's TPR and not V_TPR, and what it writes is L1's TPR and V_TPR."""
    guest = _with_tpr(l1, READ_AND_WRITE.format(value), own, v_intr_masking=0, v_tpr=v_tpr)

    exit = _run(l1, guest)

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"], regs={"rbx": own, "rcx": value}, v_tpr=masked(value, 15))
    assert exit.matches(host={"CR8": value})


@clause("core.vintr.cr8_is_tpr", "core.interrupts.intr_exit")
@pytest.mark.parametrize(("low", "opens"), [(5, True), (6, False)], ids=["below", "same_class"])
def test_l2s_tpr_masks_physical_interrupts(l1, low, opens):
    """V_INTR_MASKING=0. An interrupt of class 6 is masked by L1's CR8, which is 15, until L2 lowers it to 5."""
    guest = _with_tpr(
        l1,
        f"nop\nnop\nmov eax, {low}\nmov cr8, rax\nopen: nop\nnop\nnop\nnop\nend: vmmcall",
        15,
        v_intr_masking=0,
        rflags=0x202,
    )
    guest.raise_interrupt(0x61)

    exit = _run(l1, guest, host_if=False)

    if opens:
        assert exit.matches(code=VMEXIT.INTR)
        assert l1.expect("RIP is behind the MOV that opened", guest["open"] <= exit.rip <= guest["end"], True)
    else:
        assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"])


@clause("core.vintr.cr8_is_v_tpr", "core.interrupts.intr_exit")
@pytest.mark.parametrize("value", [0, 15], ids=["tpr0", "tprf"])
def test_v_tpr_masks_no_physical_interrupt(l1, value):
    """V_INTR_MASKING=1 and L1's IF=1: L2's CR8 says nothing about an interrupt that is pending."""
    guest = l1.guest("start: nop\nnop\nvmmcall", vmcb={"v_tpr": value, "rflags": 0x202})
    guest.raise_interrupt(0x61)

    assert guest.run(host_if=True).matches(code=VMEXIT.INTR, rip=guest["start"])


@clause("core.vintr.cr8_reserved")
@pytest.mark.parametrize("bit", [4, 31, 63], ids=lambda bit: f"bit{bit}")
def test_reserved_bits_of_cr8_fault(l1, bit):
    """As without SVM: #GP(0), and V_TPR is what it was."""
    guest = l1.guest(f"movabs rax, {1 << bit | 5:#x}\nhere: mov cr8, rax\nvmmcall", vmcb={"v_tpr": 9})

    assert guest.run().matches(code=VMEXIT.EXCP_GP, rip=guest["here"], info1=0, v_tpr=masked(9, 15))


READ, WRITE = ".byte 0xF0, 0x0F, 0x20, 0xC0", ".byte 0xF0, 0x0F, 0x22, 0xC0"  # LOCK MOV EAX, CR0 and back


@clause("core.vintr.alternate_cr8")
@pytest.mark.parametrize("mode", ["prot32", "compat32", "real16"])
def test_lock_mov_cr0_is_cr8(l1, mode):
    """V_TPR is 9, and L2 makes it 6. CR0 is as it was."""
    guest = l1.guest(f"{READ}\nmov ebx, eax\nmov eax, 6\n{WRITE}\nend: vmmcall", mode=mode, vmcb={"v_tpr": 9})

    exit = guest.run()

    assert exit.matches(
        code=VMEXIT.VMMCALL, rip=guest["end"], regs={"rbx": masked(9, 0xFFFF_FFFF)}, v_tpr=masked(6, 15), cr0=unchanged
    )


@clause("core.vintr.alternate_cr8")
@pytest.mark.parametrize(
    ("code", "name", "exitcode"), [(READ, "read", 0x08), (WRITE, "write", 0x18)], ids=["read", "write"]
)
@pytest.mark.parametrize("number", [0, 8], ids=["cr0_intercept", "cr8_intercept"])
def test_lock_mov_cr0_obeys_cr8_intercepts(l1, number, code, name, exitcode):
    """The near miss is the intercept of CR0, which must not exit."""
    guest = l1.guest(
        f"mov eax, 5\nat: {code}\nend: vmmcall", mode="prot32", intercept=[f"cr{number}_{name}"], vmcb={"v_tpr": 9}
    )

    exit = guest.run()

    hit = number == 8
    assert exit.matches(code=exitcode if hit else VMEXIT.VMMCALL, rip=guest["at" if hit else "end"])
