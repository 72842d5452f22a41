"""The VMCB as one table: every field's place, width, clean bit, bit names and APM reference (APM2 App. B).

A *whole field* owns bytes of the page. A *sub-field* (`parent` set) names bits of a whole field and owns nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

from harness.svm import registers as r
from harness.svm.bits import Bits, bit, flags, reserved, reserved_mask, span
from harness.svm.events import EVENT
from harness.svm.intercepts import WORDS

VMCB_SIZE = 4096
SAVE_AREA = 0x400  # where the state save area begins

Area = Literal["control", "save"]


class Clean(IntEnum):
    """Bits of the VMCB clean field, 0C0h (APM2 15.15.3)."""

    INTERCEPTS = 0
    IOPM = 1
    ASID = 2
    TPR = 3
    NP = 4
    CRX = 5
    DRX = 6
    DT = 7
    SEG = 8
    CR2 = 9
    LBR = 10
    AVIC = 11
    CET = 12


@dataclass(frozen=True)
class Field:
    """One field.

    `offset` and `width_bytes` place the bytes; `bit_offset` and `bit_width` place the bits within them (for a whole
    field 0 and 8 * width_bytes). `clean_bit` is None for what is never cached; `clean_certain` is False where the APM's
    clean table does not name the field and only its neighbours or implementations suggest the bit.
    `written_by_exit`: #VMEXIT writes it, at least when the feature it belongs to is in use.
    `vmload`: VMLOAD reads it and VMSAVE writes it (then VMRUN and #VMEXIT leave it alone).
    """

    name: str
    offset: int
    width_bytes: int
    area: Area
    apm: str
    clean_bit: int | None = None
    bits: tuple[Bits, ...] = ()
    written_by_exit: bool = False
    vmload: bool = False
    bit_offset: int = 0
    bit_width: int = 0
    parent: str | None = None
    clean_certain: bool = True
    meaning: str = ""

    def __post_init__(self) -> None:
        if not self.bit_width:
            object.__setattr__(self, "bit_width", 8 * self.width_bytes)

    @property
    def end(self) -> int:
        """One past the last byte."""
        return self.offset + self.width_bytes

    @property
    def max(self) -> int:
        """The largest value that fits."""
        return (1 << self.bit_width) - 1

    @property
    def mask(self) -> int:
        """The field's bits within its `width_bytes` bytes."""
        return self.max << self.bit_offset

    @property
    def reserved_mask(self) -> int:
        """Bits without a meaning in the APM, counted from the field's own bit 0. 0 where no bit names are known."""
        return reserved_mask(self.bits, self.bit_width) if self.bits else 0

    def __str__(self) -> str:
        if self.parent is None:
            return f"{self.name} ({self.offset:03X}h)"
        high = self.bit_offset + self.bit_width - 1
        where = f"{high}" if self.bit_width == 1 else f"{high}:{self.bit_offset}"
        return f"{self.name} ({self.offset:03X}h[{where}])"


_LAYOUT = "App. B Table B-1"
_SAVE_LAYOUT = "App. B Table B-2"

_VINTR: tuple[tuple[str, int, int, bool, str, str], ...] = (  # name, high, low, written, apm, meaning
    ("v_tpr", 7, 0, True, "15.21.2", "virtual TPR; only 3:0 are used"),
    ("v_irq", 8, 8, True, "15.21.4", "virtual interrupt pending"),
    ("v_gif", 9, 9, True, "15.33.2", "virtual GIF"),
    ("v_nmi", 11, 11, True, "15.21.10", "virtual NMI pending"),
    ("v_nmi_mask", 12, 12, True, "15.21.10", "virtual NMI masked"),
    ("v_intr_prio", 19, 16, False, "15.21.4", "priority of the virtual interrupt"),
    ("v_ign_tpr", 20, 20, False, "15.21.4", "virtual interrupt ignores V_TPR"),
    ("v_intr_masking", 24, 24, False, "15.21.1", "host RFLAGS.IF gates physical interrupts"),
    ("v_gif_enable", 25, 25, False, "15.33.2", "virtual GIF on"),
    ("v_nmi_enable", 26, 26, False, "15.21.10", "virtual NMI on"),
    ("x2avic_enable", 30, 30, False, "15.29", "x2APIC virtualization on"),
    ("avic_enable", 31, 31, False, "15.29", "APIC virtualization on"),
    ("v_intr_vector", 39, 32, False, "15.21.4", "vector of the virtual interrupt"),
)

_NP_CONTROL: tuple[tuple[str, int, str, str], ...] = (
    ("np_enable", 0, "15.25.3", "nested paging on"),
    ("sev_enable", 1, "15.34", "memory encryption on"),
    ("sev_es_enable", 2, "15.35", "encrypted state on"),
    ("gmet_enable", 3, "15.25.13", "guest mode execute trap on"),
    ("sss_check_enable", 4, "15.25.14", "supervisor shadow stack checks on"),
    ("vte_enable", 5, "15.34.11", "virtual transparent encryption on"),
    ("rogpt_enable", 6, "15.25.5", "read-only guest page tables on"),
    ("invlpgb_enable", 7, "App. B Table B-1", "INVLPGB and TLBSYNC allowed in the guest"),
)

_VIRT_EXT: tuple[tuple[str, int, str, str], ...] = (
    ("lbr_virt_enable", 0, "15.23.1", "last branch records switched"),
    ("virt_vmload_vmsave", 1, "15.33.1", "VMLOAD and VMSAVE virtualized"),
    ("ibs_virt_enable", 2, "15.38", "instruction based sampling virtualized"),
    ("pmc_virt_enable", 3, "15.39", "performance counters virtualized"),
)

_TLB_CONTROL = {0: "nothing", 1: "flush everything", 3: "flush this ASID", 7: "flush this ASID's non-globals"}
_CLEAN_LAYOUT = tuple(bit(item.value, item.name) for item in Clean)


def _control() -> Iterator[Field]:
    def whole(
        name: str,
        offset: int,
        width: int,
        apm: str,
        clean: int | None = None,
        bits: tuple[Bits, ...] = (),
        *,
        written_by_exit: bool = False,
        clean_certain: bool = True,
        meaning: str = "",
    ) -> Field:
        return Field(
            name, offset, width, "control", apm, clean, bits,
            written_by_exit=written_by_exit, clean_certain=clean_certain, meaning=meaning,
        )  # fmt: skip

    for word in WORDS:
        yield whole(word.field, word.offset, word.width_bytes, word.apm, Clean.INTERCEPTS, word.bits())
    yield whole("pause_filter_threshold", 0x3C, 2, "15.14.4", Clean.INTERCEPTS, clean_certain=False)
    yield whole("pause_filter_count", 0x3E, 2, "15.14.4", Clean.INTERCEPTS)
    yield whole("iopm_base_pa", 0x40, 8, "15.10.1", Clean.IOPM)
    yield whole("msrpm_base_pa", 0x48, 8, "15.11", Clean.IOPM)
    yield whole("tsc_offset", 0x50, 8, "15.30.5", Clean.INTERCEPTS)
    yield whole("asid", 0x58, 4, "15.16", Clean.ASID)
    yield whole("tlb_control", 0x5C, 1, "15.16.1", bits=(span(7, 0, "TLB_CONTROL", _TLB_CONTROL),))
    yield whole("erap_control", 0x5D, 1, "15.37.2", bits=flags({0: "ALLOW_LARGER_RAP", 1: "CLEAR_RAP"}))
    yield whole("vintr", 0x60, 8, "15.21", Clean.TPR, _vintr_bits(), written_by_exit=True)
    yield whole(
        "int_state", 0x68, 8, "15.21.5", bits=flags({0: "INTERRUPT_SHADOW", 1: "GUEST_INTERRUPT_MASK"}),
        written_by_exit=True,
    )  # fmt: skip
    yield whole("exitcode", 0x70, 8, "15.6; App. C", written_by_exit=True)
    yield whole("exitinfo1", 0x78, 8, "15.6", written_by_exit=True)
    yield whole("exitinfo2", 0x80, 8, "15.6", written_by_exit=True)
    yield whole("exitintinfo", 0x88, 8, "15.7.2", bits=EVENT, written_by_exit=True)
    yield whole("np_control", 0x90, 8, "15.25.3", Clean.NP, _enables(_NP_CONTROL), clean_certain=False)
    yield whole("avic_bar", 0x98, 8, "15.29", Clean.AVIC, (span(51, 0, "APIC_BAR"),))
    yield whole("ghcb", 0xA0, 8, "15.35")
    yield whole("eventinj", 0xA8, 8, "15.20", bits=EVENT, written_by_exit=True)
    yield whole("n_cr3", 0xB0, 8, "15.25.4", Clean.NP)
    yield whole("virt_ext", 0xB8, 8, "15.23.1; 15.33.1", Clean.LBR, _enables(_VIRT_EXT), clean_certain=False)
    yield whole("clean", 0xC0, 4, "15.15.3", bits=_CLEAN_LAYOUT)
    yield whole("nrip", 0xC8, 8, "15.7.1", written_by_exit=True)
    yield whole("insn_len", 0xD0, 1, "15.8.4", bits=(span(3, 0, "BYTES"),), written_by_exit=True)
    yield whole("insn_bytes", 0xD1, 15, "15.8.4", written_by_exit=True)
    yield whole("avic_backing_page", 0xE0, 8, "15.29", Clean.AVIC, (span(51, 0, "PAGE"),))
    yield whole("avic_logical_table", 0xF0, 8, "15.29", Clean.AVIC, (span(51, 12, "TABLE>>12"),))
    yield whole(
        "avic_physical_table", 0xF8, 8, "15.29", Clean.AVIC, (span(51, 12, "TABLE>>12"), span(11, 0, "MAX_INDEX"))
    )
    yield whole("vmsa_ptr", 0x108, 8, "15.35", bits=(span(51, 12, "VMSA>>12"),))
    yield whole("vmgexit_rax", 0x110, 8, "15.35", written_by_exit=True)
    yield whole("vmgexit_cpl", 0x118, 1, "15.35", written_by_exit=True)
    yield whole("bus_lock_count", 0x120, 2, "15.14.5", written_by_exit=True)
    yield whole("update_irr", 0x134, 4, "15.36.21", bits=flags({0: "UPDATE_IRR"}))
    yield whole("allowed_sev_features", 0x138, 8, "15.36.20", bits=(span(61, 2, "FEATURES"), bit(63, "VALID")))
    yield whole("guest_sev_features", 0x140, 8, "15.36.20", written_by_exit=True)
    yield whole("requested_irr", 0x150, 32, "15.36.21")
    yield whole("host_reserved", 0x3E0, 32, _LAYOUT, meaning="free for the hypervisor's own use")


def _vintr_bits() -> tuple[Bits, ...]:
    return tuple(
        span(high, low, name.upper(), always=False) if high > low else bit(low, name.upper())
        for name, high, low, *_ in _VINTR
    )


def _enables(table: tuple[tuple[str, int, str, str], ...]) -> tuple[Bits, ...]:
    return flags({number: name.upper() for name, number, *_ in table})


SEGMENTS: dict[str, int] = {
    "es": 0x400, "cs": 0x410, "ss": 0x420, "ds": 0x430, "fs": 0x440, "gs": 0x450,
    "gdtr": 0x460, "ldtr": 0x470, "idtr": 0x480, "tr": 0x490,
}  # fmt: skip
"""Offset of each 16-byte segment entry: selector (2), attributes (2), limit (4), base (8)."""

_VMLOAD_SEGMENTS = frozenset({"fs", "gs", "ldtr", "tr"})
_TABLE_REGISTERS = frozenset({"gdtr", "idtr"})


def _segments() -> Iterator[Field]:
    for name, offset in SEGMENTS.items():
        vmload = name in _VMLOAD_SEGMENTS
        clean = None if vmload else Clean.DT if name in _TABLE_REGISTERS else Clean.SEG
        apm = "15.5.2" if vmload else "15.5.1"
        attrib = r.SEGMENT_ATTRIB
        limit: tuple[Bits, ...] = ()
        if name in _TABLE_REGISTERS:  # selector and attributes are reserved, the limit has 16 bits (Table B-2)
            attrib = (reserved(15, 0),)
            limit = (span(15, 0, "LIMIT"),)
        parts = (("selector", 0, 2, ()), ("attrib", 2, 2, attrib), ("limit", 4, 4, limit), ("base", 8, 8, ()))
        for part, at, width, bits in parts:
            yield Field(
                f"{name}.{part}", offset + at, width, "save", apm, clean, bits,
                written_by_exit=not vmload, vmload=vmload,
            )  # fmt: skip


def _save() -> Iterator[Field]:
    def saved(
        name: str, offset: int, width: int, clean: int | None = None, bits: tuple[Bits, ...] = (), apm: str = "15.5.1"
    ) -> Field:
        return Field(name, SAVE_AREA + offset, width, "save", apm, clean, bits, written_by_exit=True)

    def loaded(name: str, offset: int) -> Field:
        return Field(name, SAVE_AREA + offset, 8, "save", "15.5.2", vmload=True)

    yield Field("vmpl", SAVE_AREA + 0xCA, 1, "save", "15.36")
    yield saved("cpl", 0xCB, 1, Clean.SEG, (span(1, 0, "CPL"),))
    yield saved("efer", 0xD0, 8, Clean.CRX, r.EFER)
    for n in range(6):
        yield saved(f"perf_ctl{n}", 0xE0 + 16 * n, 8, apm="15.39")
        yield saved(f"perf_ctr{n}", 0xE8 + 16 * n, 8, apm="15.39")
    yield Field("xss", SAVE_AREA + 0x140, 8, "save", "15.35")
    yield saved("cr4", 0x148, 8, Clean.CRX, r.CR4)
    yield saved("cr3", 0x150, 8, Clean.CRX)
    yield saved("cr0", 0x158, 8, Clean.CRX, r.CR0)
    yield saved("dr7", 0x160, 8, Clean.DRX, r.DR7)
    yield saved("dr6", 0x168, 8, Clean.DRX, r.DR6)
    yield saved("rflags", 0x170, 8, None, r.RFLAGS)
    yield saved("rip", 0x178, 8)
    yield saved("instr_retired_ctr", 0x1C0, 8, apm="15.39")
    yield saved("perf_ctr_global_sts", 0x1C8, 8, apm="15.39")
    yield saved("perf_ctr_global_ctl", 0x1D0, 8, apm="15.39")
    yield saved("rsp", 0x1D8, 8)
    yield saved("s_cet", 0x1E0, 8, Clean.CET, r.S_CET)
    yield saved("ssp", 0x1E8, 8, Clean.CET)
    yield saved("isst_addr", 0x1F0, 8, Clean.CET)
    yield saved("rax", 0x1F8, 8)
    for n, name in enumerate(
        ("star", "lstar", "cstar", "sfmask", "kernel_gs_base", "sysenter_cs", "sysenter_esp", "sysenter_eip")
    ):
        yield loaded(name, 0x200 + 8 * n)
    yield saved("cr2", 0x240, 8, Clean.CR2)
    yield saved("g_pat", 0x268, 8, Clean.NP, r.PAT, "15.25.4")
    yield saved("dbgctl", 0x270, 8, Clean.LBR, r.DEBUGCTL, "15.23.1")
    for n, name in enumerate(("br_from", "br_to", "last_excp_from", "last_excp_to")):
        yield saved(name, 0x278 + 8 * n, 8, Clean.LBR, apm="15.23.1")
    yield saved("dbgextnctl", 0x298, 8, None, flags({6: "LBRSE"}), "15.23.1")
    yield saved("spec_ctrl", 0x2E0, 8, None, r.SPEC_CTRL, "15.37.1")
    yield saved("lbr_stack", 0x670, 256, apm="15.23.1")
    yield saved("lbr_select", 0x770, 8, apm="15.23.1")
    for n, name in enumerate(
        (
            "ibs_fetch_ctl", "ibs_fetch_linaddr", "ibs_op_ctl", "ibs_op_rip", "ibs_op_data", "ibs_op_data2",
            "ibs_op_data3", "ibs_dc_linaddr", "bp_ibstgt_rip", "ic_ibs_extd_ctl",
        )
    ):  # fmt: skip
        yield saved(name, 0x778 + 8 * n, 8, apm="15.38")


def _sub_fields(wholes: dict[str, Field]) -> Iterator[Field]:
    def part(
        name: str, parent: str, high: int, low: int, apm: str, meaning: str, written: bool, clean_certain: bool = True
    ) -> Field:
        whole = wholes[parent]
        return Field(
            name, whole.offset, whole.width_bytes, whole.area, apm, whole.clean_bit,
            written_by_exit=written, bit_offset=low, bit_width=high - low + 1, parent=parent,
            clean_certain=clean_certain, meaning=meaning,
        )  # fmt: skip

    for name, high, low, written, apm, meaning in _VINTR:
        yield part(name, "vintr", high, low, apm, meaning, written)
    yield part("interrupt_shadow", "int_state", 0, 0, "15.21.5", "one instruction without interrupts", True)
    yield part("guest_interrupt_mask", "int_state", 1, 1, "15.35", "RFLAGS.IF of an encrypted guest", True)
    for name, number, apm, meaning in _NP_CONTROL:
        yield part(name, "np_control", number, number, apm, meaning, False, clean_certain=False)
    for name, number, apm, meaning in _VIRT_EXT:
        yield part(name, "virt_ext", number, number, apm, meaning, False, clean_certain=False)


def _build() -> tuple[Field, ...]:
    wholes = {item.name: item for item in (*_control(), *_segments(), *_save())}
    table = (*wholes.values(), *_sub_fields(wholes))
    return tuple(sorted(table, key=lambda item: (item.offset, item.parent is not None, item.bit_offset)))


FIELDS: tuple[Field, ...] = _build()
"""Every field, whole fields before their sub-fields, in the order of the page."""

FIELD_BY_NAME: dict[str, Field] = {item.name: item for item in FIELDS}
WHOLE_FIELDS: tuple[Field, ...] = tuple(item for item in FIELDS if item.parent is None)

VMLOAD_FIELDS: tuple[str, ...] = tuple(item.name for item in FIELDS if item.vmload)
"""Names of what VMLOAD reads and VMSAVE writes (APM2 15.5.2)."""

VMLOAD_RANGES: tuple[tuple[int, int], ...] = ((0x440, 0x20), (0x470, 0x10), (0x490, 0x10), (0x600, 0x40))
"""The same as (offset, size in bytes)."""
