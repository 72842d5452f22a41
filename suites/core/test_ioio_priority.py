"""What comes first: the faults of an I/O access, or its intercept.

The #GP of IOPL and of the TSS's I/O bitmap comes before the IOIO intercept, everything else after it (APM2 15.10.2).
An L0 that shows L1 an access which L2's own operating system had forbidden lets an L2 program reach L1's devices.
"""

import pytest

from harness import VMEXIT, any_of, clause, unchanged

PORT = 0x1230
IOPL3 = 3 << 12
BITMAP = 0x68  # where the bitmap begins in the TSS
V86 = {"cr0": 0x31, "rflags": 0x2_0002, "cpl": 3} | {f"{name}.attrib": 0xF3 for name in ("cs", "ss", "ds", "es")}


def _guest(l1, code, *, mode, cpl=3, iopl=0, denied=None, limit=None, vmcb=None):
    """A guest whose every port is intercepted, with a TSS whose bitmap denies the ports in `denied`."""
    guest = l1.guest(f"nop\nstart: {code}\nvmmcall", mode=mode, cpl=cpl, intercept=["ioio"], vmcb=vmcb)
    maps, tss = l1.scratch(3), l1.scratch(3)
    l1.fill(maps, 0x3000, 0xFF)
    guest.write(tss + 0x66, BITMAP.to_bytes(2, "little"))
    for port in denied or ():
        guest.write(tss + BITMAP + port // 8, bytes([1 << port % 8]))
    guest.regs.update({"rdx": PORT, "rsi": 0x8000, "rdi": 0x8000, "rcx": 1})
    guest.vmcb.update({"iopm_base_pa": maps, "tr.base": tss})
    guest.vmcb["tr.limit"] = BITMAP + 0x2000 if limit is None else limit
    guest.vmcb["rflags"] |= iopl
    return guest


MODES = ["long64", "compat32", "prot32"]
MODES_AND_FORMS = [
    pytest.param("long64", "in al, dx", id="long64-in"),
    pytest.param("long64", "out dx, ax", id="long64-out"),
    pytest.param("long64", "insb", id="long64-insb"),
    pytest.param("compat32", "out dx, eax", id="compat32-out"),
    pytest.param("prot32", "in al, dx", id="prot32-in"),
]


@clause("core.ioio.privilege_first")
@pytest.mark.parametrize(("mode", "code"), MODES_AND_FORMS)
def test_bitmap_denies(l1, mode, code):
    guest = _guest(l1, code, mode=mode, denied=[PORT])

    assert guest.run(vmload=True).matches(code=VMEXIT.EXCP_GP, rip=guest["start"], info1=0, rax=unchanged)


@clause("core.ioio.privilege_first")
@pytest.mark.parametrize("mode", MODES)
def test_tss_is_too_short(l1, mode):
    """No bitmap at all denies everything."""
    guest = _guest(l1, "in al, dx", mode=mode, limit=0x67)

    assert guest.run(vmload=True).matches(code=VMEXIT.EXCP_GP, rip=guest["start"], info1=0)


@clause("core.ioio.privilege_first")
@pytest.mark.parametrize(("mode", "code"), MODES_AND_FORMS)
def test_bitmap_allows(l1, mode, code):
    """The near miss: the neighbouring ports are denied."""
    guest = _guest(l1, code, mode=mode, denied=[PORT - 1, PORT + 8])

    assert guest.run(vmload=True).matches(code=VMEXIT.IOIO, rip=guest["start"], rax=unchanged)


@clause("core.ioio.privilege_first")
@pytest.mark.parametrize(
    ("mode", "cpl", "iopl"),
    [("long64", 3, 3), ("long64", 0, 0), ("compat32", 3, 3), ("prot32", 3, 3), ("prot32", 1, 1), ("prot32", 0, 0)],
)
def test_iopl_allows(l1, mode, cpl, iopl):
    """With IOPL at or above the CPL the bitmap is not looked at."""
    guest = _guest(l1, "in al, dx", mode=mode, cpl=cpl, iopl=iopl << 12, denied=[PORT])

    assert guest.run(vmload=True).matches(code=VMEXIT.IOIO, rip=guest["start"], rax=unchanged)


@clause("core.ioio.privilege_first")
@pytest.mark.parametrize("iopl", [0, IOPL3], ids=["iopl0", "iopl3"])
@pytest.mark.parametrize("denied", [True, False], ids=["denied", "allowed"])
def test_virtual_8086_mode(l1, denied, iopl):
    """There the bitmap alone decides, whatever IOPL is."""
    guest = _guest(l1, "in al, dx", mode="real16", cpl=0, iopl=iopl, denied=[PORT] if denied else [PORT - 1], vmcb=V86)

    exit = guest.run(vmload=True)

    assert exit.matches(code=VMEXIT.EXCP_GP if denied else VMEXIT.IOIO, rip=guest["start"], rax=unchanged)


@clause("core.ioio.privilege_first")
def test_real_mode_has_no_privilege(l1):
    guest = _guest(l1, "in al, dx", mode="real16", cpl=0, denied=[PORT])

    assert guest.run(vmload=True).matches(code=VMEXIT.IOIO, rip=guest["start"], rax=unchanged)


@clause("core.ioio.before_memory")
@pytest.mark.parametrize("code", ["insb", "outsb"])
def test_operand_that_is_not_mapped(l1, code):
    guest = _guest(l1, code, mode="long64", cpl=0)
    guest.regs["rsi"] = guest.regs["rdi"] = 0x7FFF_FFFF_0000

    assert guest.run().matches(code=any_of(VMEXIT.IOIO, VMEXIT.EXCP_PF), rip=guest["start"])
