"""What #VMEXIT writes into the VMCB's save area: the state of L2 at that moment.

Hardware writes back what VMRUN loads: ES, CS, SS, DS, GDTR, IDTR, CPL, EFER, CR0, CR2, CR3, CR4, DR6, DR7, RFLAGS, RIP,
RSP and RAX, each with the value that L2 gave it, and of the control area V_IRQ, V_TPR and the interrupt shadow
(APM2 15.6). A wrong L0 writes back what L1 put there, or what it keeps for its own use: shadow page tables in CR3, bits
of CR0 and CR4 that only the host needs, EFER as the hardware has it.
"""

import struct

import pytest

from harness import VMEXIT, clause, masked
from suites.lib.event_tables import with_handlers

CR0_TS, CR4_PGE = 1 << 3, 1 << 7
FLAGS = 0xCD5  # CF PF AF ZF SF DF OF

# The attributes that the CPU observes (15.5.1). It need not keep the others: CS comes back without its G bit on parts
# of 2014 (KVM's svm_get_segment() mends that), and P is not to be asked of CS.
_D, _L, _P, _DPL, _DATA_OR_CODE, _E, _W_OR_R = 1 << 10, 1 << 9, 1 << 7, 3 << 5, 1 << 3, 1 << 2, 1 << 1
OBSERVED = {
    "cs": _D | _L | _W_OR_R,
    "ss": _D | _P | _DATA_OR_CODE | _E | _W_OR_R,
    "ds": _D | _P | _DPL | _DATA_OR_CODE | _E | _W_OR_R,
    "es": _D | _P | _DPL | _DATA_OR_CODE | _E | _W_OR_R,
}


def descriptor(base, limit, attrib):
    """A GDT entry from the VMCB's way of writing it."""
    return (
        limit & 0xFFFF
        | (base & 0xFF_FFFF) << 16
        | (attrib & 0xFF) << 40
        | (limit >> 16 & 0xF) << 48
        | (attrib >> 8 & 0xF) << 52
        | (base >> 24 & 0xFF) << 56
    )


DATA = {"base": 0x0034_5000, "limit": 0x1_2345, "attrib": 0x593}  # byte granular, 32-bit, AVL, present, accessed
GDT32 = (0, descriptor(0, 0xF_FFFF, 0xC9B), descriptor(0, 0xF_FFFF, 0xC93), descriptor(**DATA))
GDT32 += (descriptor(0, 0xF_FFFF, 0xC99),)  # 20h: code that cannot be read
GDT64 = (0, descriptor(0, 0xF_FFFF, 0xA9B), descriptor(0, 0xF_FFFF, 0xC93), 0, 0)
GDT64 += (descriptor(0, 0xF_FFFF, 0xCF3), descriptor(0, 0xF_FFFF, 0xAFB))  # 2Bh, 33h: data and code of CPL 3


def with_gdt(l1, guest, entries):
    """Gives the guest a GDT of its own."""
    gdt = l1.scratch(1)
    guest.write(gdt, struct.pack(f"<{len(entries)}Q", *entries))
    guest.vmcb.update({"gdtr.base": gdt, "gdtr.limit": 8 * len(entries) - 1})
    return guest


@clause("core.exit.saves_state")
@pytest.mark.parametrize(
    ("change", "saved"),
    [
        pytest.param("mov rax, 0x1122334455667788", {"rax": 0x1122_3344_5566_7788}, id="rax"),
        pytest.param("mov rsp, 0x1122334455667788", {"rsp": 0x1122_3344_5566_7788}, id="rsp"),
        pytest.param("sub rsp, 0x80", {}, id="rip"),
        pytest.param(f"push {FLAGS | 2}\npopfq", {"rflags": FLAGS | 2}, id="rflags_set"),
        pytest.param("push 2\npopfq", {"rflags": 2}, id="rflags_clear"),
        pytest.param("mov rax, 0x1234567890\nmov cr2, rax", {"cr2": 0x12_3456_7890}, id="cr2"),
        pytest.param("mov rax, 0xffff0ff5\nmov dr6, rax", {"dr6": 0xFFFF_0FF5}, id="dr6"),
        pytest.param("mov rax, 0x00050400\nmov dr7, rax", {"dr7": 0x0005_0400}, id="dr7"),
        pytest.param("mov ecx, 0xc0000080\nrdmsr\nor eax, 1\nwrmsr", {"efer": masked(0x1501, 0x1501)}, id="efer_sce"),
    ],
)
def test_register_that_l2_changed(l1, change, saved):
    guest = l1.guest(f"{change}\nend: vmmcall")

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"], fields=saved)


@clause("core.exit.saves_state")
@pytest.mark.parametrize("at_entry", [0, CR0_TS], ids=["set", "clear"])
def test_cr0_bit_that_l2_turned(l1, at_entry):
    """TS, which nothing else here depends on."""
    guest = l1.guest(f"mov rax, cr0\nxor rax, {CR0_TS}\nmov cr0, rax\nend: vmmcall")
    guest.vmcb["cr0"] |= at_entry
    wanted = guest.vmcb["cr0"] ^ CR0_TS

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"], cr0=wanted, rax=wanted)


@clause("core.exit.saves_state")
@pytest.mark.parametrize("at_entry", [0, CR4_PGE], ids=["set", "clear"])
def test_cr4_bit_that_l2_turned(l1, at_entry):
    """PGE. The rest of CR4 is as L1 wrote it: none of what the host keeps set shows."""
    guest = l1.guest(f"mov rax, cr4\nxor rax, {CR4_PGE}\nmov cr4, rax\nend: vmmcall")
    guest.vmcb["cr4"] |= at_entry
    wanted = guest.vmcb["cr4"] ^ CR4_PGE

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"], cr4=wanted, rax=wanted)


@clause("core.exit.saves_state")
@pytest.mark.parametrize("np", [False, True], ids=["np_off", "np_on"])
def test_cr3_that_l2_loaded(l1, np):
    """Its own page tables, not those that L0 made for it."""
    if np:
        l1.need("NP")
    guest = l1.guest("mov rax, cr3\nor rax, 8\nmov cr3, rax\nend: vmmcall", np=np)
    wanted = guest.vmcb["cr3"] | 8

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"], cr3=wanted)


@clause("core.exit.saves_state")
def test_cr3_without_paging(l1):
    """Protected mode without paging: CR3 holds what L2 wrote and is not used."""
    guest = l1.guest("mov eax, 0x12345000\nmov cr3, eax\nend: vmmcall", mode="prot32")

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"], cr3=0x1234_5000)


@clause("core.exit.saves_state")
@pytest.mark.parametrize("segment", ["es", "ds", "ss"])
def test_data_segment_that_l2_loaded(l1, segment):
    """Selector, base, limit, and the attributes that count."""
    guest = with_gdt(l1, l1.guest(f"mov eax, 0x18\nmov {segment}, ax\nnop\nend: vmmcall", mode="prot32"), GDT32)
    saved = {f"{segment}.selector": 0x18} | {f"{segment}.{part}": value for part, value in DATA.items()}
    saved[f"{segment}.attrib"] = masked(DATA["attrib"], OBSERVED[segment])

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"], fields=saved)


@clause("core.exit.saves_state")
def test_code_segment_that_l2_loaded(l1):
    """A far return into a segment that differs in its selector and in R, which is clear."""
    guest = l1.guest("push 0x20\npush offset end\nretf\nnop\nend: vmmcall", mode="prot32")
    with_gdt(l1, guest, GDT32)
    attributes = masked(0xC99, OBSERVED["cs"])
    saved = {"cs.selector": 0x20, "cs.attrib": attributes, "cs.limit": 0xFFFF_FFFF, "cs.base": 0}

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"], fields=saved)


@clause("core.exit.saves_state")
@pytest.mark.parametrize("register", ["gdtr", "idtr"])
def test_table_register_that_l2_loaded(l1, register):
    guest = l1.guest(f"{'lgdt' if register == 'gdtr' else 'lidt'} [ebx]\nend: vmmcall", mode="prot32")
    operand = l1.scratch(1)
    guest.regs["rbx"] = operand
    guest.write(operand, struct.pack("<HI", 0x1234, 0x0056_7890))
    saved = {f"{register}.limit": 0x1234, f"{register}.base": 0x0056_7890}

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"], fields=saved)


@clause("core.exit.saves_state")
def test_privilege_level_that_l2_went_to(l1):
    """From CPL 0 to CPL 3 by IRETQ; VMMCALL asks for no privilege."""
    guest = l1.guest("mov rax, rsp\npush 0x2b\npush rax\npush 2\npush 0x33\npush offset end\niretq\nnop\nend: vmmcall")
    with_gdt(l1, guest, GDT64)
    saved = {"cs.selector": 0x33, "ss.selector": 0x2B}

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"], cpl=3, fields=saved)


@clause("core.exit.saves_v_irq_v_tpr")
@pytest.mark.parametrize("value", [0, 1, 7, 15])
def test_v_tpr_that_l2_wrote(l1, value):
    """MOV CR8 with V_INTR_MASKING=1 writes V_TPR, of which bits 3:0 count."""
    guest = l1.guest(f"mov eax, {value}\nmov cr8, rax\nend: vmmcall", vmcb={"v_tpr": value ^ 0xF})

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"], v_tpr=masked(value, 0xF))


@clause("core.exit.saves_v_irq_v_tpr")
@pytest.mark.parametrize("vector", [0x20, 0xFE])
def test_v_irq_that_was_not_taken_stays(l1, vector):
    """L2 has interrupts off: V_IRQ and the vector are still there."""
    guest = l1.guest("nop\nend: vmmcall", vmcb={"v_irq": 1, "v_intr_prio": 0xF, "v_intr_vector": vector})

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"], v_irq=1, v_intr_vector=vector)


@clause("core.exit.saves_v_irq_v_tpr")
@pytest.mark.parametrize(("rflags", "enable"), [(0x202, "nop"), (0x2, "sti")], ids=["if_from_vmcb", "if_by_sti"])
@pytest.mark.parametrize("vector", [0x20, 0x3F], ids=lambda vector: f"vector{vector:02x}")
def test_v_irq_that_was_taken_is_clear(l1, vector, rflags, enable):
    """L2 has interrupts on, from VMRUN or by its own STI: the handler is reached and V_IRQ is gone."""
    guest = l1.guest(f"{enable}\nnop\nnop\nvmmcall\nhandler: vmmcall")
    with_handlers(l1, guest, guest["handler"], vectors=64)
    guest.vmcb.update({"rflags": rflags, "v_irq": 1, "v_intr_prio": 0xF, "v_intr_vector": vector})

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["handler"], v_irq=0)


@clause("core.exit.saves_interrupt_shadow")
@pytest.mark.parametrize(
    ("code", "shadow"),
    [
        pytest.param("sti\nend: vmmcall", 1, id="sti"),
        pytest.param("sti\nnop\nend: vmmcall", 0, id="sti_nop"),
        pytest.param("xor eax, eax\nmov ss, eax\nend: vmmcall", 1, id="mov_ss"),
        pytest.param("xor eax, eax\nmov ss, eax\nnop\nend: vmmcall", 0, id="mov_ss_nop"),
        pytest.param("nop\nend: vmmcall", 0, id="no_shadow"),
    ],
)
def test_interrupt_shadow_at_the_exit(l1, code, shadow):
    """The shadow of STI (with IF clear before) and of MOV SS lasts for one instruction."""
    guest = l1.guest(code)

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"], interrupt_shadow=shadow)


@clause("core.exit.saves_interrupt_shadow")
@pytest.mark.parametrize("at_entry", [0, 1], ids=["clear_at_entry", "set_at_entry"])
def test_interrupt_shadow_is_over_after_one_instruction(l1, at_entry):
    """What VMRUN loaded does not linger in the VMCB."""
    guest = l1.guest("nop\nend: vmmcall", vmcb={"interrupt_shadow": at_entry, "rflags": 0x202})

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"], interrupt_shadow=0)
