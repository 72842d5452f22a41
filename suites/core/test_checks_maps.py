"""VMRUN's checks of where the I/O and MSR permission maps lie.

Hardware ignores the low 12 bits of IOPM_BASE_PA and MSRPM_BASE_PA, and refuses a map whose last byte lies at or beyond
the physical address limit (APM2 15.10.1, 15.11). The MSR map has 8 KiB. The I/O map's last byte that is used is the one
at 2000h, and 12 KiB are set aside: with whole pages both readings draw the same line.
A wrong L0 checks the first page only, is off by a page, refuses unaligned addresses, or adds the low bits in when it
looks something up.
"""

import pytest

from harness import VMEXIT, clause
from suites.lib.beyond_memory import ABOVE_LIMIT, ABOVE_MAXPHYADDR, beyond

PAGE = 4096
IOPM, MSRPM = "iopm_base_pa", "msrpm_base_pa"
PORT = 0x80  # the POST code port: reading it does no harm
MSR_SYSENTER_CS = 0x174


@clause("core.checks.msrpm_range")
@pytest.mark.parametrize("bit", ABOVE_MAXPHYADDR + ABOVE_LIMIT)
def test_msrpm_beyond_the_limit_is_refused(l1, bit):
    guest = l1.guest("vmmcall", intercept=["msr"])
    guest.vmcb[MSRPM] |= 1 << beyond(l1, bit)

    assert guest.run().is_invalid


@clause("core.checks.iopm_range")
@pytest.mark.parametrize("bit", ABOVE_MAXPHYADDR + ABOVE_LIMIT)
def test_iopm_beyond_the_limit_is_refused(l1, bit):
    guest = l1.guest("vmmcall", intercept=["ioio"])
    guest.vmcb[IOPM] |= 1 << beyond(l1, bit)

    assert guest.run().is_invalid


@clause("core.checks.msrpm_range")
@pytest.mark.parametrize("low", [0, 1, 0xFFF], ids=["aligned", "low_bit_0", "low_bits"])
def test_msrpm_that_ends_beyond_the_limit_is_refused(l1, low):
    """The first page lies below the limit, the second at it."""
    guest = l1.guest("vmmcall", intercept=["msr"])
    guest.vmcb[MSRPM] = (1 << l1.cpuid.maxphyaddr) - PAGE | low

    assert guest.run().is_invalid


@clause("core.checks.iopm_range")
@pytest.mark.parametrize("low", [0, 1, 0xFFF], ids=["aligned", "low_bit_0", "low_bits"])
@pytest.mark.parametrize("pages", [1, 2])
def test_iopm_that_ends_beyond_the_limit_is_refused(l1, pages, low):
    """One or two of its three pages lie below the limit."""
    guest = l1.guest("vmmcall", intercept=["ioio"])
    guest.vmcb[IOPM] = (1 << l1.cpuid.maxphyaddr) - pages * PAGE | low

    assert guest.run().is_invalid


@clause("core.checks.iopm_range")
@pytest.mark.parametrize("low", [0, 0xFFF], ids=["aligned", "low_bits"])
@pytest.mark.parametrize("pages", [3, 4])
def test_iopm_that_just_fits_runs(l1, pages, low):
    """The legal neighbours. L2 does no I/O, so it does not matter what lies there."""
    guest = l1.guest("start: vmmcall")
    guest.vmcb[IOPM] = (1 << l1.cpuid.maxphyaddr) - pages * PAGE | low

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["start"])


@clause("core.checks.msrpm_range")
@pytest.mark.parametrize("low", [0, 0xFFF], ids=["aligned", "low_bits"])
@pytest.mark.parametrize("pages", [3, 4])
def test_msrpm_that_fits_runs(l1, pages, low):
    """The legal neighbours, with the intercept clear: an L0 may refuse a map that it would have to read and cannot."""
    guest = l1.guest("start: vmmcall")
    guest.vmcb[MSRPM] = (1 << l1.cpuid.maxphyaddr) - pages * PAGE | low

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["start"])


@clause("core.checks.msrpm_last_fit")
@pytest.mark.parametrize("intercept", [[], ["msr"]], ids=["no_intercept", "intercept"])
def test_msrpm_in_the_last_two_pages_is_survived(l1, intercept):
    """Its last byte is the last one below the limit: legal by the text, but public tests expect a refusal."""
    guest = l1.guest("start: vmmcall", intercept=intercept)
    guest.vmcb[MSRPM] = (1 << l1.cpuid.maxphyaddr) - 2 * PAGE

    exit = guest.run()

    assert exit.is_invalid or exit.matches(code=VMEXIT.VMMCALL, rip=guest["start"])


@clause("core.checks.map_range_without_intercept")
@pytest.mark.parametrize("field", [IOPM, MSRPM], ids=["iopm", "msrpm"])
def test_map_out_of_range_without_its_intercept_is_survived(l1, field):
    """The text does not tie the check to the intercept; implementations check always."""
    guest = l1.guest("start: vmmcall", no_intercept=["ioio", "msr"])
    guest.vmcb[field] = 1 << 63

    exit = guest.run()

    assert exit.is_invalid or exit.matches(code=VMEXIT.VMMCALL, rip=guest["start"])


def _maps_at(l1, size, byte, bit):
    """A map in which one bit is set, and a second copy of that bit where an L0 finds it that adds FFFh to the base."""
    base = l1.scratch(size // PAGE + 1)
    return base, {"right": base + byte, "wrong": base + 0xFFF + byte}, bytes([1 << bit])


@clause("core.checks.map_low_bits_ignored")
@pytest.mark.parametrize("low", [0, 1, 0x800, 0xFFF], ids=["aligned", "001", "800", "fff"])
def test_iopm_bit_is_found_with_low_bits_set(l1, low):
    guest = l1.guest(f"start: in al, {PORT:#x}\nvmmcall", intercept=["ioio"])
    base, at, byte = _maps_at(l1, 3 * PAGE, PORT // 8, PORT % 8)
    guest.write(at["right"], byte)
    guest.vmcb[IOPM] = base | low

    assert guest.run().matches(code=VMEXIT.IOIO, rip=guest["start"])


@clause("core.checks.map_low_bits_ignored")
@pytest.mark.parametrize("low", [0, 0xFFF], ids=["aligned", "fff"])
def test_iopm_bit_elsewhere_does_not_intercept(l1, low):
    guest = l1.guest(f"in al, {PORT:#x}\nafter: vmmcall", intercept=["ioio"])
    base, at, byte = _maps_at(l1, 3 * PAGE, PORT // 8, PORT % 8)
    guest.write(at["wrong"], byte)
    guest.vmcb[IOPM] = base | low

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["after"])


@clause("core.checks.map_low_bits_ignored")
@pytest.mark.parametrize("low", [0, 1, 0x800, 0xFFF], ids=["aligned", "001", "800", "fff"])
def test_msrpm_bit_is_found_with_low_bits_set(l1, low):
    guest = l1.guest("start: rdmsr\nvmmcall", intercept=["msr"], regs={"rcx": MSR_SYSENTER_CS})
    base, at, byte = _maps_at(l1, 2 * PAGE, MSR_SYSENTER_CS // 4, MSR_SYSENTER_CS % 4 * 2)
    guest.write(at["right"], byte)
    guest.vmcb[MSRPM] = base | low

    assert guest.run().matches(code=VMEXIT.MSR, rip=guest["start"], info1=0)


@clause("core.checks.map_low_bits_ignored")
@pytest.mark.parametrize("low", [0, 0xFFF], ids=["aligned", "fff"])
def test_msrpm_bit_elsewhere_does_not_intercept(l1, low):
    guest = l1.guest("rdmsr\nafter: vmmcall", intercept=["msr"], regs={"rcx": MSR_SYSENTER_CS})
    base, at, byte = _maps_at(l1, 2 * PAGE, MSR_SYSENTER_CS // 4, MSR_SYSENTER_CS % 4 * 2)
    guest.write(at["wrong"], byte)
    guest.vmcb[MSRPM] = base | low

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["after"])
