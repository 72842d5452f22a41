"""The field itself, its reserved bits, and what no bit stands for.

0C0h is L1's: nothing writes it. Bits 31:13 stand for nothing, and bit 31 is left to software for good (APM2 15.15,
15.15.3). Some fields are named by no group, so that L1 clears all bits when it changes them. An L0 that gives a bit a
meaning of its own without L1's consent, or keeps NP_ENABLE by some bit, runs L2 with the wrong tables.
"""

from harness import VMEXIT, any_of, cases, clause, unchanged
from harness.svm import MSR, Clean
from suites.lib.needs import need_two_asids
from suites.lib.nested_maps import OPEN, PAGES, Map
from suites.lib.tlb_maps import AT_HERE, AT_THERE, far_guest, read_byte
from suites.vmcbclean import probes
from suites.vmcbclean.probes import ALL_ONES, EVERY, Probe, bit_set, clear

# One field behind each bit.
NAMES = ("general1", "tsc_offset", "msrpm_base", "v_tpr", "n_cr3", "cr0", "dr7", "idtr_base", "ds_selector")
ONE_EACH = {name: probes.ALL[name] for name in NAMES}
SOFTWARE = 1 << 31
RESERVED = ALL_ONES & ~EVERY


@clause("vmcbclean.not_written")
@cases("how", ["vmmcall", "cpuid", "ud2", "refused"])
@cases("clean", [0, EVERY, ALL_ONES, SOFTWARE, 0x1555, 0x0AAA])
def test_field_is_not_written(l1, clean, how):
    """Whatever ends L2, or keeps it from running, in a second run of the VMCB."""
    guest = l1.guest(f"again: {'vmmcall' if how == 'refused' else how}", intercept=["cpuid"])
    assert guest.run().ran

    fields = {"clean": clean & ~(1 << Clean.ASID), "asid": 0} if how == "refused" else {"clean": clean}
    exit = guest.resume("again", **fields)

    assert exit.is_invalid if how == "refused" else exit.ran
    assert exit.matches(clean=unchanged)


@clause("vmcbclean.reserved")
@cases("clean", {"bit31": SOFTWARE, "bits_30_to_13": RESERVED & ~SOFTWARE, "all_ones": ALL_ONES})
@cases("probe", ONE_EACH)
def test_reserved_bits_and_nothing_changed(l1, probe, clean):
    """They make no difference."""
    started = probe.start(l1)
    assert started.is_old()
    assert started.is_old(clean)


@clause("vmcbclean.reserved")
@cases("probe", ONE_EACH)
def test_bit_31_after_a_change(l1, probe):
    """Alone, as software's own bit: all groups count as changed."""
    started = probe.start(l1)
    assert started.is_old()
    started.change()
    assert started.is_new(SOFTWARE)


def _nested(l1, guest):
    """One page leads elsewhere while nested paging is on."""
    page, view, target = l1.scratch(1), Map(guest, l1.scratch(PAGES)), l1.scratch(1)
    view.set(page, target | OPEN)
    guest.write(page, bytes([AT_HERE]))
    guest.write(target, bytes([AT_THERE]))
    guest.regs["rbx"] = page
    return {"n_cr3": view.base, "np_enable": 0}, {"np_enable": 1}


NP_ENABLE = Probe(
    Clean.NP,
    "movzx eax, byte ptr [rbx]",
    {},
    {},
    AT_HERE,
    AT_THERE,
    options={"np": True},
    needs=("NP",),
    prepare=_nested,
)
LBR_ENABLE = Probe(
    Clean.LBR, f"mov ecx, {MSR.BR_TO:#x}\nrdmsr\ncmp eax, 0x12345670\nsete al\nmovzx eax, al",
    {"br_to": 0x1234_5670, "virt_ext": 0}, {"virt_ext": 1, "dbgctl": 0}, 0, 1, needs=("LbrVirt",),
)  # fmt: skip


@clause("vmcbclean.all_clear")
@cases("probe", {"np_enable": NP_ENABLE, "lbr_virt_enable": LBR_ENABLE, **ONE_EACH})
def test_everything_counts_with_no_bit_set(l1, probe):
    """Switched on, switched off again, and on once more."""
    started = probe.start(l1)
    old = {name: started.guest.vmcb[name] for name in started.new}
    for _ in range(2):
        started.guest.vmcb.update(old)
        assert started.is_old()
        started.change()
        assert started.is_new()


@clause("vmcbclean.asid", "vmcbclean.absent")
@cases("clean", clear(Clean.ASID))
@cases("np", [False, True])
def test_asid_changed(l1, clean, np):
    """ASID 1 has read the page before L1 turned the entry. The other ASID has not: with bit 2 clear it sees the new."""
    exit = _other_asid(l1, clean, np)

    assert l1.expect("the byte that ASID 2 reads", read_byte(exit), AT_THERE, width_bytes=1)


@clause("vmcbclean.hint", "vmcbclean.absent")
@cases("clean", bit_set(Clean.ASID))
@cases("np", [False, True])
def test_asid_changed_and_bit_says_unchanged(l1, clean, np):
    """The translation of ASID 1 may still be there, and used."""
    exit = _other_asid(l1, clean, np)

    expected = l1.either("VmcbClean", offered=any_of(AT_HERE, AT_THERE), absent=AT_THERE)
    assert l1.expect("the byte that L2 reads", read_byte(exit), expected, width_bytes=1)


def _other_asid(l1, clean, np):
    if np:
        l1.need("NP")
    need_two_asids(l1)
    guest, far = far_guest(l1, "again: mov al, [rbx]\nend: vmmcall", np=np)
    assert l1.expect("the byte that ASID 1 reads", read_byte(guest.run()), AT_HERE, width_bytes=1)
    far.turn(l1)
    exit = guest.resume("again", asid=2, tlb_control=0, clean=clean)
    assert exit.reached("end")
    return exit


JUNK = 0x0123_4567_89AB_C000
UNUSED = {
    "avic": ("avic_bar", "avic_backing_page", "avic_logical_table", "avic_physical_table"),
    "cet": ("s_cet", "ssp", "isst_addr"),
}


def _unused(l1, fields, bit, clean):
    guest = l1.guest("again: vmmcall")
    assert guest.run().ran
    exit = guest.resume("again", clean=clean(bit), **dict.fromkeys(fields, JUNK))
    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["again"], fields=dict.fromkeys(fields, unchanged))


SAID = {"said": lambda bit: EVERY & ~(1 << bit), "not_said": lambda _bit: EVERY}


@clause("vmcbclean.avic")
@cases("clean", SAID)
def test_avic_fields_mean_nothing_with_avic_off(l1, clean):
    """Addresses that no CPU has."""
    _unused(l1, UNUSED["avic"], Clean.AVIC, clean)


@clause("vmcbclean.cet_absent")
@cases("clean", SAID)
def test_cet_fields_mean_nothing_without_shadow_stacks(l1, clean):
    """Nor are they written."""
    _unused(l1, UNUSED["cet"], Clean.CET, clean)


CET = {
    "s_cet": Probe(Clean.CET, f"mov ecx, {MSR.S_CET:#x}\nrdmsr", {"s_cet": 0}, {"s_cet": 1}, 0, 1),
    "isst_addr": Probe(
        Clean.CET, f"mov ecx, {MSR.ISST_ADDR:#x}\nrdmsr", {"isst_addr": 0x1111_2220}, {"isst_addr": 0x3333_4440},
        0x1111_2220, 0x3333_4440,
    ),
}  # fmt: skip


@clause("vmcbclean.cet")
@cases("clean", clear(Clean.CET))
@cases("probe", CET)
def test_shadow_stack_state_changed(l1, probe, clean):
    """L2 reads the MSRs."""
    started = probe.start(l1)
    assert started.is_old()
    started.change()
    assert started.is_new(clean)
