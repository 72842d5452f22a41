"""The media registers of an L2 that runs for long.

L2 owns the x87 and SSE registers while it runs; an L0 that runs other guests in between must save and restore them,
for L2 as for L1. An L0 that switches the FPU lazily keeps CR0.TS set until the registers are used again; if it forgets
to set it in the VMCB that L2 runs on, L2 goes on with whatever the guest before left there: its keys, its pointers.

One run proves little where nothing else wants the CPU. Under Xen L1 can see to that: it wakes the control domain with
an event on its console's channel right before VMRUN, by hypercall.
"""

import struct

import pytest

from harness import VMEXIT, clause

SSE = {"cr4": 1 << 5 | 1 << 9 | 1 << 10}
TURNS = 6
LOOPS = 10_000_000
WATCHDOG_US = 8_000_000
PATTERN = bytes(range(1, 17))
NOT_CHANGED = b"\xa5" * 128  # L2 stores nothing then; what it finds may well be zeros
HYPERVISOR_LEAF, XEN = 0x4000_0000, b"XenVMMXenVMM"
EVENT_CHANNEL_OP, EVENT_SEND, CONSOLE_CHANNEL = 32, 4, 2

# RBX is what all eight registers hold in their low halves. RCX says how far L2 came.
WATCH = "\n".join(
    [
        f"mov rcx, {LOOPS}",
        "again: movq rax, xmm5\ncmp rax, rbx\njne changed\nmovq rax, xmm0\ncmp rax, rbx\njne changed",
        "dec rcx\njnz again\njmp end",
        "changed: " + "\n".join(f"movdqu [rdi + {16 * n}], xmm{n}" for n in range(8)),
        "end: vmmcall",
    ]
)


def wake(l1):
    """Code that has another guest of L0 want the CPU, with RSI 80h below the number of an event channel."""
    _, *name = l1.cpuid_now(HYPERVISOR_LEAF)
    if struct.pack("<3I", *name) != XEN:
        return ""
    return f"add rsi, 0x80\nmov edi, {EVENT_SEND}\nmov eax, {EVENT_CHANNEL_OP}\nvmmcall\nsub rsi, 0x80"


@clause("core.load.fpu_stays")
@pytest.mark.parametrize("turn", range(TURNS))
@pytest.mark.deadline(30)
def test_sse_registers_stay_while_l2_runs(l1, turn):
    """L1 loads the registers, L2 looks at two of them ten million times, and stores all eight if one has changed."""
    page = l1.scratch(2)
    l1.write(page, PATTERN)
    l1.write(page + 0x100, NOT_CHANGED)
    l1.write(page + 0x80, struct.pack("<I", CONSOLE_CHANNEL))
    guest = l1.guest(WATCH, vmcb=SSE, regs={"rdi": page + 0x100, "rbx": int.from_bytes(PATTERN[:8], "little")})
    load = "\n".join(f"movdqu xmm{n}, [rsi]" for n in range(8))
    guest.setup(f"{wake(l1)}\n{load}", {"rsi": page})

    exit = guest.run(read={"seen": (page + 0x100, 128)}, watchdog_us=WATCHDOG_US)

    found = int.from_bytes(exit.memory["seen"], "little")
    unchanged = int.from_bytes(NOT_CHANGED, "little")
    assert l1.expect("XMM7 to XMM0 as L2 found them changed", found, unchanged, width_bytes=128)
    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"], regs={"rcx": 0})
