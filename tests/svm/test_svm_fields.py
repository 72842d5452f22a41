"""The VMCB table: it is whole, nothing overlaps, and it agrees with the quick tables of the specification."""

import pytest

from harness.svm import FIELDS, INTERCEPTS, VMCB_SIZE, VMLOAD_FIELDS, VMLOAD_RANGES, Clean, field, intercept_exit_code
from harness.svm.fields import SEGMENTS, WHOLE_FIELDS

# Offsets as the specification's quick tables give them (absolute in the page).
QUICK_TABLE = {
    "intercept_cr_read": 0x000, "intercept_cr_write": 0x002, "intercept_dr_read": 0x004, "intercept_dr_write": 0x006,
    "intercept_exceptions": 0x008, "intercept_misc1": 0x00C, "intercept_misc2": 0x010, "intercept_misc3": 0x014,
    "pause_filter_threshold": 0x03C, "pause_filter_count": 0x03E, "iopm_base_pa": 0x040, "msrpm_base_pa": 0x048,
    "tsc_offset": 0x050, "asid": 0x058, "tlb_control": 0x05C, "vintr": 0x060, "int_state": 0x068, "exitcode": 0x070,
    "exitinfo1": 0x078, "exitinfo2": 0x080, "exitintinfo": 0x088, "np_control": 0x090, "avic_bar": 0x098,
    "ghcb": 0x0A0, "eventinj": 0x0A8, "n_cr3": 0x0B0, "virt_ext": 0x0B8, "clean": 0x0C0, "nrip": 0x0C8,
    "insn_len": 0x0D0, "insn_bytes": 0x0D1, "avic_backing_page": 0x0E0, "avic_logical_table": 0x0F0,
    "avic_physical_table": 0x0F8, "vmsa_ptr": 0x108, "bus_lock_count": 0x120,
    "es.selector": 0x400, "cs.selector": 0x410, "ss.selector": 0x420, "ds.selector": 0x430, "fs.selector": 0x440,
    "gs.selector": 0x450, "gdtr.selector": 0x460, "ldtr.selector": 0x470, "idtr.selector": 0x480,
    "tr.selector": 0x490, "cs.attrib": 0x412, "cs.limit": 0x414, "cs.base": 0x418, "gdtr.limit": 0x464,
    "idtr.limit": 0x484, "cpl": 0x4CB, "efer": 0x4D0, "cr4": 0x548, "cr3": 0x550, "cr0": 0x558, "dr7": 0x560,
    "dr6": 0x568, "rflags": 0x570, "rip": 0x578, "rsp": 0x5D8, "s_cet": 0x5E0, "ssp": 0x5E8, "isst_addr": 0x5F0,
    "rax": 0x5F8, "star": 0x600, "lstar": 0x608, "cstar": 0x610, "sfmask": 0x618, "kernel_gs_base": 0x620,
    "sysenter_cs": 0x628, "sysenter_esp": 0x630, "sysenter_eip": 0x638, "cr2": 0x640, "g_pat": 0x668,
    "dbgctl": 0x670, "br_from": 0x678, "br_to": 0x680, "last_excp_from": 0x688, "last_excp_to": 0x690,
    "dbgextnctl": 0x698, "spec_ctrl": 0x6E0,
}  # fmt: skip

# Fields of features no target of the first release offers; offsets as Linux, Xen and others place them.
LATER_TABLE = {
    "erap_control": 0x05D, "vmgexit_rax": 0x110, "vmgexit_cpl": 0x118, "update_irr": 0x134,
    "allowed_sev_features": 0x138, "guest_sev_features": 0x140, "requested_irr": 0x150, "host_reserved": 0x3E0,
    "vmpl": 0x4CA, "perf_ctl0": 0x4E0, "perf_ctr5": 0x538, "xss": 0x540, "instr_retired_ctr": 0x5C0,
    "perf_ctr_global_sts": 0x5C8, "perf_ctr_global_ctl": 0x5D0, "lbr_stack": 0xA70, "lbr_select": 0xB70,
    "ibs_fetch_ctl": 0xB78, "ibs_op_rip": 0xB90, "ic_ibs_extd_ctl": 0xBC0,
}  # fmt: skip

WIDTHS = {
    "intercept_cr_read": 2, "intercept_exceptions": 4, "pause_filter_count": 2, "iopm_base_pa": 8, "asid": 4,
    "tlb_control": 1, "vintr": 8, "exitcode": 8, "eventinj": 8, "clean": 4, "nrip": 8, "insn_len": 1,
    "insn_bytes": 15, "cs.selector": 2, "cs.attrib": 2, "cs.limit": 4, "cs.base": 8, "cpl": 1, "efer": 8, "rax": 8,
    "bus_lock_count": 2, "erap_control": 1, "vmgexit_cpl": 1, "guest_sev_features": 8, "requested_irr": 32,
    "host_reserved": 32, "avic_backing_page": 8, "avic_logical_table": 8, "avic_physical_table": 8, "lbr_stack": 256,
    "vmpl": 1,
}  # fmt: skip

SUB_FIELDS = {  # name: (parent, low bit, width in bits)
    "v_tpr": ("vintr", 0, 8), "v_irq": ("vintr", 8, 1), "v_gif": ("vintr", 9, 1), "v_nmi": ("vintr", 11, 1),
    "v_nmi_mask": ("vintr", 12, 1), "v_intr_prio": ("vintr", 16, 4), "v_ign_tpr": ("vintr", 20, 1),
    "v_intr_masking": ("vintr", 24, 1), "v_gif_enable": ("vintr", 25, 1), "v_nmi_enable": ("vintr", 26, 1),
    "x2avic_enable": ("vintr", 30, 1), "avic_enable": ("vintr", 31, 1), "v_intr_vector": ("vintr", 32, 8),
    "interrupt_shadow": ("int_state", 0, 1), "guest_interrupt_mask": ("int_state", 1, 1),
    "vte_enable": ("np_control", 5, 1), "np_enable": ("np_control", 0, 1), "sev_enable": ("np_control", 1, 1),
    "sev_es_enable": ("np_control", 2, 1), "gmet_enable": ("np_control", 3, 1),
    "sss_check_enable": ("np_control", 4, 1), "rogpt_enable": ("np_control", 6, 1),
    "invlpgb_enable": ("np_control", 7, 1), "lbr_virt_enable": ("virt_ext", 0, 1),
    "virt_vmload_vmsave": ("virt_ext", 1, 1), "ibs_virt_enable": ("virt_ext", 2, 1),
    "pmc_virt_enable": ("virt_ext", 3, 1),
}  # fmt: skip


@pytest.mark.parametrize(("name", "offset"), [*QUICK_TABLE.items(), *LATER_TABLE.items()])
def test_offset(name, offset):
    assert field(name).offset == offset


@pytest.mark.parametrize(("name", "width"), WIDTHS.items())
def test_width(name, width):
    assert field(name).width_bytes == width


def test_every_other_register_of_the_save_area_has_eight_bytes():
    others = [item for item in WHOLE_FIELDS if item.area == "save" and "." not in item.name and item.name not in WIDTHS]

    assert len(others) > 40
    assert {item.width_bytes for item in others} == {8}


def test_page_is_4_kib():
    assert VMCB_SIZE == 0x1000


def test_field_names_its_place():
    assert str(field("asid")) == "asid (058h)"
    assert str(field("v_irq")) == "v_irq (060h[8])"
    assert str(field("v_intr_prio")) == "v_intr_prio (060h[19:16])"


@pytest.mark.parametrize(("name", "place"), SUB_FIELDS.items())
def test_sub_field(name, place):
    item = field(name)

    assert (item.parent, item.bit_offset, item.bit_width) == place
    assert item.offset == field(place[0]).offset


def test_whole_fields_do_not_overlap_and_lie_in_the_page():
    owner = {}
    for item in WHOLE_FIELDS:
        assert 0 <= item.offset < item.end <= VMCB_SIZE
        for at in range(item.offset, item.end):
            assert at not in owner, f"{item.name} and {owner[at]} share {at:#x}"
            owner[at] = item.name


def test_sub_fields_of_one_field_do_not_overlap_and_fit():
    for whole in WHOLE_FIELDS:
        seen = 0
        for part in (item for item in FIELDS if item.parent == whole.name):
            assert not seen & part.mask
            assert part.mask <= whole.mask
            seen |= part.mask


def test_names_are_unique():
    names = [item.name for item in FIELDS]

    assert len(names) == len(set(names))


def test_bit_names_fit_and_do_not_overlap():
    for item in FIELDS:
        seen = 0
        for run in item.bits:
            assert run.mask <= item.max, item.name
            assert not seen & run.mask, (item.name, run.name)
            seen |= run.mask


def test_areas_agree_with_offsets():
    for item in FIELDS:
        assert (item.area == "save") == (item.offset >= 0x400), item.name


def test_vmload_ranges_are_the_vmload_fields():
    from_fields = {at for name in VMLOAD_FIELDS for at in range(field(name).offset, field(name).end)}
    from_ranges = {at for offset, size in VMLOAD_RANGES for at in range(offset, offset + size)}

    assert from_fields == from_ranges


def test_vmload_fields_are_named_in_the_apm():
    names = {name.split(".")[0] for name in VMLOAD_FIELDS}

    assert names == {
        "fs", "gs", "ldtr", "tr", "star", "lstar", "cstar", "sfmask", "kernel_gs_base", "sysenter_cs",
        "sysenter_esp", "sysenter_eip",
    }  # fmt: skip


def test_vmload_fields_are_not_written_by_vmexit_and_not_cached():
    for name in VMLOAD_FIELDS:
        assert not field(name).written_by_exit
        assert field(name).clean_bit is None


@pytest.mark.parametrize(
    ("clean", "names"),
    [
        (Clean.INTERCEPTS, ["intercept_cr_read", "intercept_misc3", "tsc_offset", "pause_filter_count"]),
        (Clean.IOPM, ["iopm_base_pa", "msrpm_base_pa"]),
        (Clean.ASID, ["asid"]),
        (Clean.TPR, ["vintr", "v_tpr", "v_irq", "v_intr_vector"]),
        (Clean.NP, ["n_cr3", "g_pat"]),
        (Clean.CRX, ["cr0", "cr3", "cr4", "efer"]),
        (Clean.DRX, ["dr6", "dr7"]),
        (Clean.DT, ["gdtr.limit", "gdtr.base", "idtr.limit", "idtr.base"]),
        (Clean.SEG, ["cs.selector", "ds.attrib", "es.limit", "ss.base", "cpl"]),
        (Clean.CR2, ["cr2"]),
        (Clean.LBR, ["dbgctl", "br_from", "br_to", "last_excp_from", "last_excp_to"]),
        (Clean.AVIC, ["avic_bar", "avic_backing_page", "avic_logical_table", "avic_physical_table"]),
        (Clean.CET, ["s_cet", "ssp", "isst_addr"]),
    ],
)
def test_clean_bits(clean, names):
    for name in names:
        assert field(name).clean_bit == clean
        assert field(name).clean_certain


@pytest.mark.parametrize("name", ["rip", "rsp", "rax", "rflags", "eventinj", "tlb_control", "int_state", "exitcode"])
def test_what_is_never_cached(name):
    assert field(name).clean_bit is None


def test_guesses_about_clean_bits_say_so():
    for name in ("pause_filter_threshold", "np_control", "np_enable", "virt_ext", "lbr_virt_enable"):
        assert not field(name).clean_certain


@pytest.mark.parametrize(
    ("name", "mask"),
    [
        ("vintr", 0xFFFF_FF00_3800_0000 | 0x00E0_E400),
        ("np_control", ~0xFF & 0xFFFF_FFFF_FFFF_FFFF),
        ("virt_ext", ~0xF & 0xFFFF_FFFF_FFFF_FFFF),
        ("int_state", ~0x3 & 0xFFFF_FFFF_FFFF_FFFF),
        ("clean", 0xFFFF_E000),
        ("eventinj", 0x7FFF_F000),
        ("intercept_misc3", 0xFFFF_FF80),
        ("insn_len", 0xF0),
        ("rip", 0),
        ("erap_control", 0xFC),
        ("cpl", 0xFC),
        ("gdtr.attrib", 0xFFFF),
        ("idtr.limit", 0xFFFF_0000),
        ("avic_bar", 0xFFF0_0000_0000_0000),
        ("avic_logical_table", 0xFFF0_0000_0000_0FFF),
        ("avic_physical_table", 0xFFF0_0000_0000_0000),
        ("vmsa_ptr", 0xFFF0_0000_0000_0FFF),
        ("allowed_sev_features", 0x4000_0000_0000_0003),
        ("dbgextnctl", 0xFFFF_FFFF_FFFF_FFBF),
    ],
)
def test_reserved_mask(name, mask):
    assert field(name).reserved_mask == mask


def test_every_field_names_its_apm_section():
    assert all(item.apm for item in FIELDS)


@pytest.mark.parametrize(
    ("name", "place", "exit_code"),
    [
        ("cr0_read", ("intercept_cr_read", 0), 0x00),
        ("cr3_write", ("intercept_cr_write", 3), 0x13),
        ("dr7_read", ("intercept_dr_read", 7), 0x27),
        ("dr7_write", ("intercept_dr_write", 7), 0x37),
        ("exc_6", ("intercept_exceptions", 6), 0x46),
        ("#UD", ("intercept_exceptions", 6), 0x46),
        ("#CP", ("intercept_exceptions", 21), 0x55),
        ("intr", ("intercept_misc1", 0), 0x60),
        ("nmi", ("intercept_misc1", 1), 0x61),
        ("vintr", ("intercept_misc1", 4), 0x64),
        ("cr0_sel", ("intercept_misc1", 5), 0x65),
        ("sidt", ("intercept_misc1", 6), 0x66),
        ("ltr", ("intercept_misc1", 13), 0x6D),
        ("rdtsc", ("intercept_misc1", 14), 0x6E),
        ("cpuid", ("intercept_misc1", 18), 0x72),
        ("pause", ("intercept_misc1", 23), 0x77),
        ("hlt", ("intercept_misc1", 24), 0x78),
        ("invlpga", ("intercept_misc1", 26), 0x7A),
        ("ioio", ("intercept_misc1", 27), 0x7B),
        ("msr", ("intercept_misc1", 28), 0x7C),
        ("shutdown", ("intercept_misc1", 31), 0x7F),
        ("vmrun", ("intercept_misc2", 0), 0x80),
        ("skinit", ("intercept_misc2", 6), 0x86),
        ("mwait_armed", ("intercept_misc2", 12), 0x8C),
        ("xsetbv", ("intercept_misc2", 13), 0x8D),
        ("rdpru", ("intercept_misc2", 14), 0x8E),
        ("efer_write_trap", ("intercept_misc2", 15), 0x8F),
        ("cr0_write_trap", ("intercept_misc2", 16), 0x90),
        ("invlpgb", ("intercept_misc3", 0), 0xA0),
        ("buslock", ("intercept_misc3", 5), 0xA5),
        ("idle_hlt", ("intercept_misc3", 6), 0xA6),
    ],
)
def test_intercept(name, place, exit_code):
    assert INTERCEPTS[name] == place
    assert intercept_exit_code(name) == exit_code


def test_no_two_intercepts_share_a_bit_but_aliases():
    primary = {place for name, place in INTERCEPTS.items() if not name.startswith("#")}

    assert len(primary) == 4 * 16 + 32 + 32 + 32 + 7


def test_segments_are_sixteen_bytes_each():
    assert [SEGMENTS[name] for name in SEGMENTS] == list(range(0x400, 0x4A0, 0x10))
