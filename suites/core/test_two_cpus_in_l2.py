"""Two processors of L1 in L2 at the same time, under one ASID.

An ASID is a processor's own: the TLBs of two processors have nothing in common, and L1 may use the same numbers on each
(APM2 15.5.1, 15.16). Both guests wait for each other in L2, then read, over and over, a linear address that each maps
to a page of its own. An L0 that keeps translations, tables or a VMCB's state by the ASID for all of L1 at once lets one
guest look into the other's memory.
"""

import pytest

from harness import VMEXIT, clause
from harness.scenario import steps
from suites.lib.tlb_maps import AT_HERE, AT_THERE, OFFSET, THERE, FarPage
from suites.lib.tlb_maps import FAR as LINEAR

ROUNDS = 20_000
WAIT_MAX = 20_000_000  # a bound; the other guest is there long before
# RDI: this guest's flag, RSI: the other's. R8: rounds in which another byte than AL at first was read. R9: it has met.
CODE = f"""
    mov dword ptr [rdi], 1
    mov ecx, {WAIT_MAX}
wait:
    cmp dword ptr [rsi], 1
    je met
    pause
    dec ecx
    jnz wait
    jmp end
met:
    inc r9
    mov al, [rbx]
    mov ecx, {ROUNDS}
again:
    invlpg [rbx]
    cmp al, [rbx]
    je same
    inc r8
same:
    dec ecx
    jnz again
end: vmmcall
"""


def _guest(l1, flag, other, np):
    guest = l1.guest(CODE, np=np, vmcb={"asid": 1, "tlb_control": 1})
    guest.regs.update({"rbx": LINEAR + OFFSET, "rdi": flag, "rsi": other, "r8": 0, "r9": 0})
    return guest


@clause("core.tlb.two_cpus_one_asid")
@pytest.mark.two_cpus
@pytest.mark.parametrize("np", [False, True], ids=["np_off", "np_on"])
def test_each_sees_its_own(l1, np):
    """The first is L2 of this processor, the second of the other one; both have ASID 1."""
    if np:
        l1.need("NP")
    flags = l1.scratch(2)
    here, there = _guest(l1, flags, flags + 0x1000, np), _guest(l1, flags + 0x1000, flags, np)
    mine, other = FarPage(l1), FarPage(l1)
    mine.place(here)
    other.place(there, target=THERE)
    here.vmcb["cr3"], there.vmcb["cr3"] = mine.base, other.base
    own_rip = there.vmcb["rip"]
    there.vmcb["rip"] = there["end"]
    placed = there.run(cpu=1)  # its memory is written, and it has been in L2 once
    assert placed.reached("end")
    image = placed.vmcb.copy()
    image.update({"rip": own_rip, "rax": 0, "clean": 0})
    l1.write(there.vmcb_pa, bytes(image.data))

    with l1.on_second_cpu([steps.vmrun(there.vmcb_pa, steps.VmrunFlag.IF, dict(there.regs), 2_000_000)]) as second:
        exit = here.run(watchdog_us=2_000_000, probes=False)
    answer = steps.decode_vmrun(second.answers[0])
    rax = int.from_bytes(l1.read(there.vmcb_pa + 0x5F8, 8), "little")
    code = int.from_bytes(l1.read(there.vmcb_pa + 0x70, 4), "little")

    assert exit.reached("end", rax=AT_HERE, regs={"r8": 0, "r9": 1})
    assert l1.expect("EXITCODE[31:0] on the other processor", code, VMEXIT.VMMCALL, width_bytes=4)
    assert l1.expect("the byte that the other guest read", rax, AT_THERE)
    for name, wanted in (("r8", 0), ("r9", 1)):
        assert l1.expect(f"{name.upper()} of the other guest", answer.registers.get(name, there.regs[name]), wanted)
