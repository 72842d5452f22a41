"""One CPU makes VMRUN over and over while the other writes to what VMRUN, or L0 for L2, reads.

`race` gives the counts of two outcomes, which the test's own L1 code tells apart after each exit, and of anything else.
L2 may change RAX, RCX, RDX, RBX, RSI and RDI. As with a single VMRUN the VMCB is a copy that is put back each time.
"""

from harness.scenario import steps

RUNS = 1000
TURNS_MAX = 50_000_000  # a bound; the loop ends when VMRUN's does

# R12: VMCB, R14: a copy of it, RBP: how often, R15: the flag. Counts in R8 and R9, of anything else in R10 (R11: the
# last exit code). It begins when the other CPU has written once, as the word behind the flag says.
_VMRUN_LOOP = """
    mov ecx, 1000000
wait:
    cmp dword ptr [r15 + 8], 0
    jne again
    pause
    dec ecx
    jnz wait
again:
    mov qword ptr [r12 + 0x70], 0x5a5a5a5a
    lea rsi, [r14 + 0x400]
    lea rdi, [r12 + 0x400]
    mov ecx, 0x270 / 8
    rep movsq
    {before}
    clgi
    mov rax, r12
    vmrun
    mov r11, [r12 + 0x70]
    {check}
    jmp other
first:
    inc r8
    jmp next
second:
    inc r9
    jmp next
other:
    inc r10
    mov r13, r11
next:
    dec rbp
    jnz again
    mov dword ptr [r15], 1
    stgi
"""

# RBX: the place, RSI and RDI: its two values, RDX: the flag, RCX: a bound.
_TURN_LOOP = """
again:
    mov {size} ptr [rbx], {first}
    mov {size} ptr [rbx], {second}
    cmp dword ptr [rdx], 0
    jne stop
    mov dword ptr [rdx + 8], 1
    dec rcx
    jnz again
stop:
    mov {size} ptr [rbx], {first}
"""
_NAMES = {"byte": ("sil", "dil"), "dword": ("esi", "edi"), "qword": ("rsi", "rdi")}


def race(l1, guest, *, place, size, values, check, before="", runs=RUNS):
    """The result of L1's loop: `reg("r8")` and `reg("r9")` are how often `check` went to `first` and to `second`.

    `place` is the address that the other CPU turns between the two `values`, or an offset in the VMCB. `check` is L1
    code right after VMRUN, with the VMCB at R12 and its exit code in R11. Asserts that both loops ended and that there
    was no third outcome.
    """
    vmcb, copy, flag = l1.scratch(1), l1.scratch(1), l1.scratch(1)
    l1.write(guest.code_base, guest.code + b"\xcc" * 4)
    l1.write(vmcb, bytes(guest.vmcb))
    l1.write(copy, bytes(guest.vmcb))
    first, second = _NAMES[size]
    turn = l1.place_code(_TURN_LOOP.format(size=size, first=first, second=second))
    l1.steps(turn.items)
    at = place if place >= 0x1000 else vmcb + place
    registers = {"rbx": at, "rsi": values[0], "rdi": values[1], "rdx": flag, "rcx": TURNS_MAX}
    with l1.on_second_cpu([steps.code(turn.addr, registers)]) as other:
        loop = _VMRUN_LOOP.format(check=check, before=before)
        done = l1.code(loop, {"r12": vmcb, "r14": copy, "rbp": runs, "r15": flag, "r13": 0} | guest.regs)
    assert done.returned
    turned = steps.decode_code(other.answers[0])
    assert l1.expect("the loop that writes took an exception", turned.fault is not None, False)
    assert l1.expect("it wrote", turned.registers.get("rcx", TURNS_MAX) < TURNS_MAX, True)
    assert l1.expect("EXITCODE of the last exit of another kind", done.reg("r13"), 0)
    assert l1.expect("exits of another kind", done.reg("r10"), 0)
    assert l1.expect("VMRUNs in all", done.reg("r8") + done.reg("r9"), runs)
    return done
