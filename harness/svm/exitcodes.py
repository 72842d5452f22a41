"""Exit codes by name (APM2 App. C Table C-1)."""

from __future__ import annotations

from enum import IntEnum


class VMEXIT(IntEnum):
    """EXITCODE, the 64-bit field at 070h. Exceptions without a name are `EXCP_<vector>`."""

    CR0_READ = 0x00
    CR1_READ = 0x01
    CR2_READ = 0x02
    CR3_READ = 0x03
    CR4_READ = 0x04
    CR5_READ = 0x05
    CR6_READ = 0x06
    CR7_READ = 0x07
    CR8_READ = 0x08
    CR9_READ = 0x09
    CR10_READ = 0x0A
    CR11_READ = 0x0B
    CR12_READ = 0x0C
    CR13_READ = 0x0D
    CR14_READ = 0x0E
    CR15_READ = 0x0F
    CR0_WRITE = 0x10
    CR1_WRITE = 0x11
    CR2_WRITE = 0x12
    CR3_WRITE = 0x13
    CR4_WRITE = 0x14
    CR5_WRITE = 0x15
    CR6_WRITE = 0x16
    CR7_WRITE = 0x17
    CR8_WRITE = 0x18
    CR9_WRITE = 0x19
    CR10_WRITE = 0x1A
    CR11_WRITE = 0x1B
    CR12_WRITE = 0x1C
    CR13_WRITE = 0x1D
    CR14_WRITE = 0x1E
    CR15_WRITE = 0x1F
    DR0_READ = 0x20
    DR1_READ = 0x21
    DR2_READ = 0x22
    DR3_READ = 0x23
    DR4_READ = 0x24
    DR5_READ = 0x25
    DR6_READ = 0x26
    DR7_READ = 0x27
    DR8_READ = 0x28
    DR9_READ = 0x29
    DR10_READ = 0x2A
    DR11_READ = 0x2B
    DR12_READ = 0x2C
    DR13_READ = 0x2D
    DR14_READ = 0x2E
    DR15_READ = 0x2F
    DR0_WRITE = 0x30
    DR1_WRITE = 0x31
    DR2_WRITE = 0x32
    DR3_WRITE = 0x33
    DR4_WRITE = 0x34
    DR5_WRITE = 0x35
    DR6_WRITE = 0x36
    DR7_WRITE = 0x37
    DR8_WRITE = 0x38
    DR9_WRITE = 0x39
    DR10_WRITE = 0x3A
    DR11_WRITE = 0x3B
    DR12_WRITE = 0x3C
    DR13_WRITE = 0x3D
    DR14_WRITE = 0x3E
    DR15_WRITE = 0x3F
    EXCP_DE = 0x40
    EXCP_DB = 0x41
    EXCP_NMI = 0x42
    EXCP_BP = 0x43
    EXCP_OF = 0x44
    EXCP_BR = 0x45
    EXCP_UD = 0x46
    EXCP_NM = 0x47
    EXCP_DF = 0x48
    EXCP_9 = 0x49
    EXCP_TS = 0x4A
    EXCP_NP = 0x4B
    EXCP_SS = 0x4C
    EXCP_GP = 0x4D
    EXCP_PF = 0x4E
    EXCP_15 = 0x4F
    EXCP_MF = 0x50
    EXCP_AC = 0x51
    EXCP_MC = 0x52
    EXCP_XF = 0x53
    EXCP_20 = 0x54
    EXCP_CP = 0x55
    EXCP_22 = 0x56
    EXCP_23 = 0x57
    EXCP_24 = 0x58
    EXCP_25 = 0x59
    EXCP_26 = 0x5A
    EXCP_27 = 0x5B
    EXCP_HV = 0x5C
    EXCP_VC = 0x5D
    EXCP_SX = 0x5E
    EXCP_31 = 0x5F
    INTR = 0x60
    NMI = 0x61
    SMI = 0x62
    INIT = 0x63
    VINTR = 0x64
    CR0_SEL_WRITE = 0x65
    SIDT = 0x66
    SGDT = 0x67
    SLDT = 0x68
    STR = 0x69
    LIDT = 0x6A
    LGDT = 0x6B
    LLDT = 0x6C
    LTR = 0x6D
    RDTSC = 0x6E
    RDPMC = 0x6F
    PUSHF = 0x70
    POPF = 0x71
    CPUID = 0x72
    RSM = 0x73
    IRET = 0x74
    INTN = 0x75
    INVD = 0x76
    PAUSE = 0x77
    HLT = 0x78
    INVLPG = 0x79
    INVLPGA = 0x7A
    IOIO = 0x7B
    MSR = 0x7C
    TASK_SWITCH = 0x7D
    FERR_FREEZE = 0x7E
    SHUTDOWN = 0x7F
    VMRUN = 0x80
    VMMCALL = 0x81
    VMLOAD = 0x82
    VMSAVE = 0x83
    STGI = 0x84
    CLGI = 0x85
    SKINIT = 0x86
    RDTSCP = 0x87
    ICEBP = 0x88
    WBINVD = 0x89
    MONITOR = 0x8A
    MWAIT = 0x8B
    MWAIT_ARMED = 0x8C
    XSETBV = 0x8D
    RDPRU = 0x8E
    EFER_WRITE_TRAP = 0x8F
    CR0_WRITE_TRAP = 0x90
    CR1_WRITE_TRAP = 0x91
    CR2_WRITE_TRAP = 0x92
    CR3_WRITE_TRAP = 0x93
    CR4_WRITE_TRAP = 0x94
    CR5_WRITE_TRAP = 0x95
    CR6_WRITE_TRAP = 0x96
    CR7_WRITE_TRAP = 0x97
    CR8_WRITE_TRAP = 0x98
    CR9_WRITE_TRAP = 0x99
    CR10_WRITE_TRAP = 0x9A
    CR11_WRITE_TRAP = 0x9B
    CR12_WRITE_TRAP = 0x9C
    CR13_WRITE_TRAP = 0x9D
    CR14_WRITE_TRAP = 0x9E
    CR15_WRITE_TRAP = 0x9F
    INVLPGB = 0xA0
    INVLPGB_ILLEGAL = 0xA1
    INVPCID = 0xA2
    MCOMMIT = 0xA3
    TLBSYNC = 0xA4
    BUSLOCK = 0xA5
    IDLE_HLT = 0xA6
    NPF = 0x400
    AVIC_INCOMPLETE_IPI = 0x401
    AVIC_NOACCEL = 0x402
    VMGEXIT = 0x403
    PAGE_NOT_VALIDATED = 0x404
    PML_FULL = 0x407
    INVALID = 0xFFFF_FFFF_FFFF_FFFF
    BUSY = 0xFFFF_FFFF_FFFF_FFFE
    IDLE_REQUIRED = 0xFFFF_FFFF_FFFF_FFFD
    INVALID_PMC = 0xFFFF_FFFF_FFFF_FFFC


KNOWN_CODES: frozenset[int] = frozenset(int(code) for code in VMEXIT)
"""Every code that the APM gives a name to."""


def exit_name(code: int) -> str:
    """`"CPUID"` for 72h; `"unknown exit 1234h"` for a code that the APM does not list."""
    try:
        return VMEXIT(code).name
    except ValueError:
        return f"unknown exit {code:X}h"
