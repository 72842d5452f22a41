"""MSR numbers and names, and what the bits of those that matter here mean (APM2 15.30, App. A)."""

from __future__ import annotations

from enum import IntEnum

from harness.svm import registers as r
from harness.svm.bits import Bits, bit, describe_bits, flags, span


class MSR(IntEnum):
    """MSR addresses."""

    TSC = 0x10
    APIC_BASE = 0x1B
    SPEC_CTRL = 0x48
    PRED_CMD = 0x49
    MTRR_CAP = 0xFE
    SYSENTER_CS = 0x174
    SYSENTER_ESP = 0x175
    SYSENTER_EIP = 0x176
    MCG_CAP = 0x179
    MCG_STATUS = 0x17A
    DEBUGCTL = 0x1D9
    BR_FROM = 0x1DB
    BR_TO = 0x1DC
    LAST_EXCP_FROM = 0x1DD
    LAST_EXCP_TO = 0x1DE
    PAT = 0x277
    MTRR_DEF_TYPE = 0x2FF
    U_CET = 0x6A0
    S_CET = 0x6A2
    PL0_SSP = 0x6A4
    PL1_SSP = 0x6A5
    PL2_SSP = 0x6A6
    PL3_SSP = 0x6A7
    ISST_ADDR = 0x6A8
    XSS = 0xDA0
    EFER = 0xC000_0080
    STAR = 0xC000_0081
    LSTAR = 0xC000_0082
    CSTAR = 0xC000_0083
    SFMASK = 0xC000_0084
    FS_BASE = 0xC000_0100
    GS_BASE = 0xC000_0101
    KERNEL_GS_BASE = 0xC000_0102
    TSC_AUX = 0xC000_0103
    TSC_RATIO = 0xC000_0104
    DEBUG_EXTN_CTL = 0xC000_010F
    SYSCFG = 0xC001_0010
    HWCR = 0xC001_0015
    VM_CR = 0xC001_0114
    IGNNE = 0xC001_0115
    SMM_CTL = 0xC001_0116
    VM_HSAVE_PA = 0xC001_0117
    SVM_KEY = 0xC001_0118
    AVIC_DOORBELL = 0xC001_011B
    OSVW_ID_LENGTH = 0xC001_0140
    OSVW_STATUS = 0xC001_0141


VM_CR_DPD, VM_CR_R_INIT, VM_CR_DIS_A20M, VM_CR_LOCK, VM_CR_SVMDIS = (1 << n for n in range(5))
VM_CR_DEFINED = 0x1F  # 63:5 are MBZ

TSC_RATIO_ONE = 1 << 32
TSC_RATIO_RESERVED = 0xFFFF_FF00_0000_0000  # MBZ: the ratio is 8.32 fixed point

_LAYOUTS: dict[int, tuple[Bits, ...]] = {
    MSR.EFER: r.EFER,
    MSR.VM_CR: flags({0: "DPD", 1: "R_INIT", 2: "DIS_A20M", 3: "LOCK", 4: "SVMDIS"}),
    MSR.IGNNE: (bit(0, "IGNNE"),),
    MSR.SMM_CTL: flags({0: "DISMISS", 1: "ENTER", 2: "SMI_CYCLE", 3: "EXIT", 4: "RSM_CYCLE"}),
    MSR.APIC_BASE: (*flags({8: "BSC", 10: "EXTD", 11: "AE"}), span(51, 12, "BASE>>12")),
    MSR.DEBUGCTL: r.DEBUGCTL,
    MSR.PAT: r.PAT,
    MSR.S_CET: r.S_CET,
    MSR.SPEC_CTRL: r.SPEC_CTRL,
    MSR.HWCR: flags({0: "SMMLOCK", 24: "TSC_FREQ_SEL"}),
    MSR.TSC_RATIO: (span(39, 32, "INT"), span(31, 0, "FRAC")),
}


def msr_name(number: int) -> str:
    """`"EFER (C0000080h)"`, or the number alone."""
    try:
        return f"{MSR(number).name} ({number:08X}h)"
    except ValueError:
        return f"MSR {number:08X}h"


def msr_layout(number: int) -> tuple[Bits, ...]:
    """The bits of an MSR by name; empty where none are known."""
    return _LAYOUTS.get(number, ())


def describe_msr(number: int, value: int) -> str:
    """The value's meaning by bit names; empty if no bits are known."""
    return describe_bits(_LAYOUTS.get(number, ()), value)


_MSRPM_RANGES = (0, 0xC000_0000, 0xC001_0000)  # each 2000h MSRs, 800h bytes of the map (APM2 15.11)
MSRPM_SIZE = 0x2000
IOPM_SIZE = 0x3000


def msrpm_position(number: int) -> tuple[int, int] | None:
    """(byte, bit) of the MSR's read bit in the MSR permissions map; the write bit is the next. None: not in the map."""
    for index, base in enumerate(_MSRPM_RANGES):
        if base <= number < base + 0x2000:
            place = 2 * (number - base)
            return index * 0x800 + place // 8, place % 8
    return None


def iopm_position(port: int) -> tuple[int, int]:
    """(byte, bit) of a port in the I/O permissions map. Ports up to 10002h: an access at FFFFh runs on (15.10.1)."""
    if not 0 <= port <= 0x1_0002:
        raise ValueError(f"port {port:#x} has no bit")
    return port // 8, port % 8


def msrpm(reads: tuple[int, ...] = (), writes: tuple[int, ...] = ()) -> bytes:
    """An 8 KiB MSR permissions map that intercepts these MSRs. ValueError for one outside the map."""
    image = bytearray(MSRPM_SIZE)
    for numbers, plus in ((reads, 0), (writes, 1)):
        for number in numbers:
            place = msrpm_position(number)
            if place is None:
                raise ValueError(f"{msr_name(number)} is in none of the map's ranges (it is always intercepted)")
            image[place[0]] |= 1 << (place[1] + plus)
    return bytes(image)


def iopm(ports: tuple[int, ...] = ()) -> bytes:
    """A 12 KiB I/O permissions map that intercepts these ports."""
    image = bytearray(IOPM_SIZE)
    for port in ports:
        byte, number = iopm_position(port)
        image[byte] |= 1 << number
    return bytes(image)
