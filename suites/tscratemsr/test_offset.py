"""TSC_OFFSET (050h): what is added to the TSC that L2 reads.

The processor adds it modulo 2^64 to what RDTSC, RDTSCP and RDMSR of the TSC give in a guest (APM2 15.5.1, Appendix B).
It is not written back, and an RDTSC that L1 intercepts is L1's affair. An L0 that composes L1's offset with its own
and forgets one of them, that keeps the offset of the run before, or that adds it to one of the three ways to read only,
gives L2 a clock that jumps: a guest that trusts it hangs, and two ways to read that disagree are a leak of L0's uptime.

Each read is compared with two of L1's, just before VMRUN and just after #VMEXIT.
"""

from harness import VMEXIT, cases, clause
from suites.lib.guest_tsc import EDX_AT_VMRUN, WRAP, assert_scaled, reads, sample

OFFSETS = {
    "zero": 0, "1": 1, "minus_1": WRAP - 1, "2^32-1": (1 << 32) - 1, "2^40": 1 << 40, "minus_2^40": WRAP - (1 << 40),
    "2^63": 1 << 63, "2^63-1": (1 << 63) - 1, "digits": 0x0123_4567_89AB_CDEF,
}  # fmt: skip
MODES = ["compat32", "pae32", "paged32", "prot32", "real16"]


@clause("tscratemsr.offset.added")
@reads()
@cases("offset", OFFSETS)
def test_offset_is_added(l1, offset, read):
    """In 64 bits, with the carry out of the low half, and round the end."""
    if "rdtscp" in read:
        l1.need("RDTSCP")
    guest = l1.guest(f"{read}\nend: vmmcall", vmcb={"tsc_offset": offset})

    one = sample(l1, guest)

    assert one.exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"])
    assert_scaled(l1, one, offset=offset)


@clause("tscratemsr.offset.kept")
@cases("offset", OFFSETS)
@cases("insn", ["rdtsc", "cpuid"])
def test_offset_is_not_written(l1, insn, offset):
    guest = l1.guest(f"{insn}\nend: vmmcall", vmcb={"tsc_offset": offset})

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"], tsc_offset=offset)


@clause("tscratemsr.offset.added")
@cases("mode", MODES)
@cases("offset", {name: OFFSETS[name] for name in ("digits", "minus_2^40")})
def test_offset_in_every_mode(l1, mode, offset):
    guest = l1.guest("rdtsc\nend: vmmcall", mode=mode, vmcb={"tsc_offset": offset})

    one = sample(l1, guest)

    assert one.exit.matches(code=VMEXIT.VMMCALL)
    assert_scaled(l1, one, offset=offset)


@clause("tscratemsr.offset.intercepted")
@cases("insn", ["rdtsc", "rdtscp"])
@cases("offset", {name: OFFSETS[name] for name in ("zero", "2^63", "digits")})
def test_an_intercepted_read(l1, insn, offset):
    """L2's registers are as L1 set them, and L1's own TSC shows nothing of the offset."""
    if insn == "rdtscp":
        l1.need("RDTSCP")
    guest = l1.guest(f"start: {insn}\nvmmcall", intercept=[insn], vmcb={"tsc_offset": offset}, regs={"rax": 0x1111})

    one = sample(l1, guest)

    code = VMEXIT.RDTSC if insn == "rdtsc" else VMEXIT.RDTSCP
    assert one.exit.matches(code=code, rip=guest["start"])
    assert one.exit.matches(rax=0x1111)
    assert l1.expect("L2's RDX", one.exit.l1.reg("r10"), EDX_AT_VMRUN)
    assert l1.expect("L1's TSC goes forward by less than 2^48", 0 <= one.after - one.before < 1 << 48, True)


@clause("tscratemsr.offset.changed")
@cases("clean", {"no_clean_bits": 0, "all_but_bit_0": 0x1FFE})
def test_a_changed_offset(l1, clean):
    """One guest, again and again; clean bit 0, which covers the offset, is clear each time."""
    guest = l1.guest("start: rdtsc\nend: vmmcall")
    if not l1.cpuid.has("VmcbClean"):
        clean = 0
    for offset in OFFSETS.values():
        guest.vmcb.update({"rip": guest["start"], "tsc_offset": offset, "clean": clean})
        one = sample(l1, guest)
        assert one.exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"])
        assert_scaled(l1, one, offset=offset)
