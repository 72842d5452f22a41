"""CPUID tables made up from feature names: for tests, fake targets and "what if the bit were not offered"."""

from __future__ import annotations

from collections.abc import Iterable

from harness.svm.cpuid import Cpuid, Leaf
from harness.svm.features import feature

_BASICS = (
    "VME", "DE", "PSE", "TSC", "MSR", "PAE", "MCE", "APIC", "SYSENTER", "MTRR", "PGE", "PAT", "FXSR", "SSE",
    "SVM", "SYSCALL", "NX", "LM",
)  # fmt: skip
_REGISTERS = ("EAX", "EBX", "ECX", "EDX")


def make_cpuid(
    features: Iterable[str] = (), *, basics: bool = True, maxphyaddr: int = 48, maxlinaddr: int = 48, nasid: int = 16
) -> Cpuid:
    """An AMD CPU that offers `features` on top of what every CPU with SVM has (`basics=False`: not even that).

    ValueError for an unknown feature, or for one that is inferred and so cannot be set.
    """
    table: dict[tuple[int, int], list[int]] = {
        (0, 0): [0xD, *_words(b"Auth", b"cAMD", b"enti")],
        (1, 0): [0x00A2_0F10, 0, 0, 0],
        (7, 0): [0, 0, 0, 0],
        (0x8000_0000, 0): [0x8000_0022, *_words(b"Auth", b"cAMD", b"enti")],
        (0x8000_0001, 0): [0x00A2_0F10, 0, 0, 0],
        (0x8000_0008, 0): [maxphyaddr | maxlinaddr << 8, 0, 0, 0],
        (0x8000_000A, 0): [1, nasid, 0, 0],
        (0x8000_001F, 0): [0, 0, 0, 0],
        (0x8000_0021, 0): [0, 0, 0, 0],
        (0x8000_0022, 0): [0, 0, 0, 0],
    }
    for name in (*(_BASICS if basics else ()), *features):
        item = feature(name)
        if item is None or item.infer is not None:
            raise ValueError(f"{name!r} is no CPUID bit that can be set")
        table[item.leaf, item.sub][_REGISTERS.index(item.register)] |= 1 << item.bit
    leaves: dict[tuple[int, int], Leaf] = {key: (a, b, c, d) for key, (a, b, c, d) in table.items()}
    return Cpuid(leaves)


def _words(*parts: bytes) -> list[int]:
    return [int.from_bytes(part, "little") for part in parts]
