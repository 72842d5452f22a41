"""The INTR intercept and what masks a physical interrupt while L2 runs.

An interrupt that L2 would take ends L2 before its next instruction; it is not acknowledged, and L1 takes it once GIF
and IF let it (APM2 15.13.1). With V_INTR_MASKING=0 L2's IF masks it, with 1 the IF that L1 had at VMRUN (15.21.1).
A wrong L0 looks at the wrong IF, so that L2 can shut out L1's interrupts, or swallows the interrupt with the exit.
"""

import pytest

from harness import VMEXIT, any_of, clause, masked
from suites.lib.event_guest import MODES
from suites.lib.interrupts import taken, taken_after_stgi

VECTOR = 0x61
IF = 0x200
OFF, ON = 0x002, 0x202


@clause("core.interrupts.intr_exit")
@pytest.mark.parametrize("masking", [0, 1], ids=["masking0", "masking1"])
@pytest.mark.parametrize("mode", MODES)
def test_pending_interrupt_ends_l2_before_its_first_instruction(l1, mode, masking):
    """L2's INC is not executed, and its stack is as it was."""
    guest = l1.guest(
        "start: inc bx\nvmmcall", mode=mode, vmcb={"v_intr_masking": masking, "rflags": ON}, regs={"rbx": 0x1234}
    )
    guest.raise_interrupt(VECTOR)
    rsp = guest.vmcb["rsp"]

    exit = guest.run()

    assert exit.matches(code=VMEXIT.INTR, rip=guest["start"], rsp=rsp, rflags=masked(IF, IF), regs={"rbx": 0x1234})
    assert taken_after_stgi(l1, exit, VECTOR)


@clause("core.interrupts.intr_exit")
@pytest.mark.parametrize("vector", [0x30, 0x3F, 0x80, 0xEF], ids=lambda vector: f"{vector:02x}")
def test_interrupt_of_any_vector(l1, vector):
    """The exit does not say the vector: L1 learns it when it takes the interrupt."""
    guest = l1.guest("start: nop\nvmmcall", vmcb={"v_intr_masking": 0, "rflags": ON})
    guest.raise_interrupt(vector)

    exit = guest.run(host_if=False)

    assert exit.matches(code=VMEXIT.INTR, rip=guest["start"])
    assert taken_after_stgi(l1, exit, vector)


@clause("core.interrupts.intr_exit")
@pytest.mark.parametrize("np", [False, True], ids=["np0", "np1"])
@pytest.mark.parametrize("cpl", [0, 3], ids=["cpl0", "cpl3"])
def test_interrupt_ends_l2_at_any_cpl(l1, np, cpl):
    """With and without nested paging."""
    if np:
        l1.need("NP")
    guest = l1.guest("start: nop\nvmmcall", np=np, cpl=cpl, vmcb={"v_intr_masking": 0, "rflags": ON})
    guest.raise_interrupt(VECTOR)

    exit = guest.run(host_if=False)

    assert exit.matches(code=VMEXIT.INTR, rip=guest["start"], cpl=cpl)
    assert taken_after_stgi(l1, exit, VECTOR)


@clause("core.interrupts.intr_exit")
def test_interrupt_that_stays_pending_ends_each_run(l1):
    """L1 does not take it between two VMRUNs: the second ends like the first."""
    guest = l1.guest("start: nop\nvmmcall", vmcb={"v_intr_masking": 0, "rflags": ON})
    l1.raise_interrupt(VECTOR)
    first = guest.run(host_if=False, drain=False)
    first_ok = first.matches(code=VMEXIT.INTR, rip=guest["start"])

    second = guest.run(host_if=False)

    assert first_ok
    assert l1.expect("how often L1 took it between the two", len(taken(first, VECTOR)), 0)
    assert second.matches(code=VMEXIT.INTR, rip=guest["start"])
    assert taken_after_stgi(l1, second, VECTOR)


@clause("core.interrupts.intr_exit")
@pytest.mark.parametrize("end", ["vmmcall", "cpuid"])
def test_nothing_pending_is_no_exit(l1, end):
    """The near miss: L2 with interrupts on runs to its end."""
    guest = l1.guest(f"nop\nend: {end}", intercept=["cpuid"], vmcb={"v_intr_masking": 0, "rflags": ON})

    code = VMEXIT.CPUID if end == "cpuid" else VMEXIT.VMMCALL
    assert guest.run(host_if=True).matches(code=code, rip=guest["end"])


# Code that begins with IF=0 and sets it. RIP at the exit is `first`, or `open` if the shadow of STI holds.
OPENINGS = {
    "sti": "nop\nsti\nfirst: nop\nopen: nop\nvmmcall",
    "popf": "pushfq\nor dword ptr [rsp], 0x200\npopfq\nfirst:\nopen: nop\nvmmcall",
    "iretq": "mov rax, rsp\nmov ecx, ss\npush rcx\npush rax\npush 0x202\nmov ecx, cs\npush rcx\nlea rax, [rip + open]\n"
    "push rax\niretq\nint3\nfirst:\nopen: nop\nvmmcall",
}


def _flat_gdt(l1, guest):
    gdt = l1.scratch(1)
    entries = [0, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF, 0]
    guest.write(gdt, b"".join(entry.to_bytes(8, "little") for entry in entries))
    guest.vmcb.update(
        {"gdtr.base": gdt, "gdtr.limit": 31, "cs.selector": 8, "ss.selector": 16, "ds.selector": 16, "es.selector": 16}
    )


@clause("core.interrupts.masked_by_guest_if")
@pytest.mark.parametrize("host_if", [False, True], ids=["hostif0", "hostif1"])
@pytest.mark.parametrize("opening", OPENINGS)
def test_interrupt_waits_for_l2_to_set_if(l1, opening, host_if):
    """V_INTR_MASKING=0. The interrupt is pending from the start."""
    guest = l1.guest(OPENINGS[opening], vmcb={"v_intr_masking": 0, "rflags": OFF})
    _flat_gdt(l1, guest)
    guest.raise_interrupt(VECTOR)

    exit = guest.run(host_if=host_if)

    assert exit.matches(code=VMEXIT.INTR, rip=any_of(guest["first"], guest["open"]), rflags=masked(IF, IF))
    assert taken_after_stgi(l1, exit, VECTOR)


@clause("core.interrupts.masked_by_guest_if")
@pytest.mark.parametrize("host_if", [False, True], ids=["hostif0", "hostif1"])
@pytest.mark.parametrize("mode", MODES)
def test_interrupt_is_masked_by_l2s_if(l1, mode, host_if):
    """V_INTR_MASKING=0 and L2's IF=0 to its end."""
    guest = l1.guest("nop\nnop\nend: vmmcall", mode=mode, vmcb={"v_intr_masking": 0, "rflags": OFF})
    guest.raise_interrupt(VECTOR)

    exit = guest.run(host_if=host_if)

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"])
    assert taken_after_stgi(l1, exit, VECTOR)


@clause("core.interrupts.masked_by_guest_if")
def test_l2_masks_again(l1):
    """CLI right after STI: the shadow covers it, and IF is 0 again before the interrupt is looked for."""
    guest = l1.guest("sti\nshadow: cli\nnop\nend: vmmcall", vmcb={"v_intr_masking": 0, "rflags": OFF})
    guest.raise_interrupt(VECTOR)

    exit = guest.run(host_if=True)

    if exit.code == VMEXIT.INTR:  # an intercepted interrupt need not wait for the shadow to end
        assert exit.matches(rip=guest["shadow"])
    else:
        assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"])
    assert taken_after_stgi(l1, exit, VECTOR)


@clause("core.interrupts.masked_by_host_if")
@pytest.mark.parametrize("rflags", [OFF, ON], ids=["guestif0", "guestif1"])
@pytest.mark.parametrize("mode", MODES)
def test_interrupt_ends_l2_by_l1s_if(l1, mode, rflags):
    """V_INTR_MASKING=1 and L1's IF=1: L2's IF says nothing."""
    guest = l1.guest("start: nop\nnop\nvmmcall", mode=mode, vmcb={"v_intr_masking": 1, "rflags": rflags})
    guest.raise_interrupt(VECTOR)

    exit = guest.run(host_if=True)

    assert exit.matches(code=VMEXIT.INTR, rip=guest["start"], rflags=masked(rflags, IF))
    assert taken_after_stgi(l1, exit, VECTOR)


@clause("core.interrupts.masked_by_host_if")
@pytest.mark.parametrize("rflags", [OFF, ON], ids=["guestif0", "guestif1"])
@pytest.mark.parametrize("mode", MODES)
def test_interrupt_is_masked_by_l1s_if(l1, mode, rflags):
    """V_INTR_MASKING=1 and L1's IF=0."""
    guest = l1.guest("nop\nnop\nend: vmmcall", mode=mode, vmcb={"v_intr_masking": 1, "rflags": rflags})
    guest.raise_interrupt(VECTOR)

    exit = guest.run(host_if=False)

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"], rflags=masked(rflags, IF))
    assert taken_after_stgi(l1, exit, VECTOR)


# What L2 does to its IF, and what IF is then.
CHANGES = {
    "sti": ("sti\nnop", OFF, ON),
    "cli": ("cli\nnop", ON, OFF),
    "sti_cli": ("sti\nnop\ncli\nnop", OFF, OFF),
    "cli_sti": ("cli\nnop\nsti\nnop", ON, ON),
    "popf_on": ("pushfq\nor dword ptr [rsp], 0x200\npopfq\nnop", OFF, ON),
    "popf_off": ("pushfq\nand dword ptr [rsp], ~0x200\npopfq\nnop", ON, OFF),
}


@clause("core.interrupts.guest_if_saved")
@pytest.mark.parametrize("change", CHANGES)
def test_l2_changes_its_own_if_only(l1, change):
    """V_INTR_MASKING=1 and L1's IF=0, with an interrupt pending: L2 is not interrupted by what it does to its IF."""
    code, before, after = CHANGES[change]
    guest = l1.guest(f"{code}\nend: vmmcall", vmcb={"rflags": before})
    guest.raise_interrupt(VECTOR)

    exit = guest.run(host_if=False)

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"], rflags=masked(after, IF))
    assert taken_after_stgi(l1, exit, VECTOR)


@clause("core.interrupts.guest_if_saved")
@pytest.mark.parametrize("masking", [0, 1], ids=["masking0", "masking1"])
@pytest.mark.parametrize("change", CHANGES)
def test_l1_keeps_its_if(l1, change, masking):
    """Nothing is pending. L1 had IF=1 and has it again, which the universal check of L1's RFLAGS sees."""
    code, before, after = CHANGES[change]
    guest = l1.guest(f"{code}\nend: vmmcall", vmcb={"rflags": before, "v_intr_masking": masking})

    assert guest.run(host_if=True).matches(code=VMEXIT.VMMCALL, rip=guest["end"], rflags=masked(after, IF))


@clause("core.interrupts.wakes_hlt")
@pytest.mark.parametrize("masking", [0, 1], ids=["masking0", "masking1"])
@pytest.mark.parametrize("mode", ["long64", "prot32", "real16"])
def test_interrupt_wakes_hlt(l1, mode, masking):
    """The executor's timer ends the wait. L2's IF and L1's are both set."""
    guest = l1.guest("nop\nhlt\nafter: nop\nvmmcall", mode=mode, vmcb={"v_intr_masking": masking, "rflags": ON})

    assert guest.run(host_if=True, watchdog_us=30_000).matches(code=VMEXIT.INTR, rip=guest["after"])


@clause("core.interrupts.nrip_zero")
@pytest.mark.parametrize("event", ["intr", "nmi", "vintr"])
def test_nrip_is_zero(l1, event):
    """No instruction is being executed when L2 is interrupted; POPF lets the maskable ones in."""
    guest = l1.guest(
        "start: push 0x202\npopfq\nopen: nop\nvmmcall",
        intercept=["nmi", "vintr"],
        vmcb={"v_intr_masking": 0, "rflags": OFF},
    )
    if event == "nmi":
        guest.setup("clgi")
        guest.raise_nmi()
    elif event == "intr":
        guest.raise_interrupt(VECTOR)
    else:
        guest.vmcb.update({"v_irq": 1, "v_intr_prio": 15, "v_intr_vector": VECTOR})
    code = {"intr": VMEXIT.INTR, "nmi": VMEXIT.NMI, "vintr": VMEXIT.VINTR}[event]
    rip = guest["start" if event == "nmi" else "open"]

    assert guest.run(host_if=False).matches(code=code, rip=rip, nrip=0)
