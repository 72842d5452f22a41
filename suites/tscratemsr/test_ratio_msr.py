"""The TSC ratio MSR (C000_0104h): what it holds, what it refuses, whose it is.

Bits 39:32 are the integer, bits 31:0 the fraction; 63:40 must be zero, and WRMSR with one of them set is #GP(0) and
changes nothing (APM2 15.30.5). It is an MSR like any other, one a processor and in no VMCB. An L0 that keeps it as a
plain variable takes reserved bits, which then go into its own multiplication; one that offers no TscRateMsr and forgets
to say so of the MSR gives L1 something that it never composed with its own scaling.
"""

import pytest

from harness import VMEXIT, cases, clause
from harness.svm.msr import msrpm
from suites.lib.guest_tsc import ONE, RATIOS, TSC_RATIO, assert_scaled, own_ratio, ratios, sample, wrmsr

RESERVED = range(40, 64)
SVME = 1 << 12
EFER = 0xC000_0080


@clause("tscratemsr.msr.reset")
def test_reset_value(l1):
    """No test leaves another value behind, and the executor does not know the MSR."""
    assert l1.rdmsr(TSC_RATIO).reads(ONE)


@clause("tscratemsr.msr.holds")
@ratios()
def test_ratios_read_back(l1, ratio):
    with own_ratio(l1):
        assert l1.wrmsr(TSC_RATIO, ratio).ok
        assert l1.rdmsr(TSC_RATIO).reads(ratio)


@clause("tscratemsr.msr.holds")
@cases("bit", range(40), prefix="bit", decimal=True)
def test_each_bit_reads_back(l1, bit):
    with own_ratio(l1):
        assert l1.wrmsr(TSC_RATIO, 1 << bit).ok
        assert l1.rdmsr(TSC_RATIO).reads(1 << bit)


@clause("tscratemsr.msr.reserved")
@cases("bit", RESERVED, prefix="bit", decimal=True)
def test_reserved_bits(l1, bit):
    """The rest of the value is legal, and another one than before."""
    with own_ratio(l1):
        assert l1.wrmsr(TSC_RATIO, 2 * ONE).ok

        assert l1.wrmsr(TSC_RATIO, 3 * ONE | 1 << bit).faults("#GP", 0)
        assert l1.rdmsr(TSC_RATIO).reads(2 * ONE)


@clause("tscratemsr.msr.zero")
def test_zero(l1):
    """Refused or taken. L2 does not wait for its TSC to move, which would be for ever."""
    with own_ratio(l1):
        written = l1.wrmsr(TSC_RATIO, 0)
        if written.fault:
            assert written.faults("#GP", 0)
            assert l1.rdmsr(TSC_RATIO).reads(ONE)
            return
        assert l1.rdmsr(TSC_RATIO).reads(0)
        guest = l1.guest("rdtsc\nend: vmmcall")

        one = sample(l1, guest)

        assert one.exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"])
        assert l1.expect("L1's TSC does not go back", one.before <= one.after, True)


@clause("tscratemsr.msr.without_svme")
def test_without_svme(l1):
    with own_ratio(l1):
        assert l1.wrmsr(EFER, l1.rdmsr(EFER).value & ~SVME).ok

        assert l1.wrmsr(TSC_RATIO, 3 * ONE).ok
        assert l1.rdmsr(TSC_RATIO).reads(3 * ONE)
        assert l1.code("nop").returned  # the executor sets SVME again


# --- L2


@clause("tscratemsr.msr.in_guest")
def test_l2_reads_and_writes_l1s_ratio(l1):
    with own_ratio(l1):
        guest = l1.guest(
            f"mov ecx, {TSC_RATIO:#x}\nrdmsr\nmov ebx, eax\nmov ebp, edx\n{wrmsr(RATIOS['pi'])}\nend: vmmcall",
            intercept=["msr"],
        )
        assert l1.wrmsr(TSC_RATIO, RATIOS["85.5"]).ok

        exit = guest.run()

        assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"])
        assert l1.expect("ratio that L2 reads", exit.regs["rbp"] << 32 | exit.regs["rbx"], RATIOS["85.5"])
        assert l1.rdmsr(TSC_RATIO).reads(RATIOS["pi"])


@clause("tscratemsr.msr.reserved_in_guest")
@cases("bit", [40, 47, 62, 63], prefix="bit", decimal=True)
def test_l2_cannot_set_reserved_bits(l1, bit):
    with own_ratio(l1):
        guest = l1.guest(f"{wrmsr(3 * ONE)}\n{wrmsr(2 * ONE | 1 << bit)[:-5]}probe: wrmsr\nvmmcall", intercept=["msr"])

        assert guest.run().matches(code=VMEXIT.EXCP_GP, rip=guest["probe"], info1=0)
        assert l1.rdmsr(TSC_RATIO).reads(3 * ONE)


@clause("tscratemsr.msr.intercept")
@cases("write", [False, True])
def test_map_covers_the_ratio(l1, write):
    """The other direction has no bit in the map, and gets through."""
    with own_ratio(l1):
        guest = l1.guest(
            f"{wrmsr(3 * ONE)[:-5]}{'rdmsr' if write else 'wrmsr'}\nprobe: {'wrmsr' if write else 'rdmsr'}\nvmmcall",
            intercept=["msr"],
        )
        pages = l1.scratch(2)
        l1.write(pages, msrpm(writes=(TSC_RATIO,)) if write else msrpm(reads=(TSC_RATIO,)))
        guest.vmcb["msrpm_base_pa"] = pages

        assert guest.run().matches(code=VMEXIT.MSR, rip=guest["probe"], info1=int(write))
        assert l1.rdmsr(TSC_RATIO).reads(ONE if write else 3 * ONE)


# --- Another CPU


@clause("tscratemsr.msr.per_cpu")
@pytest.mark.two_cpus
def test_another_cpu_has_its_own(l1):
    """The second CPU reads 1.0 while the first has 3.0, and 3.0 stays when the second has written 2.0."""
    with own_ratio(l1):
        assert l1.wrmsr(TSC_RATIO, 3 * ONE).ok
        guest = l1.guest(
            f"mov ecx, {TSC_RATIO:#x}\nrdmsr\nmov ebx, eax\nmov ebp, edx\n{wrmsr(2 * ONE)}\n"
            f"rdmsr\nmov edi, edx\n{wrmsr(ONE)}\nend: vmmcall"
        )

        exit = guest.run(cpu=1)

        assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"])
        assert l1.expect("ratio of the second CPU", exit.regs["rbp"] << 32 | exit.regs["rbx"], ONE)
        assert l1.expect("its integer when it was written there", exit.regs["rdi"], 2)
        assert l1.rdmsr(TSC_RATIO).reads(3 * ONE)


@clause("tscratemsr.msr.per_cpu")
@pytest.mark.two_cpus
def test_another_cpus_guest_is_not_scaled(l1):
    """The second CPU's L2 reads the TSC that L1 reads there, whatever ratio the first CPU has."""
    with own_ratio(l1):
        times = l1.scratch()
        guest = l1.guest("rdtsc\nend: vmmcall")
        guest.setup("rdtsc\nmov [r8], eax\nmov [r8 + 4], edx", {"r8": times})
        guest.teardown("rdtsc\nmov [r8 + 8], eax\nmov [r8 + 12], edx", {"r8": times})
        assert l1.wrmsr(TSC_RATIO, RATIOS["2^-12"]).ok

        exit = guest.run(cpu=1, read={"times": (times, 16)})

        assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"])
        before, after = (int.from_bytes(exit.memory["times"][at : at + 8], "little") for at in (0, 8))
        within = (exit.regs["rdx"] & 0xFFFF_FFFF) << 32 | exit.regs["rax"] & 0xFFFF_FFFF
        assert l1.expect("L2's TSC there lies between L1's", before <= within <= after, True)


# --- Not offered


@clause("tscratemsr.msr.absent")
@cases("value", {"read": None, "zero": 0, "one": ONE, "double": 2 * ONE, "all_ones": (1 << 64) - 1})
def test_absent_in_l1(l1, value):
    result = l1.rdmsr(TSC_RATIO) if value is None else l1.wrmsr(TSC_RATIO, value)

    assert result.faults("#GP", 0)


@clause("tscratemsr.msr.absent")
@cases("insn", ["rdmsr", "wrmsr"])
def test_absent_in_l2(l1, insn):
    """L2's #GP, seen by L1's exception intercept; what L2 reads afterwards is not scaled."""
    guest = l1.guest(f"{wrmsr(2 * ONE)[:-5]}probe: {insn}\nrdtsc\nend: vmmcall", intercept=["msr"])

    assert guest.run().matches(code=VMEXIT.EXCP_GP, rip=guest["probe"], info1=0)

    guest.vmcb["rip"] = guest["probe"] + 2
    one = sample(l1, guest)
    assert one.exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"])
    assert_scaled(l1, one)
