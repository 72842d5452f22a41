"""VMRUN's checks of nested paging: host paging, N_CR3 and G_PAT.

With NP_ENABLE=1 hardware refuses VMRUN while the host's own paging is off, an N_CR3 with an MBZ bit set, and a G_PAT
with a memory type that does not exist or a reserved bit in any of its eight fields (APM2 15.25.3, 15.25.4). With
NP_ENABLE=0 neither field is looked at. A wrong L0 uses one PAT for L1 and L2, or checks what it should not.
"""

import pytest

from harness import VMEXIT, clause
from suites.lib.beyond_memory import ABOVE_LIMIT, ABOVE_MAXPHYADDR, beyond
from suites.lib.legacy_host import down_and_up

G_PAT = 0x0007_0406_0007_0406
TYPES = {"uc": 0, "wc": 1, "wt": 4, "wp": 5, "wb": 6, "uc_minus": 7}
BAD_TYPES = (0x02, 0x03, 0x0E, 0x16, 0x26, 0x46, 0x86, 0xFF)
MSR_PAT = 0x277

FIELDS = [pytest.param(n, id=f"pa{n}") for n in range(8)]

# The VMCB is at EBX. EDI is CR0 right after #VMEXIT.
VMRUN_WITHOUT_PAGING = """
    mov edi, 0
    mov eax, ebx
    vmrun
    mov edi, cr0
"""


@clause("core.checks.np_ncr3")
@pytest.mark.parametrize("bit", ABOVE_MAXPHYADDR + ABOVE_LIMIT)
def test_n_cr3_beyond_the_limit_is_refused(l1, bit):
    guest = l1.guest("vmmcall", np=True)
    guest.vmcb["n_cr3"] |= 1 << beyond(l1, bit)

    assert guest.run().is_invalid


@clause("core.checks.np_ncr3")
@pytest.mark.parametrize("bits", [0, 1 << 3, 1 << 4], ids=["plain", "pwt", "pcd"])
@pytest.mark.parametrize("mode", ["long64", "pae32", "paged32", "prot32", "real16"])
def test_good_n_cr3_runs(l1, mode, bits):
    """The legal neighbours: the map as it is, and with its cache controls."""
    guest = l1.guest("start: vmmcall", mode=mode, np=True)
    guest.vmcb["n_cr3"] |= bits

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["start"])


@clause("core.checks.np_ncr3")
@pytest.mark.parametrize("bit", [52, 63], ids=lambda bit: f"bit{bit}")
def test_n_cr3_is_not_checked_without_nested_paging(l1, bit):
    """The legal neighbour: the same value with NP_ENABLE=0."""
    guest = l1.guest("start: vmmcall", vmcb={"n_cr3": 1 << bit})

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["start"])


@clause("core.checks.np_ncr3_low_bits")
@pytest.mark.parametrize("bit", [0, 1, 2, *range(5, 12)], ids=lambda bit: f"bit{bit}")
def test_n_cr3_reserved_low_bit_is_survived(l1, bit):
    """Reserved as CR3's are; whether they are ignored here too is not recorded."""
    guest = l1.guest("start: vmmcall", np=True)
    guest.vmcb["n_cr3"] |= 1 << bit

    exit = guest.run()

    assert exit.is_invalid or exit.matches(code=VMEXIT.VMMCALL, rip=guest["start"])


@clause("core.checks.np_gpat")
@pytest.mark.parametrize("value", BAD_TYPES, ids=lambda value: f"type{value:02x}")
@pytest.mark.parametrize("field", FIELDS)
def test_g_pat_with_an_undefined_type_is_refused(l1, field, value):
    """2, 3, and the type WB with a reserved bit set, in each field."""
    guest = l1.guest("vmmcall", np=True)
    guest.vmcb["g_pat"] = G_PAT & ~(0xFF << 8 * field) | value << 8 * field

    assert guest.run().is_invalid


@clause("core.checks.np_gpat")
def test_every_undefined_type_is_refused(l1):
    """A walk through all 250 values of PA0 that are no type."""
    guest = l1.guest("vmmcall", np=True)
    good = guest.vmcb.copy()
    for value in set(range(256)) - set(TYPES.values()):
        guest.rewind()
        guest.vmcb = good.copy()
        guest.vmcb["g_pat"] = G_PAT & ~0xFF | value
        exit = guest.run()
        assert exit.is_invalid, f"PA0 {value:02x}h"


@clause("core.checks.np_gpat")
@pytest.mark.parametrize("memory_type", TYPES)
@pytest.mark.parametrize("field", FIELDS)
def test_g_pat_with_a_defined_type_runs(l1, field, memory_type):
    """The legal neighbours. L2's pages use PA0, so this may make them uncached, which changes no result."""
    guest = l1.guest("start: vmmcall", np=True)
    guest.vmcb["g_pat"] = G_PAT & ~(0xFF << 8 * field) | TYPES[memory_type] << 8 * field

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["start"])


@clause("core.checks.gpat_ignored_without_np")
@pytest.mark.parametrize(
    "value", [0x0202_0202_0202_0202, 0xFFFF_FFFF_FFFF_FFFF, G_PAT & ~0xFF | 3], ids=["type2", "all_ones", "pa0_type3"]
)
def test_g_pat_is_not_checked_without_nested_paging(l1, value):
    guest = l1.guest("start: vmmcall", vmcb={"g_pat": value})

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["start"])


@clause("core.checks.gpat_ignored_without_np")
def test_g_pat_is_not_loaded_without_nested_paging(l1):
    """L2 reads L1's PAT, and L1's PAT is the same afterwards."""
    guest = l1.guest("rdmsr\nvmmcall", regs={"rcx": MSR_PAT}, vmcb={"g_pat": 0x0101_0101_0101_0101})
    pat = l1.rdmsr(MSR_PAT)
    assert pat.ok

    exit = guest.run()

    assert exit.matches(code=VMEXIT.VMMCALL)
    assert l1.expect("PAT that L2 reads", exit.regs["rdx"] << 32 | exit.regs["rax"], pat.value)
    assert l1.rdmsr(MSR_PAT).reads(pat.value)


@clause("core.checks.np_enable_not_offered")
def test_np_enable_without_the_feature_is_ignored_or_refused(l1):
    """N_CR3 names a page of zeros: an L0 that walks it comes back with a nested page fault."""
    guest = l1.guest("start: vmmcall", vmcb={"np_enable": 1})
    guest.vmcb["n_cr3"] = l1.scratch(1)

    exit = guest.run()

    assert exit.is_invalid or exit.matches(code=VMEXIT.VMMCALL, rip=guest["start"])


@clause("core.checks.np_without_host_paging")
@pytest.mark.parametrize("np", [False, True], ids=["np_off", "np_on"])
@pytest.mark.dirties("L1 left long mode and came back")
def test_nested_paging_asks_for_host_paging(l1, np):
    """VMRUN from protected mode without paging: refused with NP_ENABLE=1; its neighbour with NP_ENABLE=0 runs."""
    guest = l1.guest("start: vmmcall", mode="prot32", np=np)
    vmcb_pa, code = l1.scratch(1), l1.scratch(1)
    guest.vmcb["rip"] = code
    l1.write(code, guest.code)
    l1.write(vmcb_pa, bytes(guest.vmcb))

    done = l1.code(down_and_up(VMRUN_WITHOUT_PAGING), {"rbx": vmcb_pa})

    exitcode = int.from_bytes(l1.read(vmcb_pa + 0x70, 8), "little")
    assert done.returned
    assert l1.expect("the vector that VMRUN raised in L1", done.reg("rbp"), 0xFFFF_FFFF, width_bytes=4)
    assert l1.expect("L1's CR0.PG after #VMEXIT", done.reg("rdi") >> 31 & 1, 0)
    # The low half alone: that all 64 bits are ones is core.checks.exitcode_is_64_bit's to say.
    assert l1.expect("EXITCODE[31:0]", exitcode & 0xFFFF_FFFF, 0xFFFF_FFFF if np else VMEXIT.VMMCALL, width_bytes=4)


@clause("core.checks.sss_without_np")
@pytest.mark.parametrize("np", [False, True], ids=["np_off", "np_on"])
def test_shadow_stack_checks_ask_for_nested_paging(l1, np):
    """SSSCheckEn belongs to the nested page tables."""
    guest = l1.guest("start: vmmcall", np=np, vmcb={"sss_check_enable": 1})

    exit = guest.run()

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["start"]) if np else exit.is_invalid
