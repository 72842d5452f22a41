"""CPUID as L1 sees it: the SVM feature bits by name, and the limits that other rules are built on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from harness.svm import registers as r
from harness.svm.condition import evaluate
from harness.svm.features import SVM_BITS, SvmBit, known, normalise

__all__ = ["SVM_BITS", "Cpuid", "Leaf", "SvmBit", "svm_bit"]

Leaf = tuple[int, int, int, int]
"""EAX, EBX, ECX, EDX."""

_ZERO: Leaf = (0, 0, 0, 0)
_REGISTERS = ("EAX", "EBX", "ECX", "EDX")


def svm_bit(name: str | int) -> SvmBit:
    """The bit of Fn8000_000A EDX of this name (case and underscores do not matter) or number. KeyError if none."""
    if isinstance(name, int):
        return SVM_BITS[name]
    wanted = normalise(name)
    for item in SVM_BITS:
        if wanted in (normalise(item.name), *(normalise(alias) for alias in item.aliases)):
            return item
    raise KeyError(f"Fn8000_000A EDX has no bit named {name!r}")


@dataclass(frozen=True)
class Cpuid(Mapping[tuple[int, int], Leaf]):
    """CPUID leaves by (leaf, subleaf). `leaf()` gives zeros for those that were not recorded."""

    leaves: Mapping[tuple[int, int], Leaf]
    _known: dict[str, bool] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for key, values in self.leaves.items():
            if len(values) != 4 or any(not 0 <= value <= 0xFFFF_FFFF for value in values):
                raise ValueError(f"CPUID leaf {key} is not four 32-bit values: {values}")

    def __getitem__(self, key: tuple[int, int]) -> Leaf:
        return self.leaves[key]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self.leaves)

    def __len__(self) -> int:
        return len(self.leaves)

    def leaf(self, number: int, sub: int = 0) -> Leaf:
        """EAX, EBX, ECX, EDX; zeros for a leaf that was not recorded."""
        return self.leaves.get((number, sub), _ZERO)

    def _reg(self, number: int, register: str, sub: int = 0) -> int:
        return self.leaf(number, sub)[_REGISTERS.index(register)]

    # --- SVM

    @property
    def svm(self) -> bool:
        """Fn8000_0001 ECX[2]."""
        return self.has("SVM")

    @property
    def svm_bits(self) -> int:
        """Fn8000_000A EDX: the feature bits this suite goes through."""
        return self._reg(0x8000_000A, "EDX")

    @property
    def svm_rev(self) -> int:
        """Fn8000_000A EAX[7:0]."""
        return self._reg(0x8000_000A, "EAX") & 0xFF

    @property
    def nasid(self) -> int:
        """Number of ASIDs, Fn8000_000A EBX. Guests may use 1 .. nasid-1."""
        return self._reg(0x8000_000A, "EBX")

    # --- Limits

    @property
    def maxphyaddr(self) -> int:
        """Physical address bits (Fn8000_0008 EAX[7:0]); 36 where the leaf is missing, as vol 3 says."""
        return self._reg(0x8000_0008, "EAX") & 0xFF or 36

    @property
    def maxlinaddr(self) -> int:
        """Linear address bits (Fn8000_0008 EAX[15:8]); 48 where the leaf is missing and long mode is there, else 32."""
        return self._reg(0x8000_0008, "EAX") >> 8 & 0xFF or (48 if self.has("LM") else 32)

    @property
    def max_extended_leaf(self) -> int:
        """Fn8000_0000 EAX."""
        return self._reg(0x8000_0000, "EAX")

    # --- Who it is

    @property
    def vendor(self) -> str:
        """`"AuthenticAMD"`."""
        _, ebx, ecx, edx = self.leaf(0)
        return _text(ebx, edx, ecx)

    @property
    def brand(self) -> str:
        """The processor name string, blanks at its ends removed."""
        words = [word for number in (0x8000_0002, 0x8000_0003, 0x8000_0004) for word in self.leaf(number)]
        return _text(*words).strip()

    @property
    def family(self) -> int:
        """Base plus extended family (19h for Zen 3 and 4)."""
        eax = self._reg(1, "EAX")
        base = eax >> 8 & 0xF
        return base + (eax >> 20 & 0xFF) if base == 0xF else base

    @property
    def model(self) -> int:
        """Extended and base model in one number."""
        eax = self._reg(1, "EAX")
        base = eax >> 4 & 0xF
        return base | (eax >> 16 & 0xF) << 4 if (eax >> 8 & 0xF) == 0xF else base

    @property
    def stepping(self) -> int:
        """Fn0000_0001 EAX[3:0]."""
        return self._reg(1, "EAX") & 0xF

    @property
    def hypervisor(self) -> str:
        """`""` on bare metal, else the signature in leaf 4000_0000h (or "unnamed")."""
        if not self.has("HYPERVISOR"):
            return ""
        _, ebx, ecx, edx = self.leaf(0x4000_0000)
        return _text(ebx, ecx, edx).strip() or "unnamed"

    # --- Features

    def has(self, name: str) -> bool:
        """Whether a feature is offered, by any name that clause conditions use. ValueError for a name nobody knows.

        LMSLE has no bit of its own: it is inferred from long mode and the absence of "EferLmsleUnsupported".
        """
        offered = self._known.get(name)
        if offered is None:
            offered = self._known[name] = self._look(name)
        return offered

    def _look(self, name: str) -> bool:
        item = known(name)
        if item.infer is not None:
            return item.infer(self.has)
        return bool(self._reg(item.leaf, item.register, item.sub) >> item.bit & 1)

    def why(self, name: str) -> str:
        """Where `has(name)` looks and what stands there: `CPUID Fn8000_000A EDX[3] (NRIPS) is 0`."""
        item = known(name)
        if item.infer is not None:
            return f"{item.name} is inferred to be {'there' if self.has(name) else 'missing'} ({item.where})"
        return f"CPUID {item.where} ({item.name}) is {int(self.has(name))}"

    def evaluate_condition(self, expression: str) -> tuple[bool, str]:
        """A clause's condition such as `"NP & !VGIF"`: whether it holds, and why (one line, for SKIP texts).

        Operators `! & |` and parentheses; an empty condition always holds. ValueError if it cannot be read.
        """
        return evaluate(expression, self.has, self.why)

    def efer_legal_mask(self) -> int:
        """EFER bits that this CPU implements. Bits 7:1 are not among them, though they are RAZ and not MBZ."""
        mask = r.EFER_SVME | (r.EFER_SCE if self.has("SYSCALL") else 0)
        if self.has("LM"):
            mask |= r.EFER_LME | r.EFER_LMA
        for name, bits in _EFER_BY_FEATURE:
            if self.has(name):
                mask |= bits
        return mask

    def cr4_legal_mask(self) -> int:
        """CR4 bits that this CPU implements. Bits 10:0 are in every CPU that has SVM and are always legal."""
        mask = 0x7FF
        for name, bits in _CR4_BY_FEATURE:
            if self.has(name):
                mask |= bits
        return mask


_EFER_BY_FEATURE = (
    ("NX", r.EFER_NXE), ("LMSLE", r.EFER_LMSLE), ("FFXSR", r.EFER_FFXSR), ("TCE", r.EFER_TCE),
    ("MCOMMIT", r.EFER_MCOMMIT), ("INTWB", r.EFER_INTWB), ("UAI", r.EFER_UAIE), ("AIBRS", r.EFER_AIBRSE),
)  # fmt: skip

_CR4_BY_FEATURE = (
    ("UMIP", r.CR4_UMIP), ("LA57", r.CR4_LA57), ("FSGSBASE", r.CR4_FSGSBASE), ("PCID", r.CR4_PCIDE),
    ("XSAVE", r.CR4_OSXSAVE), ("SMEP", r.CR4_SMEP), ("SMAP", r.CR4_SMAP), ("PKU", r.CR4_PKE), ("CET_SS", r.CR4_CET),
)  # fmt: skip


def _text(*words: int) -> str:
    raw = b"".join(word.to_bytes(4, "little") for word in words).split(b"\0")[0]
    return "".join(chr(byte) if 32 <= byte < 127 else "?" for byte in raw)
