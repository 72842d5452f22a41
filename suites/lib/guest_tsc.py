"""L2's TSC between two reads of L1's, and the ratio MSR (C000_0104h) set for just that time."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from harness import L1, Exit, cases

TSC = 0x10
TSC_RATIO = 0xC000_0104
ONE = 1 << 32
WRAP = 1 << 64
EDX_AT_VMRUN = 0x2222_2222

READS = {
    "rdtsc": "rdtsc",
    "rdtscp": "rdtscp",
    "rdmsr": f"mov ecx, {TSC:#x}\nrdmsr",
}
"""How L2 reads the TSC; the value is in EDX:EAX."""

RATIOS = {
    "one": ONE,
    "double": 2 * ONE,
    "half": ONE // 2,
    "3_2": 3 * ONE // 2,
    "1_3": ONE // 3,
    "1_16": ONE // 16,
    "2^-12": ONE >> 12,
    "2^-20": ONE >> 20,
    "just_below_one": ONE - 1,
    "just_above_one": ONE + 1,
    "pi": 0x3_243F_6A89,
    "10": 10 * ONE,
    "85.5": 171 * ONE // 2,
    "128": 128 * ONE,
    "largest": 256 * ONE - 1,
}
"""Legal values of the MSR, 8.32 fixed point, by what a person calls them."""


def ratios(*without):
    """RATIOS as the parameter `ratio`, those named left out."""
    return cases("ratio", {name: value for name, value in RATIOS.items() if name not in without})


def reads(**more):
    """READS as the parameter `read`."""
    return cases("read", READS | more)


@dataclass(frozen=True)
class Sample:
    """What one VMRUN showed: L1's TSC just before (`before`) and after (`after`) L2 read `within`, 64 bits each."""

    before: int
    within: int
    after: int
    exit: Exit

    def less(self, offset: int) -> int:
        """L2's TSC with TSC_OFFSET taken off, modulo 2^64."""
        return (self.within - offset) % WRAP


def sample(
    l1, guest, *, ratio: int | None = None, l1_reads: str = "rdtsc", setup: str = "", teardown: str = ""
) -> Sample:
    """Runs the guest once, in L1 code that reads the TSC on both sides of VMRUN. L2 leaves what it read in EDX:EAX.

    `ratio` is written to the MSR before all that, and 1.0 after it, so that a test leaves nothing behind. `setup` and
    `teardown` are L1 code at both ends, which may use RAX, RCX, RDX and R12 to R15; L2 may change RAX, RBX, RCX, RDX.
    """
    write = "" if ratio is None else wrmsr(ratio)
    back = "" if ratio is None else wrmsr(ONE)
    code = f"""
        mov r8, rax
        {setup}
        {write}
        clgi
        {_read_to("r9", l1_reads)}
        mov edx, {EDX_AT_VMRUN}
        mov rax, r8
        vmrun
        mov r10, rdx
        {_read_to("r11", l1_reads)}
        stgi
        {back}
        {teardown}
    """
    exit = guest.run_in(code)
    if not exit.l1.returned and ratio is not None:
        l1.dirty("TSC_RATIO was written, and L1's code did not come to its end")
    low, high = exit.vmcb["rax"] & 0xFFFF_FFFF, exit.l1.reg("r10") & 0xFFFF_FFFF
    return Sample(exit.l1.reg("r9"), high << 32 | low, exit.l1.reg("r11"), exit)


def wrmsr(value: int, msr: int = TSC_RATIO) -> str:
    """Code that writes an MSR; EAX, ECX and EDX are used."""
    return f"mov ecx, {msr:#x}\nmov eax, {value & 0xFFFF_FFFF:#x}\nmov edx, {value >> 32 & 0xFFFF_FFFF:#x}\nwrmsr"


def _read_to(register: str, how: str) -> str:
    return f"lfence\n{how}\nlfence\nshl rdx, 32\nor rax, rdx\nmov {register}, rax"


@contextmanager
def own_ratio(l1: L1) -> Iterator[None]:
    """Puts the ratio back to 1.0 at the end; where a test fails on the way, the boot is used up instead."""
    try:
        yield
    except AssertionError:
        l1.dirty("TSC_RATIO was written")
        raise
    assert l1.wrmsr(TSC_RATIO, ONE).ok


def assert_scaled(l1, one: Sample, ratio: int = ONE, offset: int = 0) -> None:
    """L2's TSC less its offset lies between L1's two reads times the ratio; the processor may round either way."""
    low, high = floor_of(one.before, ratio), ceil_of(one.after, ratio)
    assert l1.expect("L1's TSC goes forward, by less than 2^48", 0 <= one.after - one.before < 1 << 48, True)
    told = "L2's TSC less its offset lies between L1's two reads, scaled"
    assert l1.expect(told, (one.less(offset) - low) % WRAP <= high - low, True)


def floor_of(counter: int, ratio: int) -> int:
    """counter * ratio, rounded down."""
    return counter * ratio >> 32


def ceil_of(counter: int, ratio: int) -> int:
    """counter * ratio, rounded up."""
    return -(-counter * ratio >> 32)
