"""CPU features by the names that clauses use, and where CPUID shows them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from harness.names import nearest


@dataclass(frozen=True)
class SvmBit:
    """One bit of CPUID Fn8000_000A EDX. Reserved ones have the name `reserved<number>`."""

    bit: int
    name: str
    title: str
    apm: str
    aliases: tuple[str, ...] = ()

    @property
    def reserved(self) -> bool:
        """No meaning in the APM."""
        return self.name.startswith("reserved")


def _reserved(number: int) -> SvmBit:
    return SvmBit(number, f"reserved{number}", "reserved", "vol 3 E.4.9")


SVM_BITS: tuple[SvmBit, ...] = (
    SvmBit(0, "NP", "nested paging", "15.25"),
    SvmBit(1, "LbrVirt", "last branch record virtualization", "15.23", ("LBRV",)),
    SvmBit(2, "SVML", "SVM lock", "15.31", ("SvmLock",)),
    SvmBit(3, "NRIPS", "next RIP save", "15.7.1", ("NripSave",)),
    SvmBit(4, "TscRateMsr", "TSC ratio MSR", "15.30.5", ("TscRatio",)),
    SvmBit(5, "VmcbClean", "VMCB clean bits", "15.15"),
    SvmBit(6, "FlushByAsid", "TLB flush by ASID", "15.16.1"),
    SvmBit(7, "DecodeAssists", "decode assists", "15.8", ("DecodeAssist",)),
    SvmBit(8, "PmcVirt", "performance counter virtualization", "15.39"),
    _reserved(9),
    SvmBit(10, "PauseFilter", "PAUSE intercept filter", "15.14.4"),
    _reserved(11),
    SvmBit(12, "PauseFilterThreshold", "PAUSE filter threshold", "15.14.4", ("PFThreshold",)),
    SvmBit(13, "AVIC", "advanced virtual interrupt controller", "15.29"),
    _reserved(14),
    SvmBit(15, "VmsaveVirt", "VMLOAD and VMSAVE virtualization", "15.33.1", ("VVMLOAD", "VLS", "VmloadVmsaveVirt")),
    SvmBit(16, "VGIF", "virtual GIF", "15.33.2"),
    SvmBit(17, "GMET", "guest mode execute trap", "15.25.13"),
    SvmBit(18, "x2AVIC", "x2APIC virtualization", "15.29"),
    SvmBit(19, "SSSCheck", "supervisor shadow stack checks", "15.25.14", ("SSS",)),
    SvmBit(20, "SpecCtrl", "SPEC_CTRL virtualization", "15.37.1", ("VSpecCtrl",)),
    SvmBit(21, "ROGPT", "read-only guest page tables", "15.25.5"),
    _reserved(22),
    SvmBit(23, "HOST_MCE_OVERRIDE", "host CR4.MCE decides for the guest", "15.12.18"),
    SvmBit(24, "TlbiCtl", "INVLPGB and TLBSYNC control in the guest", "App. B Table B-1", ("TlbSyncCtl",)),
    SvmBit(25, "VNMI", "virtual NMI", "15.21.10"),
    SvmBit(26, "IbsVirt", "instruction based sampling virtualization", "15.38"),
    SvmBit(27, "ExtLvtAvicAccessChg", "changed AVIC access to the extended LVT", "15.29", ("ExtLvtOffsetFaultChg",)),
    SvmBit(28, "SVME_ADDR_CHK", "VMCB address check change", "15.5.1", ("NestedVirtVmcbAddrChk", "bit28")),
    SvmBit(29, "BusLockThreshold", "bus lock threshold", "15.14.5"),
    SvmBit(30, "IdleHltIntercept", "idle HLT intercept", "15.9"),
    SvmBit(31, "EnhancedShutdownIntercept", "enhanced shutdown intercept", "15.14.3"),
)
"""All 32 bits of CPUID Fn8000_000A EDX, in order."""

Has = Callable[[str], bool]


@dataclass(frozen=True)
class Feature:
    """Where a feature shows: `leaf`, `sub`, `register` ("EDX") and `bit`, or `infer` where there is no bit for it."""

    name: str
    leaf: int
    register: str
    bit: int
    sub: int = 0
    aliases: tuple[str, ...] = ()
    infer: Callable[[Has], bool] | None = None
    reason: str = ""

    @property
    def where(self) -> str:
        """`Fn8000_000A EDX[3]`."""
        if self.infer is not None:
            return self.reason
        text = f"{self.leaf:08X}"
        sub = f"_x{self.sub}" if self.leaf == 7 else ""
        return f"Fn{text[:4]}_{text[4:]}{sub} {self.register}[{self.bit}]"


def normalise(name: str) -> str:
    """Names are compared without case, underscores and dashes: `CET_SS`, `cet-ss`."""
    return name.replace("_", "").replace("-", "").casefold()


def _others() -> tuple[Feature, ...]:
    def std(name: str, register: str, number: int, *aliases: str) -> Feature:
        return Feature(name, 1, register, number, aliases=aliases)

    def seven(name: str, register: str, number: int, *aliases: str) -> Feature:
        return Feature(name, 7, register, number, aliases=aliases)

    def ext(name: str, leaf: int, register: str, number: int, *aliases: str) -> Feature:
        return Feature(name, 0x8000_0000 + leaf, register, number, aliases=aliases)

    return (
        std("VME", "EDX", 1), std("DE", "EDX", 2), std("PSE", "EDX", 3), std("TSC", "EDX", 4), std("MSR", "EDX", 5),
        std("PAE", "EDX", 6), std("MCE", "EDX", 7), std("APIC", "EDX", 9), std("SYSENTER", "EDX", 11, "SEP"),
        std("MTRR", "EDX", 12), std("PGE", "EDX", 13), std("PAT", "EDX", 16), std("PSE36", "EDX", 17),
        std("FXSR", "EDX", 24), std("SSE", "EDX", 25),
        std("MONITOR", "ECX", 3), std("PCID", "ECX", 17), std("X2APIC", "ECX", 21), std("XSAVE", "ECX", 26),
        std("OSXSAVE", "ECX", 27), std("AVX", "ECX", 28), std("RDRAND", "ECX", 30), std("HYPERVISOR", "ECX", 31),
        seven("FSGSBASE", "EBX", 0), seven("SMEP", "EBX", 7), seven("INVPCID", "EBX", 10), seven("SMAP", "EBX", 20),
        seven("UMIP", "ECX", 2), seven("PKU", "ECX", 3, "PKE"), seven("CET_SS", "ECX", 7, "CET", "SHSTK"),
        seven("LA57", "ECX", 16), seven("BUS_LOCK_DETECT", "ECX", 24),
        ext("LAHF", 1, "ECX", 0), ext("SVM", 1, "ECX", 2), ext("ExtApicSpace", 1, "ECX", 3),
        ext("AltMovCr8", 1, "ECX", 4), ext("IBS", 1, "ECX", 10), ext("SKINIT", 1, "ECX", 12),
        ext("TCE", 1, "ECX", 17), ext("DBEXT", 1, "ECX", 26, "DataBreakpointExtension"),
        ext("PerfCtrExtCore", 1, "ECX", 23), ext("MONITORX", 1, "ECX", 29),
        ext("SYSCALL", 1, "EDX", 11), ext("NX", 1, "EDX", 20), ext("FFXSR", 1, "EDX", 25),
        ext("Page1GB", 1, "EDX", 26), ext("RDTSCP", 1, "EDX", 27), ext("LM", 1, "EDX", 29),
        ext("INVLPGB", 8, "EBX", 3), ext("RDPRU", 8, "EBX", 4), ext("MCOMMIT", 8, "EBX", 8),
        ext("WBNOINVD", 8, "EBX", 9), ext("INTWB", 8, "EBX", 13, "INT_WBINVD"),
        ext("IBRS", 8, "EBX", 14),
        ext("EferLmsleUnsupported", 8, "EBX", 20),
        ext("SME", 0x1F, "EAX", 0), ext("SEV", 0x1F, "EAX", 1), ext("SEV-ES", 0x1F, "EAX", 3),
        ext("SEV-SNP", 0x1F, "EAX", 4), ext("VmgexitParameter", 0x1F, "EAX", 17), ext("VTE", 0x1F, "EAX", 16),
        ext("UAI", 0x21, "EAX", 7, "UAIE", "UpperAddressIgnore"),
        ext("AIBRS", 0x21, "EAX", 8, "AutomaticIBRS", "AIBRSE"),
        ext("ERAPS", 0x21, "EAX", 24),
        ext("LbrExtV2", 0x22, "EAX", 1, "LbrStack"),
        Feature(
            "LMSLE", 0, "", 0, infer=lambda has: has("LM") and not has("EferLmsleUnsupported"),
            reason="long mode without Fn8000_0008 EBX[20]",
        ),
    )  # fmt: skip


def _build() -> dict[str, Feature]:
    svm = [Feature(item.name, 0x8000_000A, "EDX", item.bit, aliases=item.aliases) for item in SVM_BITS]
    return {item.name: item for item in (*svm, *_others())}


FEATURES: dict[str, Feature] = _build()
"""Every feature by its name."""

_BY_ANY_NAME: dict[str, Feature] = {
    normalise(name): item for item in FEATURES.values() for name in (item.name, *item.aliases)
}


def feature(name: str) -> Feature | None:
    """The feature of this name or alias; None if nobody knows it."""
    return _BY_ANY_NAME.get(normalise(name))


class UnknownFeature(ValueError):
    """Nobody knows a feature of that name. The text is one line for people."""


def known(name: str) -> Feature:
    """The feature of this name or alias. Raises UnknownFeature, which says which name is near."""
    item = feature(name)
    if item is None:
        names = [each for one in FEATURES.values() for each in (one.name, *one.aliases)]
        raise UnknownFeature(f"unknown CPU feature {name!r}{nearest(name, names)}")
    return item
