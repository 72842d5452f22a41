"""G_PAT: L2's own PAT under nested paging.

With NP_ENABLE=1 VMRUN loads PAT from G_PAT (668h), L2 reads and writes that one as MSR 277h, #VMEXIT stores it, and
L1's PAT is L1's again (APM2 15.25.4). Without nested paging there is one PAT, see suites/core. An L0 with one PAT for
both lets L2 change the caching of L1's memory.
"""

import pytest

from harness import VMEXIT, clause, unchanged
from suites.lib.nested_maps import nested_guest

PAT = 0x277
MINE = 0x0001_0405_0607_0600
WRITTEN = 0x0600_0706_0504_0106
HALVES = {"rcx": PAT, "rax": WRITTEN & 0xFFFF_FFFF, "rdx": WRITTEN >> 32}


def put_back(l1, guest):
    """Whatever became of L1's PAT, it is as before after each run."""
    value = l1.rdmsr(PAT).value
    guest.teardown("wrmsr", {"rcx": PAT, "rax": value & 0xFFFF_FFFF, "rdx": value >> 32})


@clause("np.pat.loaded")
@pytest.mark.parametrize("mode", ["long64", "prot32", "real16"])
def test_l2_reads_g_pat(l1, mode):
    guest, _ = nested_guest(l1, "rdmsr\ndone: vmmcall", mode=mode, regs={"rcx": PAT}, vmcb={"g_pat": MINE})

    exit = guest.run()

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["done"], g_pat=unchanged)
    assert l1.expect("PAT that L2 reads", exit.regs["rdx"] << 32 | exit.regs["rax"], MINE)


@clause("np.pat.saved")
@pytest.mark.parametrize("again", [False, True], ids=["one_run", "next_run"])
def test_l2s_pat_is_saved(l1, again):
    """And it is what the next run starts with."""
    guest, _ = nested_guest(l1, "wrmsr\nvmmcall\nnext: rdmsr\ndone: vmmcall", regs=HALVES, vmcb={"g_pat": MINE})
    put_back(l1, guest)

    exit = guest.run()
    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["next"] - 3, g_pat=WRITTEN)

    if again:
        guest.vmcb.update({"rip": guest["next"], "rax": 0})
        exit = guest.run()
        assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["done"], g_pat=WRITTEN)
        assert l1.expect("PAT that L2 reads", exit.regs["rdx"] << 32 | exit.regs["rax"], WRITTEN)


@clause("np.pat.not_used_without_np")
def test_g_pat_without_nested_paging(l1):
    """G_PAT stays as L1 wrote it, whatever L2 writes to the one PAT that there is, which L2 reads back."""
    guest = l1.guest("wrmsr\nxor eax, eax\nxor edx, edx\nrdmsr\ndone: vmmcall", regs=HALVES, vmcb={"g_pat": MINE})
    put_back(l1, guest)

    exit = guest.run()

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["done"], g_pat=MINE)
    assert l1.expect("PAT that L2 reads", exit.regs["rdx"] << 32 | exit.regs["rax"], WRITTEN)


@clause("np.pat.host_keeps_its_own")
@pytest.mark.parametrize("wrote", [False, True], ids=["g_pat_differs", "l2_writes"])
def test_l1_keeps_its_pat(l1, wrote):
    before = l1.rdmsr(PAT)
    assert before.ok
    code = "wrmsr\ndone: vmmcall" if wrote else "done: vmmcall"
    guest, _ = nested_guest(l1, code, regs=HALVES, vmcb={"g_pat": MINE})

    exit = guest.run()
    after = l1.rdmsr(PAT)
    l1.wrmsr(PAT, before.value)

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["done"])
    assert after.reads(before.value)


@clause("np.pat.refuses_undefined_types")
@pytest.mark.parametrize("value", [2, 3, 8, 0xFF], ids=lambda value: f"type{value:02x}")
def test_l2_cannot_write_an_undefined_type(l1, value):
    """WRMSR checks it as always: #GP in L2, intercepted here."""
    guest, _ = nested_guest(
        l1, "probe: wrmsr", regs=HALVES | {"rdx": WRITTEN >> 32 & ~0xFF | value}, vmcb={"g_pat": MINE}
    )
    put_back(l1, guest)

    assert guest.run().matches(code=0x4D, rip=guest["probe"], info1=0, g_pat=MINE)
