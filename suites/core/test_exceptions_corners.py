"""Corners of the exceptions: what an interrupt's vector, a gate's DPL, an illegal encoding and paged real mode change.

An external interrupt is never an exception, whatever its vector; INT3 and INTO are intercepted before anything is read
of the IDT; a LOCK prefix on what cannot be locked is #UD before any intercept; a #PF in real mode, which VMRUN can
enter with paging, has the error code of protected mode (APM2 15.7, 15.12, 15.19). A wrong L0 asks the intercepts by
number alone, reads the gate first, or decodes the opcode and forgets the prefix.
"""

from harness import VMEXIT, any_of, cases, clause, masked
from suites.lib.event_guest import DPL3, EventGuest
from suites.lib.event_tables import INTERRUPT_GATE
from suites.lib.interrupts import WAIT

SELF = 0x4_0000  # the destination shorthand of the APIC's ICR
IF, OF = 0x202, 0x802
PRESENT, WRITABLE, WP = 1, 2, 1 << 16


@clause("core.exceptions.not_an_interrupt")
@cases("vector", [0x10, 0x11, 0x15, 0x1C, 0x1E, 0x1F, 0x45])
def test_interrupt_with_the_vector_of_an_exception(l1, vector):
    """L2 sends it to itself and takes it; all exceptions are intercepted. 45h is the neighbour."""
    code = f"mov rbx, 0xfee00300\nmov dword ptr [rbx], {SELF | vector:#x}\n{WAIT.format('again')}\nvmmcall"
    guest = EventGuest(l1, code, no_intercept=["intr"], vmcb={"v_intr_masking": 0, "rflags": IF})
    guest.guest.teardown("mov dword ptr [rbx], 0", {"rbx": 0xFEE0_00B0})  # the end of the interrupt

    exit = guest.run()

    assert guest.took(exit, vector)
    assert l1.expect("bytes pushed", guest.depth(exit), guest.pushed())


@clause("core.exceptions.before_the_gate")
@cases("dpl", {"dpl0": INTERRUPT_GATE, "dpl3": INTERRUPT_GATE | DPL3})
@cases("mode", ["long64", "compat32"])
def test_int3_at_cpl3(l1, mode, dpl):
    """Exit 43h, though with DPL 0 the gate would have given #GP."""
    guest = EventGuest(l1, "nop\nat: int3\nvmmcall", mode=mode, cpl=3, gates={3: dpl})

    assert guest.run().matches(code=VMEXIT.EXCP_BP, rip=guest["at"], cpl=3, intinfo=masked(0, 1 << 31))


@clause("core.exceptions.before_the_gate")
@cases("dpl", {"dpl0": INTERRUPT_GATE, "dpl3": INTERRUPT_GATE | DPL3})
def test_into_at_cpl3(l1, dpl):
    """Exit 44h."""
    guest = EventGuest(l1, "nop\nat: into\nvmmcall", mode="compat32", cpl=3, gates={4: dpl}, vmcb={"rflags": OF})

    assert guest.run().matches(code=VMEXIT.EXCP_OF, rip=guest["at"], cpl=3, intinfo=masked(0, 1 << 31))


@clause("core.exceptions.before_the_gate")
def test_gate_is_checked_without_the_intercept(l1):
    """The neighbour: #BP is not intercepted, and the gate with DPL 0 gives #GP with its number."""
    guest = EventGuest(l1, "nop\nat: int3\nvmmcall", cpl=3, gates={3: INTERRUPT_GATE}, no_intercept=["exc_3"])

    assert guest.run().matches(code=VMEXIT.EXCP_GP, rip=guest["at"], info1=3 << 3 | 2)


@clause("core.exceptions.sev_vectors")
@cases("bits", [[28], [29], [28, 29]])
def test_bits_of_encrypted_guests_are_inert(l1, bits):
    """#HV and #VC come to guests with encrypted state alone."""
    others = [f"exc_{n}" for n in range(32) if n not in bits]
    guest = l1.guest("cpuid\nmov rbx, [rsp]\nend: vmmcall", no_intercept=others)

    assert guest.run().reached("end")


LOCKED = {
    "cpuid": ("0x0f, 0xa2", "cpuid"), "rdtsc": ("0x0f, 0x31", "rdtsc"), "hlt": ("0xf4", "hlt"),
    "wbinvd": ("0x0f, 0x09", "wbinvd"), "rdmsr": ("0x0f, 0x32", "msr"), "invlpg": ("0x0f, 0x01, 0x3b", "invlpg"),
    "clts": ("0x0f, 0x06", "cr0_write"), "lgdt": ("0x0f, 0x01, 0x13", "lgdt"), "str": ("0x0f, 0x00, 0xc8", "str"),
    "mov_cr3": ("0x0f, 0x20, 0xd8", "cr3_read"), "mov_dr0": ("0x0f, 0x21, 0xc0", "dr0_read"),
    "vmmcall": ("0x0f, 0x01, 0xd9", "vmmcall"), "pushf": ("0x9c", "pushf"), "iret": ("0xcf", "iret"),
    "intn": ("0xcd, 0x80", "intn"), "in": ("0xe4, 0xe0", "ioio"), "pause": ("0xf3, 0x90", "pause"),
    "xsetbv": ("0x0f, 0x01, 0xd1", "xsetbv"), "stgi": ("0x0f, 0x01, 0xdc", "stgi"), "rsm": ("0x0f, 0xaa", "rsm"),
}  # fmt: skip


@clause("core.intercept.illegal_encoding")
@cases("code, own", LOCKED)
def test_locked_instruction(l1, code, own):
    """LOCK in front of what cannot be locked: #UD, and no exit of the instruction's own."""
    guest = l1.guest(f"nop\nat: .byte 0xf0, {code}\nvmmcall", intercept=[own], regs={"rbx": l1.scratch(1)})
    if own == "ioio":
        maps = l1.scratch(3)
        guest.write(maps, b"\xff" * 0x3000)
        guest.vmcb["iopm_base_pa"] = maps

    assert guest.run().matches(code=VMEXIT.EXCP_UD, rip=guest["at"])


SMSW = {"memory": "smsw [rbx]", "register": "smsw eax"}


@clause("core.cr_access.smsw_umip")
@cases("code", SMSW)
@cases("intercepted", [False, True])
def test_smsw_with_umip(l1, intercepted, code):
    """At CPL 3 with CR4.UMIP: #GP(0). Where CR0's reads are intercepted the exit may come before it."""
    own = ["cr0_read"] if intercepted else []
    guest = l1.guest(f"nop\nat: {code}\nvmmcall", cpl=3, intercept=own, regs={"rbx": l1.scratch(1)})
    guest.vmcb["cr4"] |= 1 << 11

    exits = any_of(VMEXIT.EXCP_GP, VMEXIT.CR0_READ) if intercepted else VMEXIT.EXCP_GP
    assert guest.run().matches(code=exits, rip=guest["at"])


@clause("core.exceptions.paged_real_mode")
@cases(
    "access, entry, wp, error",
    {
        "read_absent": ("mov al, [bx]", 0, 0, 0),
        "write_absent": ("mov [bx], al", 0, 0, 2),
        "write_protected": ("mov [bx], al", PRESENT, WP, 3),
        "write_protected_without_wp": ("mov [bx], al", PRESENT, 0, None),
        "read_of_a_supervisor_page": ("mov al, [bx]", PRESENT | WRITABLE, 0, None),
    },
)
def test_page_fault_in_real_mode(l1, access, entry, wp, error):
    """CR0.PG=1 and PE=0, which VMRUN alone can give: P, R/W and U/S as in protected mode at CPL 0."""
    guest = l1.guest(f"mov bx, 0x4000\nat: {access}\nend: vmmcall", mode="real16")
    tables = l1.scratch(2)
    target = (guest.vmcb["ds.base"] + 0x4000) >> 12
    entries = [page << 12 | 7 for page in range(1024)]
    entries[target] = target << 12 | entry if entry else 0
    guest.write(tables, (tables + 0x1000 | 7).to_bytes(4, "little"))
    guest.write(tables + 0x1000, b"".join(value.to_bytes(4, "little") for value in entries))
    guest.vmcb.update({"cr0": guest.vmcb["cr0"] | 1 << 31 | wp, "cr3": tables})

    exit = guest.run()

    if error is None:
        assert exit.reached("end")
    else:
        assert exit.matches(code=VMEXIT.EXCP_PF, rip=guest["at"], info1=error, info2=target << 12)
