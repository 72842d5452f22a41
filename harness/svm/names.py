"""Bits of registers and exceptions by name, for tests: `CR0.PG | CR0.PE`, `PF`.

The values are plain integers, so that `~CR0.PG` is all the other bits of a 64-bit value too.
"""

from __future__ import annotations

from enum import IntEnum

from harness.svm import registers as r


class CR0:
    """Bits of CR0 (APM2 3.1.1)."""

    PE, MP, EM, TS, ET, NE = r.CR0_PE, r.CR0_MP, r.CR0_EM, r.CR0_TS, r.CR0_ET, r.CR0_NE
    WP, AM, NW, CD, PG = r.CR0_WP, r.CR0_AM, r.CR0_NW, r.CR0_CD, r.CR0_PG


class CR4:
    """Bits of CR4 (APM2 3.1.3)."""

    VME, PVI, TSD, DE, PSE = r.CR4_VME, r.CR4_PVI, r.CR4_TSD, r.CR4_DE, r.CR4_PSE
    PAE, MCE, PGE, PCE, OSFXSR = r.CR4_PAE, r.CR4_MCE, r.CR4_PGE, r.CR4_PCE, r.CR4_OSFXSR
    OSXMMEXCPT, UMIP, LA57, FSGSBASE, PCIDE = r.CR4_OSXMMEXCPT, r.CR4_UMIP, r.CR4_LA57, r.CR4_FSGSBASE, r.CR4_PCIDE
    OSXSAVE, SMEP, SMAP, PKE, CET = r.CR4_OSXSAVE, r.CR4_SMEP, r.CR4_SMAP, r.CR4_PKE, r.CR4_CET


class EFER:
    """Bits of EFER, MSR C000_0080h (APM2 3.1.7)."""

    SCE, LME, LMA, NXE, SVME = r.EFER_SCE, r.EFER_LME, r.EFER_LMA, r.EFER_NXE, r.EFER_SVME
    LMSLE, FFXSR, TCE, MCOMMIT = r.EFER_LMSLE, r.EFER_FFXSR, r.EFER_TCE, r.EFER_MCOMMIT
    INTWB, UAIE, AIBRSE = r.EFER_INTWB, r.EFER_UAIE, r.EFER_AIBRSE


class RFLAGS:
    """Bits of RFLAGS (APM2 3.1.6). `ONE` is bit 1, which reads as 1 always; `IOPL` is two bits."""

    CF, ONE, PF, AF, ZF, SF = r.RFLAGS_CF, r.RFLAGS_FIXED, r.RFLAGS_PF, r.RFLAGS_AF, r.RFLAGS_ZF, r.RFLAGS_SF
    TF, IF, DF, OF, IOPL, NT = r.RFLAGS_TF, r.RFLAGS_IF, r.RFLAGS_DF, r.RFLAGS_OF, r.RFLAGS_IOPL, r.RFLAGS_NT
    RF, VM, AC, VIF, VIP, ID = r.RFLAGS_RF, r.RFLAGS_VM, r.RFLAGS_AC, r.RFLAGS_VIF, r.RFLAGS_VIP, r.RFLAGS_ID


class DR6:
    """Bits of DR6 (APM2 13.1.1.3). `RESET` is its value after reset."""

    B0, B1, B2, B3 = 1 << 0, 1 << 1, 1 << 2, 1 << 3
    BLD, BD, BS, BT = 1 << 11, 1 << 13, 1 << 14, 1 << 15
    RESET = r.DR6_RESET


class DR7:
    """Bits of DR7 (APM2 13.1.1.4). `RESET` is its value after reset. Of the R/W and LEN runs these are the two bits."""

    L0, G0, L1, G1, L2, G2, L3, G3 = (1 << n for n in range(8))
    LE, GE, GD = 1 << 8, 1 << 9, 1 << 13
    RW0, LEN0, RW1, LEN1, RW2, LEN2, RW3, LEN3 = (3 << n for n in range(16, 32, 2))
    RESET = r.DR7_RESET


class Vector(IntEnum):
    """Exceptions by their vectors (APM2 8.2), without the `#`. NMI is an interrupt with a vector of its own."""

    DE = 0
    DB = 1
    NMI = 2
    BP = 3
    OF = 4
    BR = 5
    UD = 6
    NM = 7
    DF = 8
    TS = 10
    NP = 11
    SS = 12
    GP = 13
    PF = 14
    MF = 16
    AC = 17
    MC = 18
    XF = 19
    CP = 21
    HV = 28
    VC = 29
    SX = 30


# #NP is Vector.NP alone: a bare NP would be taken for nested paging.
DE, DB, NMI, BP, OF, BR, UD, NM = (Vector(n) for n in range(8))
DF, TS, SS, GP, PF = Vector.DF, Vector.TS, Vector.SS, Vector.GP, Vector.PF
MF, AC, MC, XF, CP, HV, VC, SX = (Vector(n) for n in (16, 17, 18, 19, 21, 28, 29, 30))
