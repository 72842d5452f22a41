"""TF, RF and breakpoints across VMRUN.

Seen from the host VMRUN is one instruction: host TF traps after the #VMEXIT, host RF covers VMRUN alone. Seen from L2
the VMCB's TF traps after the first instruction and not before it, and its RF covers that instruction alone; host
flags mean nothing to L2 and the other way round (APM2 15.5.1, "VMRUN and TF/RF Bits in EFLAGS"). DR0 to DR3 are
common to both, DR7 is not. An L0 that runs L2 with its own debug registers, or that emulates VMRUN as a jump, gets
one of these wrong.
"""

import pytest

from harness import VMEXIT, clause

DB_EXIT = 0x41
TF, RF, BS = 1 << 8, 1 << 16, 1 << 14
DB, BP = 1, 3

ARM_NOTHING = "xor eax, eax\nmov dr0, rax\nmov dr1, rax\nmov dr2, rax\nmov dr3, rax"


def placed(l1, code, **options):
    """A guest that lies in memory as before its first run, and is known to run."""
    guest = l1.guest(code, **options)
    exit = guest.run()
    assert exit.ran
    l1.write(guest.vmcb_pa, bytes(exit.before.data))
    return guest


def exit_code(l1, guest):
    """EXITCODE[31:0] of a VMRUN that a test did itself."""
    return int.from_bytes(l1.read(guest.vmcb_pa + 0x70, 4), "little")


@clause("core.load.guest_tf")
@pytest.mark.parametrize("mode", ["long64", "prot32", "compat32", "paged32", "real16"])
def test_guest_tf(l1, mode):
    """One instruction is done, and not two, when the trap comes."""
    guest = l1.guest("inc ebx\nsecond: inc ebx\nvmmcall", mode=mode, vmcb={"rflags": TF | 2}, regs={"rbx": 0x10})

    assert guest.run().matches(code=DB_EXIT, rip=guest["second"], regs={"rbx": 0x11})


@clause("core.load.guest_tf")
def test_guest_without_tf(l1):
    """The control: without TF nothing traps."""
    guest = l1.guest("inc ebx\nsecond: inc ebx\nend: vmmcall", regs={"rbx": 0x10})

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"], regs={"rbx": 0x12})


@clause("core.load.dr7_arms_l2")
@pytest.mark.dirties("a breakpoint was armed in L2")
@pytest.mark.parametrize("n", range(4), ids=lambda n: f"dr{n}")
def test_instruction_breakpoint(l1, n):
    """L1 leaves an address in DRn, the VMCB's DR7 enables it: the exit comes before the instruction."""
    guest = l1.guest("nop\nspot: inc ebx\nvmmcall", vmcb={"dr7": 0x400 | 1 << 2 * n}, regs={"rbx": 0x10})
    guest.setup(f"mov dr{n}, rax", {"rax": guest["spot"]})
    guest.teardown(ARM_NOTHING)

    assert guest.run().matches(code=DB_EXIT, rip=guest["spot"], regs={"rbx": 0x10})


@clause("core.load.dr7_arms_l2")
@pytest.mark.dirties("a breakpoint was armed in L2")
@pytest.mark.parametrize("rw", [1, 3], ids=["write", "read-write"])
def test_data_breakpoint(l1, rw):
    """A data breakpoint is a trap: the exit comes after the instruction that wrote."""
    page = l1.scratch()
    guest = l1.guest(
        "nop\nmov dword ptr [rdi], 0x600D\nbehind: nop\nvmmcall",
        vmcb={"dr7": 0x400 | 1 | (0b1100 | rw) << 16},
        regs={"rdi": page},
    )
    guest.setup("mov dr0, rax", {"rax": page})
    guest.teardown(ARM_NOTHING)

    exit = guest.run(read={"data": (page, 4)})

    assert exit.matches(code=DB_EXIT, rip=guest["behind"])
    assert l1.expect("the doubleword written", int.from_bytes(exit.memory["data"], "little"), 0x600D, width_bytes=4)


@clause("core.load.guest_rf")
@pytest.mark.dirties("a breakpoint was armed in L2")
@pytest.mark.parametrize("rf", [0, RF], ids=["without-rf", "with-rf"])
def test_guest_rf(l1, rf):
    """Breakpoints on the first and the second instruction: RF lets the first one pass, not the second."""
    guest = l1.guest(
        "first: inc ebx\nsecond: inc ebx\nvmmcall", vmcb={"rflags": 2 | rf, "dr7": 0x405}, regs={"rbx": 0x10}
    )
    guest.setup("mov dr0, rax\nmov dr1, rcx", {"rax": guest["first"], "rcx": guest["second"]})
    guest.teardown(ARM_NOTHING)
    label, count = ("second", 0x11) if rf else ("first", 0x10)

    assert guest.run().matches(code=DB_EXIT, rip=guest[label], regs={"rbx": count})


@clause("core.load.host_tf")
@pytest.mark.dirties("L1 single-stepped across VMRUN")
def test_host_tf(l1):
    """One #DB, behind VMRUN; L2, whose #DB is intercepted, is not stepped."""
    guest = placed(l1, "nop\nnop\nend: vmmcall")
    code = "pushfq\nor qword ptr [rsp], 0x100\npopfq\nvmrun\nbehind: nop\nnop"

    result = l1.code(code, {"rax": guest.vmcb_pa})

    assert result.returned
    assert l1.expect("EXITCODE[31:0]", exit_code(l1, guest), VMEXIT.VMMCALL, width_bytes=4)
    assert l1.expect("exceptions that L1 took", len(result.events), 1)
    assert l1.expect("the vector", result.events[0].vector, DB, width_bytes=1)
    assert l1.expect("RIP of the #DB", result.events[0].rip, result["behind"])
    assert l1.expect("DR6.BS", result.events[0].dr6 & BS, BS, width_bytes=4)


# With a breakpoint on VMRUN, gets there by IRETQ so that RF can be chosen (R9); INT3 behind it shows RF afterwards.
BREAKPOINT_ON_VMRUN = """
    lea rbx, [rip + insn]
    mov dr0, rbx
    mov ecx, 0x401
    mov dr7, rcx
    mov rdx, rsp
    mov ecx, ss
    push rcx
    push rdx
    push r9
    mov ecx, cs
    push rcx
    push rbx
    iretq
insn: vmrun
    int3
behind:
    mov ecx, 0x400
    mov dr7, rcx
"""


@clause("core.load.host_rf")
@pytest.mark.dirties("a breakpoint was armed in L1")
@pytest.mark.parametrize("rf", [0, RF], ids=["without-rf", "with-rf"])
def test_host_rf(l1, rf):
    """Without RF #DB comes before VMRUN (the executor sets RF to go on), with RF it does not; afterwards RF is 0."""
    guest = placed(l1, "nop\nend: vmmcall")

    result = l1.code(BREAKPOINT_ON_VMRUN, {"rax": guest.vmcb_pa, "r9": 2 | rf})

    assert result.returned
    assert l1.expect("EXITCODE[31:0]", exit_code(l1, guest), VMEXIT.VMMCALL, width_bytes=4)
    taken = [(event.vector, event.rip) for event in result.events]
    expected = [(BP, result["behind"])] if rf else [(DB, result["insn"]), (BP, result["behind"])]
    assert l1.expect(f"exceptions that L1 took: {taken}, expected {expected}", taken == expected, True)
    assert l1.expect("RF when VMRUN was done", result.events[-1].rflags & RF, 0, width_bytes=4)


FLAGS = {
    "cf": 1 << 0,
    "pf": 1 << 2,
    "af": 1 << 4,
    "zf": 1 << 6,
    "sf": 1 << 7,
    "df": 1 << 10,
    "of": 1 << 11,
    "iopl": 3 << 12,
    "nt": 1 << 14,
    "ac": 1 << 18,
    "id": 1 << 21,
}
EVERY = sum(FLAGS.values())
SWITCH_FLAGS = """
    push r9
    popfq
    vmrun
    pushfq
    pop r15
    push 2
    popfq
"""


@clause("core.load.rflags_do_not_leak")
@pytest.mark.parametrize("owner", ["host", "guest"])
@pytest.mark.parametrize("flag", [*FLAGS, "every"])
def test_rflags_do_not_leak(l1, flag, owner):
    """One side has the flag set at VMRUN, the other has not; then L2 changes all of its flags before it leaves."""
    bit = EVERY if flag == "every" else FLAGS[flag]
    host, guest_flags = (bit, 0) if owner == "host" else (0, bit)
    changed = (guest_flags ^ EVERY) | 2
    guest = placed(l1, f"pushfq\npop rbx\npush {changed:#x}\npopfq\nend: vmmcall", vmcb={"rflags": guest_flags | 2})

    result = l1.code(SWITCH_FLAGS, {"rax": guest.vmcb_pa, "r9": host | 2})

    assert result.returned
    assert l1.expect("EXITCODE[31:0]", exit_code(l1, guest), VMEXIT.VMMCALL, width_bytes=4)
    assert l1.expect("RFLAGS in L2 at its start", result.reg("rbx") & EVERY, guest_flags)
    assert l1.expect("RFLAGS in L1 after #VMEXIT", result.reg("r15") & EVERY, host)
    saved = int.from_bytes(l1.read(guest.vmcb_pa + 0x570, 8), "little")
    assert l1.expect("RFLAGS in the VMCB", saved & EVERY, changed & EVERY)
