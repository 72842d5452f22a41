"""Pieces of L2 code that many tests need, as text (GNU as, Intel syntax) for any mode."""

from __future__ import annotations


def read_msr(msr: int) -> str:
    """RDMSR, and the VMMCALL that ends L2; `exit.msr` is the value. `read` and `done` are the labels of the two."""
    return f"mov ecx, {msr:#x}\nread: rdmsr\ndone: vmmcall\n"


def write_msr(msr: int, value: int) -> str:
    """WRMSR, at the label `write`. Code may follow; EAX, ECX and EDX are used."""
    return (
        f"mov ecx, {msr:#x}\nmov eax, {value & 0xFFFF_FFFF:#x}\nmov edx, {value >> 32 & 0xFFFF_FFFF:#x}\nwrite: wrmsr\n"
    )
