"""Pieces of L2 code that many tests need, as text (GNU as, Intel syntax) for any mode."""

from __future__ import annotations


def read_msr(msr: int) -> str:
    """RDMSR, and the VMMCALL that ends L2; `exit.msr` is the value. `read` and `done` are the labels of the two."""
    return f"mov ecx, {msr:#x}\nread: rdmsr\ndone: vmmcall\n"


def write_msr(msr: int, value: int) -> str:
    """WRMSR, at the label `write`. Code may follow; EAX, ECX and EDX are used."""
    low, high = value & 0xFFFF_FFFF, value >> 32 & 0xFFFF_FFFF
    return f"mov ecx, {msr:#x}\nmov eax, {low:#x}\nmov edx, {high:#x}\nwrite: wrmsr\n"
