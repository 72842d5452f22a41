"""What VMRUN turned on is off for L1 after every #VMEXIT.

#VMEXIT ends the intercepts, nested paging, the virtual interrupt, V_TPR with its masking and TSC_OFFSET, however L2
came to its end (APM2 15.6). L1 does here what all of them would touch, right behind VMRUN and before anything else. A
wrong L0 puts them back on the ways that it knows, and on the others, a refused VMRUN or a shutdown, L1 meets its own
intercepts, runs in L2's memory, or takes L2's interrupt.
"""

from harness import VMEXIT, cases, clause
from harness.svm.paging import P, U, W
from suites.lib.intercepting import UNMAPPED, set_all_but
from suites.lib.nested_maps import PAGES, Map

VECTOR, VIRTUAL = 0x61, 0x71
ICR, SELF = 0xFEE0_0300, 0x4_0000  # the destination shorthand of the APIC's ICR
SEND = f"mov r8d, {ICR:#x}\nmov dword ptr [r8], {SELF | VECTOR:#x}\n"
IF = 0x202
WAITING = "mov ecx, 1000\nmore: dec ecx\njnz more\nvmmcall"

# How L2 ends: its code, the exit code, and VMCB fields.
ENDS = {
    "vmmcall": ("vmmcall", VMEXIT.VMMCALL, {}),
    "cpuid": ("cpuid", VMEXIT.CPUID, {}),
    "hlt": ("hlt", VMEXIT.HLT, {}),
    "cr0": ("mov rax, cr0", VMEXIT.CR0_READ, {}),
    "io": ("in al, 0xe0", VMEXIT.IOIO, {}),
    "msr": ("mov ecx, 0x277\nrdmsr", VMEXIT.MSR, {}),
    "ud": ("ud2", VMEXIT.EXCP_UD, {}),
    "page_fault": (f"movabs al, [{UNMAPPED:#x}]", VMEXIT.EXCP_PF, {}),
    "nested_fault": ("mov al, [rdi]", VMEXIT.NPF, {}),
    "intr": (SEND + WAITING, VMEXIT.INTR, {"rflags": IF}),
    "vintr": ("sti\n" + WAITING, VMEXIT.VINTR, {"v_tpr": 0}),
    "shutdown": ("ud2", VMEXIT.SHUTDOWN, {"intercept_exceptions": 0, "idtr.limit": 0}),
    "invalid": ("nop", VMEXIT.INVALID, {"asid": 0}),
}
ALL = 0xFFFF_FFFF

# A shutdown that is not intercepted costs a boot, so that one test alone has it.
REST = [end for end in ENDS if end != "shutdown"]


class Loaded:
    """A guest with everything turned on. `page` leads to `other` in the nested tables; `hole` leads nowhere."""

    def __init__(self, l1, end):
        code, self.exitcode, fields = ENDS[end]
        self.l1, self.end = l1, end
        np = l1.cpuid.has("NP")
        if end == "nested_fault":
            l1.need("NP")
        self.page, self.other, self.hole = (l1.scratch(1) for _ in range(3))
        self.guest = l1.guest(code, np=np, regs={"rdi": self.hole})
        set_all_but(self.guest.vmcb, [])
        self.guest.vmcb["intercept_exceptions"] = ALL
        maps = l1.scratch(5)
        l1.fill(maps, 0x5000, 0xFF)
        self.guest.vmcb.update({"iopm_base_pa": maps, "msrpm_base_pa": maps + 0x3000, "tsc_offset": 1 << 61})
        self.guest.vmcb.update({"v_irq": 1, "v_intr_prio": 9, "v_intr_vector": VIRTUAL, "v_tpr": 15})
        if np:
            nested = Map(self.guest, l1.scratch(PAGES))
            nested.set(self.page, self.other | P | W | U)
            nested.set(self.hole, 0)
            self.guest.vmcb.update({"n_cr3": nested.base, "tlb_control": 1})
        self.guest.vmcb.update(fields)
        self.guest.write(self.page, (0x1111).to_bytes(8, "little"))
        self.guest.write(self.other, (0x2222).to_bytes(8, "little"))

    def run(self, code, handlers=None):
        """VMRUN, then `code` with GIF=0 and IF=0; then the window in which L1 takes what is still pending."""
        unmasked = "clgi\nsti\nnop\n" if self.end == "intr" else "clgi\n"
        text = f"{unmasked}vmrun\ncli\n{code}\nstgi\nsti\nnop\nnop\ncli"
        exit = self.guest.run_in(text, {"rbp": self.page}, handlers={VECTOR: "", VIRTUAL: ""} | (handlers or {}))
        assert exit.is_invalid if self.end == "invalid" else exit.matches(code=self.exitcode)
        return exit.l1


@clause("core.exit.intercepts_off")
@cases("end", list(ENDS))
def test_intercepts(l1, end):
    """Every word of intercepts is full, and both maps."""
    loaded = Loaded(l1, end)
    result = loaded.run(
        """
        mov rax, cr0
        mov cr0, rax
        smsw eax
        lmsw ax
        clts
        mov rax, cr2
        mov cr2, rax
        mov rax, cr3
        mov cr3, rax
        mov rax, cr4
        mov cr4, rax
        mov rax, cr8
        mov cr8, rax
        mov rax, dr0
        mov dr0, rax
        mov rax, dr6
        mov dr6, rax
        mov rax, dr7
        mov dr7, rax
        sub rsp, 32
        sidt [rsp]
        lidt [rsp]
        sgdt [rsp]
        lgdt [rsp]
        add rsp, 32
        sldt eax
        str eax
        rdtsc
        pushfq
        popfq
        pause
        invlpg [rbp]
        in al, 0xe0
        mov ecx, 0x277
        rdmsr
        wrmsr
        mov rax, rbp
        add rax, 0x1000
        xor ecx, ecx
        invlpga
        wbinvd
        clgi
        xor eax, eax
        cpuid
        mov r15d, 0x600d
        """,
    )

    assert result.returned
    assert l1.expect("R15 at the end of L1's code", result.reg("r15"), 0x600D)


SKIP = "push rax\nlea rax, [rip + behind]\nmov [rsp + {}], rax\npop rax"
NO_ERROR, WITH_ERROR = SKIP.format(8), SKIP.format(16)
PAGE_FAULT = f"mov rbx, {UNMAPPED:#x}\nat: mov [rbx], al\nbehind: nop"


@clause("core.exit.intercepts_off")
@cases("end", REST)
def test_page_fault_of_l1(l1, end):
    """L1 takes it itself, with CR2 and an error code of its own."""
    result = Loaded(l1, end).run(PAGE_FAULT, {14: WITH_ERROR})

    assert result.returned
    faults = [each for each in result.taken if each.vector == 14]
    assert l1.expect("how often L1 took #PF", len(faults), 1)
    assert l1.expect("its error code", faults[0].error, 2, width_bytes=4)
    assert l1.expect("its CR2", faults[0].cr2, UNMAPPED)
    assert l1.expect("its RIP", faults[0].rip, result["at"])


EXCEPTIONS = {
    "de": (0, "xor ecx, ecx\nat: div ecx", 0),
    "bp": (3, "int3\nat: nop", 0),
    "ud": (6, "at: ud2", 0),
    "nm": (7, "mov rax, cr0\nor eax, 8\nmov cr0, rax\nat: fld1", 0),
    "gp": (13, "movabs rax, 0x1000000000000000\nat: mov rax, [rax]", 1),
    "mf": (16, "push 0x37b\nfninit\nfldcw [rsp]\npop rax\nfld1\nfldz\nfdivp st(1), st\nat: fwait", 0),
}


@clause("core.exit.intercepts_off")
@cases("end", ["vmmcall", "ud", "invalid"])
@cases("vector, code, error", EXCEPTIONS)
def test_exception_of_l1(l1, vector, code, error, end):
    """All 32 exceptions are intercepted in L2, and L1's own reach L1's handler."""
    after = "behind: mov rax, cr0\nand eax, 0xfffffff7\nmov cr0, rax\nfninit"

    result = Loaded(l1, end).run(f"{code}\n{after}", {vector: WITH_ERROR if error else NO_ERROR})

    assert result.returned
    faults = [each for each in result.taken if each.vector == vector]
    assert l1.expect("how often L1 took the exception", len(faults), 1)
    assert l1.expect("its RIP", faults[0].rip, result["at"])


@clause("core.exit.nested_paging_off")
@cases("end", REST)
def test_nested_paging(l1, end):
    """L1 reads and writes its own page, not the one to which L2's address leads, and one that L2 does not have."""
    l1.need("NP")
    loaded = Loaded(l1, end)

    result = loaded.run(f"mov r14, [rbp]\nmov qword ptr [rbp], 0x3333\nmov r13d, {loaded.hole:#x}\nmov r13, [r13]")

    assert result.returned
    assert l1.expect("what L1 read", result.reg("r14"), 0x1111)
    assert l1.expect("L1's page", int.from_bytes(l1.read(loaded.page, 8), "little"), 0x3333)
    assert l1.expect("L2's page", int.from_bytes(l1.read(loaded.other, 8), "little"), 0x2222)


@clause("core.exit.v_intr_masking_off", "core.exit.v_irq_off")
@cases("end", REST)
def test_interrupts(l1, end):
    """L1's CR8 is 0, though V_TPR is 15; L1 takes the interrupt that it sends itself, and never L2's virtual one."""
    result = Loaded(l1, end).run(f"mov r14, cr8\n{SEND}")

    assert result.returned
    vectors = [each.vector for each in result.taken]
    assert l1.expect("L1's CR8", result.reg("r14"), 0)
    assert l1.expect("how often L1 took its own interrupt", vectors.count(VECTOR), 1)
    assert l1.expect("how often L1 took L2's virtual interrupt", vectors.count(VIRTUAL), 0)


@clause("core.exit.tsc_offset_off")
@cases("end", REST)
def test_tsc(l1, end):
    """L1's time goes on, without the offset of 2^61."""
    before = l1.code("rdtsc")

    result = Loaded(l1, end).run("rdtsc\nmov r14, rax\nmov r13, rdx")

    start = before.reg("rdx") << 32 | before.reg("rax") & 0xFFFF_FFFF
    now = result.reg("r13") << 32 | result.reg("r14") & 0xFFFF_FFFF
    assert result.returned
    assert l1.expect("L1's TSC goes forward by less than 2^40", start <= now < start + (1 << 40), True)


WITHDRAWN = {"same_vmcb": False, "another_vmcb": True}


@clause("core.vintr.withdrawn")
@cases("other", WITHDRAWN)
@cases("held_by", {"if": {"rflags": 2, "v_tpr": 0}, "tpr": {"rflags": IF, "v_tpr": 15}})
def test_virtual_interrupt_that_l1_withdraws(l1, held_by, other):
    """It is pending when L2 exits. L1 clears V_IRQ, or runs another L2; nothing masks it any more, and it is gone."""
    code = "vmmcall\nagain: sti\nnop\nnop\nnop\nend: vmmcall"
    vmcb = {"v_irq": 1, "v_intr_prio": 9, "v_intr_vector": VIRTUAL, "idtr.limit": 0}
    guest = l1.guest(code, intercept=["vintr"], vmcb=vmcb | held_by)
    first = guest.run(probes=False)
    assert first.matches(code=VMEXIT.VMMCALL, v_irq=1)
    if other:
        guest = l1.guest(code, intercept=["vintr"], vmcb={"idtr.limit": 0})
        guest.vmcb["rip"] = guest["again"]
        exit = guest.run(probes=False)
    else:
        exit = guest.resume("again", v_irq=0, v_tpr=0, run={"probes": False})

    assert exit.reached("end", v_irq=0)
