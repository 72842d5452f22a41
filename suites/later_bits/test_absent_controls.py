"""Control bits and fields of later features that L1 is not offered.

L1 may have such bits set: it restores a VMCB of another machine, or it is up to no good. They then have no effect, or
VMRUN is refused; the state that goes with them is neither loaded nor saved. An L0 that hands them to its own processor
lets L2 reach L0's local APIC, counters and interrupts (CVE-2021-3653, CVE-2023-5090).
"""

import pytest

from harness import GP, VMEXIT, clause, read_msr, unchanged
from harness.svm.fields import WHOLE_FIELDS
from suites.lib.interrupts import interruptible

PATTERN = 0x1122_3344_5566_7788
GARBAGE = 0x000D_EAD0_BEEF_0000
AVIC_TABLES = ["avic_backing_page", "avic_logical_table", "avic_physical_table", "avic_bar"]
TOUCH_APIC = "mov ebx, 0xfee00000\nmov eax, [rbx + 0x20]\nmov ecx, [rbx + 0x80]\nmov [rbx + 0x80], ecx\nend: vmmcall"
DOORBELL = 0xC001_011B


def inert(exit):
    """Refused, or run to the end. That the fields are as they were is asked after every exit."""
    return exit.is_invalid or exit.reached("end")


def _state(*prefixes):
    return {field.name: PATTERN for field in WHOLE_FIELDS if field.name.startswith(prefixes) and field.width_bytes == 8}


STATE = {
    "pmc": ("pmc_virt", "pmc_virt_enable", _state("perf_ct", "instr_retired")),
    "ibs": ("ibs_virt", "ibs_virt_enable", _state("ibs_f", "ibs_op", "ibs_dc", "bp_ibs", "ic_ibs")),
}


@pytest.mark.parametrize(
    ("bit", "state"),
    [
        pytest.param(bit, state, id=name, marks=pytest.mark.clause(f"later_bits.{feature}.absent"))
        for name, (feature, bit, state) in STATE.items()
    ],
)
def test_state_of_a_virtualized_unit(l1, bit, state):
    """The fields hold a pattern, which no counter takes."""
    exit = l1.guest("nop\nend: vmmcall", vmcb={bit: 1} | state).run()

    assert inert(exit)


@clause("later_bits.avic.absent")
@pytest.mark.parametrize("bits", [["avic_enable"], ["avic_enable", "x2avic_enable"]], ids=["avic", "both"])
@pytest.mark.dangerous
def test_avic(l1, bits):
    """The pointers lead nowhere. L2 reads and writes the local APIC's page; neither 401h nor 402h comes of it."""
    vmcb = dict.fromkeys(bits, 1) | {name: GARBAGE for name in AVIC_TABLES}
    exit = l1.guest(TOUCH_APIC, vmcb=vmcb).run()

    assert inert(exit)


@clause("later_bits.avic.doorbell")
def test_doorbell_register(l1):
    """WRMSR of an MSR that is not there."""
    assert l1.wrmsr(DOORBELL, 0).faults(GP, 0)


@clause("later_bits.x2avic.absent")
@pytest.mark.parametrize("msr", [0x802, 0x808, 0x80B, 0x830], ids=lambda n: f"{n:x}h")
@pytest.mark.dangerous
def test_x2avic_and_the_msr_permissions_map(l1, msr):
    """Every read is intercepted, and nothing else happens to it."""
    guest = l1.guest(read_msr(msr), intercept=["msr"], vmcb={"x2avic_enable": 1})
    maps = l1.scratch(2)
    guest.write(maps, b"\xff" * 0x2000)
    guest.vmcb["msrpm_base_pa"] = maps

    exit = guest.run()

    assert exit.is_invalid or exit.matches(code=VMEXIT.MSR, rip=guest["read"], info1=0)


@clause("later_bits.vnmi.absent")
@pytest.mark.parametrize("mask", [0, 1], ids=["unmasked", "masked"])
@pytest.mark.dangerous
def test_virtual_nmi(l1, mask):
    """None is delivered. L2 would take it in its handler."""
    bits = {"v_nmi_enable": 1, "v_nmi": 1, "v_nmi_mask": mask}
    guest = interruptible(l1, "nop\nnop\nend: vmmcall", [2], intercept=["nmi"], vmcb=bits)

    exit = guest.run()

    assert exit.is_invalid or exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"])


@clause("later_bits.sev.absent")
@pytest.mark.parametrize("bits", [["sev_enable"], ["sev_enable", "sev_es_enable"]], ids=["sev", "sev_es"])
@pytest.mark.parametrize("np", [False, True], ids=["np_off", "np_on"])
@pytest.mark.dangerous
def test_encryption(l1, np, bits):
    """With memory encryption off the controls are ignored: L2 runs, and its registers are in the clear."""
    if np:
        l1.need("NP")
    guest = l1.guest("mov rbx, 0x1122334455667788\nend: vmmcall", np=np, vmcb=dict.fromkeys(bits, 1))

    assert guest.run().reached("end", regs={"rbx": PATTERN})


SHADOW_STACK = {"s_cet": (1 << 64) - 1, "ssp": PATTERN | 1, "isst_addr": 1 << 63}


@clause("later_bits.shadow_stack.absent")
@pytest.mark.parametrize("name", SHADOW_STACK)
def test_shadow_stack_fields(l1, name):
    """Values that VMRUN would refuse if it loaded them."""
    exit = l1.guest("nop\nend: vmmcall", vmcb={name: SHADOW_STACK[name]}).run()

    assert exit.reached("end", fields={name: unchanged})


INVALIDATIONS = {"invlpgb": "0x0f, 0x01, 0xfe", "tlbsync": "0x0f, 0x01, 0xff"}


@clause("later_bits.tlbi.absent")
@pytest.mark.parametrize("enable", [0, 1], ids=["enable0", "enable1"])
@pytest.mark.parametrize("name", INVALIDATIONS)
def test_invlpgb_that_the_processor_has_not(l1, name, enable):
    """090h bit 7 brings no instruction that CPUID does not offer."""
    code = f"nop\nstart: .byte {INVALIDATIONS[name]}\nvmmcall"
    exit = l1.guest(code, vmcb={"invlpgb_enable": enable, "rax": 0}, regs={"rcx": 0, "rdx": 0}).run()

    assert exit.is_invalid or exit.matches(code=VMEXIT.EXCP_UD)


@clause("later_bits.tlbi.disabled")
@pytest.mark.parametrize("name", INVALIDATIONS)
def test_invlpgb_that_l1_does_not_allow(l1, name):
    guest = l1.guest(f"nop\nstart: .byte {INVALIDATIONS[name]}\nvmmcall", regs={"rcx": 0, "rdx": 0})

    assert guest.run().matches(code=VMEXIT.EXCP_UD, rip=guest["start"])


@clause("later_bits.reserved_bits")
@pytest.mark.parametrize("bit", [14, 22])
def test_reserved_bits_of_cpuid(l1, bit):
    edx = l1.cpuid_now(0x8000_000A)[3]

    assert l1.expect(f"EDX bit {bit}", edx >> bit & 1, 0, width_bytes=1)
