"""Bit names of the registers that a VMCB holds, and the order of the general registers."""

from __future__ import annotations

from harness.svm.bits import Bits, bit, flags, reserved, span

register_names: tuple[str, ...] = (
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
    "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
)  # fmt: skip
"""General registers in the order of their encoding: what EXITINFO1[3:0] of a CR or DR access counts by."""

RFLAGS_FIXED = 1 << 1  # reads 1 always
RFLAGS_CF, RFLAGS_PF, RFLAGS_AF, RFLAGS_ZF, RFLAGS_SF = 1 << 0, 1 << 2, 1 << 4, 1 << 6, 1 << 7
RFLAGS_TF, RFLAGS_IF, RFLAGS_DF, RFLAGS_OF = 1 << 8, 1 << 9, 1 << 10, 1 << 11
RFLAGS_IOPL = 3 << 12
RFLAGS_NT, RFLAGS_RF, RFLAGS_VM, RFLAGS_AC = 1 << 14, 1 << 16, 1 << 17, 1 << 18
RFLAGS_VIF, RFLAGS_VIP, RFLAGS_ID = 1 << 19, 1 << 20, 1 << 21

RFLAGS: tuple[Bits, ...] = (
    *flags({0: "CF", 2: "PF", 4: "AF", 6: "ZF", 7: "SF", 8: "TF", 9: "IF", 10: "DF", 11: "OF"}),
    bit(1, "bit1"),
    span(13, 12, "IOPL", always=False),
    *flags({14: "NT", 16: "RF", 17: "VM", 18: "AC", 19: "VIF", 20: "VIP", 21: "ID"}),
    reserved(63, 22),
)

CR0_PE, CR0_MP, CR0_EM, CR0_TS, CR0_ET, CR0_NE = (1 << n for n in range(6))
CR0_WP, CR0_AM, CR0_NW, CR0_CD, CR0_PG = 1 << 16, 1 << 18, 1 << 29, 1 << 30, 1 << 31
CR0: tuple[Bits, ...] = flags(
    {0: "PE", 1: "MP", 2: "EM", 3: "TS", 4: "ET", 5: "NE", 16: "WP", 18: "AM", 29: "NW", 30: "CD", 31: "PG"}
)

CR3: tuple[Bits, ...] = (span(51, 12, "base>>12"), span(11, 0, "low12", always=False))

CR4_VME, CR4_PVI, CR4_TSD, CR4_DE, CR4_PSE, CR4_PAE, CR4_MCE, CR4_PGE = (1 << n for n in range(8))
CR4_PCE, CR4_OSFXSR, CR4_OSXMMEXCPT, CR4_UMIP, CR4_LA57, CR4_VMXE = (1 << n for n in range(8, 14))
CR4_FSGSBASE, CR4_PCIDE, CR4_OSXSAVE = 1 << 16, 1 << 17, 1 << 18
CR4_SMEP, CR4_SMAP, CR4_PKE, CR4_CET = 1 << 20, 1 << 21, 1 << 22, 1 << 23
CR4: tuple[Bits, ...] = flags(
    {
        0: "VME", 1: "PVI", 2: "TSD", 3: "DE", 4: "PSE", 5: "PAE", 6: "MCE", 7: "PGE", 8: "PCE", 9: "OSFXSR",
        10: "OSXMMEXCPT", 11: "UMIP", 12: "LA57", 16: "FSGSBASE", 17: "PCIDE", 18: "OSXSAVE", 20: "SMEP",
        21: "SMAP", 22: "PKE", 23: "CET",
    }
)  # fmt: skip

EFER_SCE, EFER_LME, EFER_LMA, EFER_NXE, EFER_SVME = 1 << 0, 1 << 8, 1 << 10, 1 << 11, 1 << 12
EFER_LMSLE, EFER_FFXSR, EFER_TCE, EFER_MCOMMIT = 1 << 13, 1 << 14, 1 << 15, 1 << 17
EFER_INTWB, EFER_UAIE, EFER_AIBRSE = 1 << 18, 1 << 20, 1 << 21
EFER_RAZ = 0xFE  # 7:1 are "reserved, RAZ" in APM2 3.1.7, where the other reserved bits are MBZ
EFER: tuple[Bits, ...] = flags(
    {
        0: "SCE", 8: "LME", 10: "LMA", 11: "NXE", 12: "SVME", 13: "LMSLE", 14: "FFXSR", 15: "TCE", 17: "MCOMMIT",
        18: "INTWB", 20: "UAIE", 21: "AIBRSE",
    }
)  # fmt: skip

DR6_RESET = 0xFFFF_0FF0
DR7_RESET = 0x0000_0400
DR6: tuple[Bits, ...] = (
    *flags({0: "B0", 1: "B1", 2: "B2", 3: "B3", 13: "BD", 14: "BS", 15: "BT"}),
    span(11, 4, "ones11:4", always=False),  # 11 is BLD where bus lock traps exist, and 0 then says "bus lock"
    span(31, 16, "ones31:16", always=False),
)
_BREAK_ON = {0: "execute", 1: "write", 2: "I/O", 3: "read/write"}
_LENGTH = {0: "1", 1: "2", 2: "8", 3: "4"}
DR7: tuple[Bits, ...] = (
    *flags({0: "L0", 1: "G0", 2: "L1", 3: "G1", 4: "L2", 5: "G2", 6: "L3", 7: "G3", 8: "LE", 9: "GE"}),
    bit(10, "bit10"),
    bit(13, "GD"),
    *(
        run
        for n in range(4)
        for run in (
            span(17 + 4 * n, 16 + 4 * n, f"RW{n}", _BREAK_ON, always=False),
            span(19 + 4 * n, 18 + 4 * n, f"LEN{n}", _LENGTH, always=False),
        )
    ),
)

S_CET: tuple[Bits, ...] = flags({0: "SH_STK_EN", 1: "WR_SHSTK_EN"})
DEBUGCTL: tuple[Bits, ...] = flags({0: "LBR", 1: "BTF", 2: "BLCKDB", 11: "FLBRI", 12: "FPMCI"})
SPEC_CTRL: tuple[Bits, ...] = flags({0: "IBRS", 1: "STIBP", 2: "SSBD", 7: "PSFD"})

PAT_TYPES = {0: "UC", 1: "WC", 4: "WT", 5: "WP", 6: "WB", 7: "UC-"}
PAT: tuple[Bits, ...] = tuple(span(8 * n + 7, 8 * n, f"PA{n}", PAT_TYPES) for n in range(8))
G_PAT_RESET = 0x0007_0406_0007_0406

# The VMCB keeps a descriptor's bits 55:52 and 47:40 pressed together into 12 bits (APM2 15.5.1, Segment State).
ATTRIB_S, ATTRIB_P, ATTRIB_AVL, ATTRIB_L, ATTRIB_DB, ATTRIB_G = 1 << 4, 1 << 7, 1 << 8, 1 << 9, 1 << 10, 1 << 11
SEGMENT_ATTRIB: tuple[Bits, ...] = (
    span(3, 0, "TYPE"),
    bit(4, "S"),
    span(6, 5, "DPL"),
    *flags({7: "P", 8: "AVL", 9: "L", 10: "D/B", 11: "G"}),
)


def attrib_from_descriptor(descriptor: int) -> int:
    """The 12-bit VMCB attribute form of an 8-byte GDT descriptor."""
    return (descriptor >> 40 & 0xFF) | (descriptor >> 52 & 0xF) << 8
