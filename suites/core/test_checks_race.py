"""VMRUN looks at the VMCB once.

While one CPU executes VMRUN over and over, another turns a checked field to and fro between a legal and an illegal
value. Each VMRUN then sees one or the other: it is refused, or L2 runs with the legal value. A wrong L0 reads L1's
memory twice, checks one value and uses the other, and so runs L2 without the VMRUN intercept (CVE-2021-29657), in the
host's ASID, or with an event that does not exist.
"""

import pytest

from harness import clause
from harness.scenario import steps
from suites.lib.event_tables import with_handlers

RUNS = 2000
TURNS_MAX = 50_000_000  # a bound; the loop ends when VMRUN's does

# RBX: VMCB, R14: a copy of it, RBP: how often, R13: the exit code that is right beside VMEXIT_INVALID.
# The save area is put back before each VMRUN, because after a refusal it may hold anything.
# Counts in R8 (refused), R9 (ran), R10 (anything else, the last one in R11). It begins when the other CPU has turned
# the field once, as the word behind the flag says: else there would be no race.
VMRUN_LOOP = """
    mov ecx, 1000000
wait:
    cmp dword ptr [r15 + 8], 0
    jne again
    pause
    dec ecx
    jnz wait
again:
    mov qword ptr [rbx + 0x70], 0x5a5a5a5a
    lea rsi, [r14 + 0x400]
    lea rdi, [rbx + 0x400]
    mov ecx, 0x270 / 8
    rep movsq
    clgi
    mov rax, rbx
    vmrun
    mov rax, [rbx + 0x70]
    cmp eax, -1
    jne not_refused
    inc r8
    jmp next
not_refused:
    cmp rax, r13
    jne other
    inc r9
    jmp next
other:
    inc r10
    mov r11, rax
next:
    dec rbp
    jnz again
    mov dword ptr [r15], 1
    stgi
"""

# RBX: the field, RSI and RDI: its two values, RDX: a flag that says stop, RCX: a bound.
TURN_LOOP = """
again:
    mov {size} ptr [rbx], {rsi}
    mov {size} ptr [rbx], {rdi}
    cmp dword ptr [rdx], 0
    jne stop
    mov dword ptr [rdx + 8], 1
    dec rcx
    jnz again
stop:
    mov {size} ptr [rbx], {rsi}
"""


def _race(l1, guest, *, offset, size, legal, illegal, code):
    """Runs both loops; gives the counts of refusals, runs and anything else."""
    vmcb, copy, flag = l1.scratch(1), l1.scratch(1), l1.scratch(1)
    text = (guest.code + b"\xcc\xcc").ljust(16, b"\xcc")
    l1.write(guest["start"], text)
    l1.write(vmcb, bytes(guest.vmcb))
    l1.write(copy, bytes(guest.vmcb))
    names = {"dword": ("esi", "edi"), "qword": ("rsi", "rdi")}[size]
    turn = l1.place_code(TURN_LOOP.format(size=size, rsi=names[0], rdi=names[1]))
    l1.steps(turn.items)
    registers = {"rbx": vmcb + offset, "rsi": legal, "rdi": illegal, "rdx": flag, "rcx": TURNS_MAX}
    with l1.on_second_cpu([steps.code(turn.addr, registers)]) as second:
        done = l1.code(VMRUN_LOOP, {"rbx": vmcb, "r14": copy, "rbp": RUNS, "r13": code, "r15": flag})
    assert done.returned
    turned = steps.decode_code(second.answers[0])
    assert l1.expect("the loop that turns the field took an exception", turned.fault is not None, False)
    assert l1.expect("the field was turned", turned.registers.get("rcx", TURNS_MAX) < TURNS_MAX, True)
    return done


def _only_two_outcomes(l1, done):
    counts = {name: done.reg(name) for name in ("r8", "r9", "r10", "r11")}
    assert l1.expect(f"exits other than the two (the last one {counts['r11']:#x})", counts["r10"], 0)
    assert l1.expect("VMRUNs in all", counts["r8"] + counts["r9"], RUNS)


@clause("core.checks.single_snapshot")
@pytest.mark.two_cpus
@pytest.mark.dangerous
@pytest.mark.dirties("an L0 that loses this race may have anything left over")
def test_vmrun_intercept(l1):
    """L2 itself executes VMRUN: intercepted, or L2 did not run. The VMCB it names would be refused."""
    guest = l1.guest("start: vmrun")
    inner = l1.vmcb_image()
    inner["asid"] = 0
    guest.vmcb["rax"] = l1.scratch(1)
    l1.write(guest.vmcb["rax"], bytes(inner))
    word = guest.vmcb["intercept_misc2"]

    done = _race(l1, guest, offset=0x10, size="dword", legal=word, illegal=word & ~1, code=0x80)

    _only_two_outcomes(l1, done)


@clause("core.checks.single_snapshot")
@pytest.mark.two_cpus
@pytest.mark.dangerous
@pytest.mark.dirties("an L0 that loses this race may have anything left over")
def test_asid(l1):
    guest = l1.guest("start: vmmcall")

    done = _race(l1, guest, offset=0x58, size="dword", legal=1, illegal=0, code=0x81)

    _only_two_outcomes(l1, done)


@clause("core.checks.single_snapshot")
@pytest.mark.two_cpus
@pytest.mark.dangerous
@pytest.mark.dirties("an L0 that loses this race may have anything left over")
@pytest.mark.parametrize(
    ("offset", "legal", "illegal"),
    [
        pytest.param(0x4D0, 0x1500, 0x500, id="efer_svme"),
        pytest.param(0x4D0, 0x1500, 0x8000_0000_0000_1500, id="efer_reserved"),
        pytest.param(0x558, 0x8000_0031, 0x1_8000_0031, id="cr0_upper"),
        pytest.param(0x548, 0x20, 0x8020, id="cr4_reserved"),
        pytest.param(0x560, 0x400, 0x1_0000_0400, id="dr7_upper"),
    ],
)
def test_state(l1, offset, legal, illegal):
    """#VMEXIT writes these fields back, which only adds the legal value once more."""
    guest = l1.guest("start: vmmcall")

    done = _race(l1, guest, offset=offset, size="qword", legal=legal, illegal=illegal, code=0x81)

    _only_two_outcomes(l1, done)


@clause("core.checks.single_snapshot")
@pytest.mark.two_cpus
@pytest.mark.dangerous
@pytest.mark.dirties("an L0 that loses this race may have anything left over")
def test_eventinj(l1):
    """An interrupt or a reserved type. L2 is done at its start (nothing injected in time) or in the handler."""
    guest = l1.guest("start: vmmcall")
    with_handlers(l1, guest, guest["start"], vectors=64, now=True)

    done = _race(l1, guest, offset=0xA8, size="qword", legal=0x8000_0020, illegal=0x8000_0720, code=0x81)

    _only_two_outcomes(l1, done)
