"""What #VMEXIT does with the VMCB's control area, and what stops applying to L1.

Hardware writes the exit fields, the virtual interrupt's state, the interrupt shadow and EVENTINJ.V, and leaves every
other control field as L1 wrote it. Inside the processor the intercepts, TSC_OFFSET, V_IRQ, V_INTR_MASKING and the ASID
go back to what the host has (APM2 15.6). A wrong L0 normalises the fields it keeps, such as TLB_CONTROL or N_CR3,
leaves an injected event to be injected again, or lets a control of L2 reach into L1.
"""

import pytest

from harness import VMEXIT, clause, masked, unchanged
from suites.lib.event_tables import with_handlers

CONTROL = {
    "intercept_dr_read": 0x0001, "intercept_dr_write": 0x0002, "pause_filter_count": 0x1234,
    "tsc_offset": 0x0123_4567_89AB_CDEF, "asid": 5, "tlb_control": 1, "v_intr_prio": 0xA, "v_ign_tpr": 1,
    "v_intr_vector": 0x5A, "n_cr3": 0x0012_3000,
}  # fmt: skip
EVERY_WORD = (
    "intercept_cr_read", "intercept_cr_write", "intercept_dr_read", "intercept_dr_write", "intercept_exceptions",
    "intercept_misc1", "intercept_misc2", "intercept_misc3", "pause_filter_count", "iopm_base_pa", "msrpm_base_pa",
    "tsc_offset", "asid", "tlb_control", "np_control", "n_cr3", "virt_ext", "clean", "v_intr_prio", "v_ign_tpr",
    "v_intr_masking", "v_intr_vector",
)  # fmt: skip


@clause("core.exit.control_area_untouched")
@pytest.mark.parametrize("exit_by", ["vmmcall", "cpuid", "hlt", "ud2"])
def test_control_fields_stay_as_l1_wrote_them(l1, exit_by):
    """Every field holds a value that an L0 would not choose itself; the maps carry low bits that VMRUN ignores."""
    guest = l1.guest(f"start: {exit_by}", intercept=["cpuid", "hlt", "cr3_read", "cr8_write"], vmcb=CONTROL)
    if l1.cpuid.nasid <= CONTROL["asid"]:
        guest.vmcb["asid"] = 1
    guest.vmcb["iopm_base_pa"] |= 0x123
    guest.vmcb["msrpm_base_pa"] |= 0xABC

    exit = guest.run()

    assert exit.matches(rip=guest["start"], **dict.fromkeys(EVERY_WORD, unchanged))


@clause("core.exit.control_area_untouched")
@pytest.mark.parametrize("clean", [0x001, 0x010, 0x020, 0x3FF], ids=lambda clean: f"clean{clean:03x}")
def test_clean_bits_stay_as_l1_wrote_them(l1, clean):
    """Set for a second run of a VMCB in which nothing was changed."""
    guest = l1.guest("start: vmmcall")
    assert guest.run().matches(code=VMEXIT.VMMCALL)
    guest.vmcb["clean"] = clean

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["start"], clean=unchanged)


@clause("core.exit.control_area_untouched")
def test_control_fields_stay_with_nested_paging(l1):
    """NP_ENABLE and N_CR3 in use."""
    l1.need("NP")
    guest = l1.guest("start: vmmcall", np=True, vmcb={"tlb_control": 1})

    exit = guest.run()

    assert exit.matches(code=VMEXIT.VMMCALL, np_control=unchanged, n_cr3=unchanged, tlb_control=unchanged)


@clause("core.exit.eventinj_v_clear")
@pytest.mark.parametrize("event", [0x8000_0040, 0x8000_0306, 0xDEAD_0000_8000_0B0D], ids=["intr", "ud", "gp_error"])
def test_injected_event_is_not_injected_again(l1, event):
    """V is clear after the exit, so that the next VMRUN goes on in the handler's code."""
    guest = l1.guest("start: vmmcall\nhandler: nop\nend: vmmcall")
    with_handlers(l1, guest, guest["handler"], vectors=128)
    guest.vmcb["eventinj"] = event

    first = guest.run()
    rsp = first.vmcb["rsp"]
    second = guest.run()

    assert first.matches(code=VMEXIT.VMMCALL, rip=guest["end"], eventinj=masked(0, 1 << 31))
    assert second.matches(code=VMEXIT.VMMCALL, rip=guest["end"], rsp=rsp)


@clause("core.exit.eventinj_v_clear")
def test_event_is_not_injected_again_after_a_fault_in_its_delivery(l1):
    """The delivery itself ended in an exit; the event is in EXITINTINFO now and no longer in EVENTINJ."""
    guest = l1.guest("start: vmmcall", vmcb={"eventinj": 0x8000_0040})

    exit = guest.run()

    assert exit.matches(code=VMEXIT.EXCP_GP, intinfo=masked(0x8000_0040, 0x8000_07FF), eventinj=masked(0, 1 << 31))


INTERCEPTS = [
    "cr0_read", "cr3_read", "cr4_read", "cr8_read", "cr2_write", "cr8_write", "dr7_read", "dr0_write", "sidt", "sgdt",
    "sldt", "str", "rdtsc", "pushf", "popf", "cpuid", "pause", "invlpg", "msr", "ioio", "stgi", "clgi", "vmsave",
    "vmload", "wbinvd", "rdtscp",
]  # fmt: skip
L1_USES_THEM = """
    mov rax, cr0
    mov rax, cr3
    mov rax, cr4
    mov rax, cr8
    mov cr8, rax
    mov rax, cr2
    mov cr2, rax
    mov rax, dr7
    mov rax, dr0
    mov dr0, rax
    sub rsp, 32
    sidt [rsp]
    sgdt [rsp]
    add rsp, 32
    sldt eax
    str eax
    rdtsc
    pushfq
    popfq
    pause
    invlpg [rbx]
    mov ecx, 0x174
    rdmsr
    in al, 0x80
    clgi
    stgi
    mov rax, rbx
    vmsave
    vmload
    wbinvd
    xor eax, eax
    cpuid
    mov r15d, 0x600d
"""


@clause("core.exit.intercepts_off")
@pytest.mark.parametrize("exit_by", ["vmmcall", "cpuid", "ud2"])
def test_no_intercept_of_l2_applies_to_l1(l1, exit_by):
    """L1 executes after the exit everything that it intercepts in L2, and comes to its end."""
    guest = l1.guest(f"start: {exit_by}", intercept=INTERCEPTS)
    guest.teardown(L1_USES_THEM, {"rbx": l1.scratch(1)})
    maps = l1.scratch(5)
    guest.write(maps, b"\xff" * 0x5000)
    guest.vmcb.update({"iopm_base_pa": maps, "msrpm_base_pa": maps + 0x3000})

    exit = guest.run()

    assert exit.matches(rip=guest["start"])
    assert exit.teardown.returned
    assert l1.expect("R15 at the end of L1's code", exit.teardown.reg("r15"), 0x600D)


def tsc(low, high):
    """RDTSC's result."""
    return (high & 0xFFFF_FFFF) << 32 | low & 0xFFFF_FFFF


@clause("core.exit.tsc_offset_off")
@pytest.mark.parametrize("offset", [1 << 40, -(1 << 40), 1 << 62], ids=["2^40", "-2^40", "2^62"])
def test_tsc_offset_does_not_reach_l1(l1, offset):
    """L2's time is away by the offset; L1's time before, and after, lies around L2's without it."""
    guest = l1.guest("rdtsc\nvmmcall", vmcb={"tsc_offset": offset & (1 << 64) - 1})
    guest.teardown("rdtsc")

    first = l1.code("rdtsc")
    exit = guest.run()

    before = tsc(first.reg("rax"), first.reg("rdx"))
    within = (tsc(exit.regs["rax"], exit.regs["rdx"]) - offset) & (1 << 64) - 1
    after = tsc(exit.teardown.reg("rax"), exit.teardown.reg("rdx"))
    assert exit.matches(code=VMEXIT.VMMCALL)
    assert l1.expect("L1's time goes forward by less than 2^39", before <= after < before + (1 << 39), True)
    assert l1.expect("L2's time less its offset lies between", before <= within <= after, True)


@clause("core.exit.v_intr_masking_off")
def test_cr8_of_l1_is_the_apics_again(l1):
    """L2 left 15 in V_TPR. L1's MOV CR8 shows in the local APIC's TPR."""
    guest = l1.guest("mov eax, 15\nmov cr8, rax\nvmmcall")
    guest.teardown(
        """
        mov ecx, 0x1b
        rdmsr
        mov r8d, eax
        test eax, 0x400
        jnz end
        and eax, 0xfffff000
        mov rbx, rax
        mov r9d, [rbx + 0x80]
        mov eax, 7
        mov cr8, rax
        mov r10d, [rbx + 0x80]
        xor eax, eax
        mov cr8, rax
        end:
        """
    )

    exit = guest.run()

    assert exit.matches(code=VMEXIT.VMMCALL, v_tpr=masked(15, 15))
    if exit.teardown.reg("r8") & 0x400:
        pytest.skip("L1's APIC is in x2APIC mode and has no page to read")
    assert l1.expect("APIC TPR after #VMEXIT", exit.teardown.reg("r9"), 0)
    assert l1.expect("APIC TPR after L1 moved 7 to CR8", exit.teardown.reg("r10"), 0x70)
