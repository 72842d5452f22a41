"""What L2's TSC is with a ratio: the counter times the ratio, plus TSC_OFFSET.

The processor multiplies its TSC, with all that was ever written to it, by TSC_RATIO and then adds TSC_OFFSET, which it
does not multiply (APM2 15.30.5). Only a guest reads that; the host's TSC is as ever. An L0 gets the order wrong, scales
the offset too, multiplies in 64 bits and loses the top, scales from the moment of VMRUN on and not from zero, or leaves
the ratio on when it runs L1. A guest whose clock goes back, or runs at another speed than it was promised, breaks.

Each test compares with two reads of L1's, one just before VMRUN and one just after #VMEXIT, so that a busy machine
makes the bounds wider and never wrong. With a small ratio the bounds are a unit apart.
"""

import pytest

from harness import VMEXIT, cases, clause
from suites.lib.guest_tsc import (
    ONE,
    RATIOS,
    TSC,
    TSC_RATIO,
    WRAP,
    assert_scaled,
    ceil_of,
    floor_of,
    own_ratio,
    ratios,
    reads,
    sample,
    wrmsr,
)

OFFSETS = {"zero": 0, "plus": 0x0123_4567_89AB_CDEF, "minus": WRAP - (1 << 40), "2^63": 1 << 63}
MODES = ["long64", "compat32", "pae32", "paged32", "prot32", "real16"]
FAR = 1 << 56  # times 2^-32, the lowest bit of a ratio, this is 2^24
LONG = 1 << 48  # more than any run takes, in units of the TSC

MPERF = {"mperf": (0xE7, "Fn0000_0006 ECX[0]"), "mperf_read_only": (0xC000_00E7, "Fn8000_0007 EDX[10]")}

TSC_IS_FAR = f"""
    rdtsc
    shl rdx, 32
    or rax, rdx
    mov r12, rax
    {wrmsr(FAR, TSC)}
"""
"""R12 keeps the TSC."""

TSC_IS_BACK = f"""
    rdtsc
    shl rdx, 32
    or rax, rdx
    mov rbx, {FAR}
    sub rax, rbx
    add rax, r12
    mov rdx, rax
    shr rdx, 32
    mov ecx, {TSC:#x}
    wrmsr
"""
"""What passed meanwhile is not lost, or the executor's own waits would go wrong."""


def reading_guest(l1, read="rdtsc", **more):
    """An L2 that reads the TSC once."""
    return l1.guest(f"start: {read}\nend: vmmcall", **more)


@clause("tscratemsr.scale.value")
@cases("offset", OFFSETS)
@ratios()
def test_value(l1, ratio, offset):
    guest = reading_guest(l1, vmcb={"tsc_offset": offset})

    one = sample(l1, guest, ratio=ratio)

    assert one.exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"])
    assert_scaled(l1, one, ratio, offset)


@clause("tscratemsr.scale.slope")
@ratios()
def test_slope(l1, ratio):
    """Two runs of one guest; the time between them is what L1 needs for a request."""
    guest = reading_guest(l1)
    first = sample(l1, guest, ratio=ratio)
    assert first.exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"])
    guest.vmcb["rip"] = guest["start"]

    second = sample(l1, guest, ratio=ratio)

    assert second.exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"])
    least = floor_of(second.before - first.after, ratio) - 1
    most = ceil_of(second.after - first.before, ratio) + 1
    went = (second.within - first.within) % WRAP
    assert l1.expect("L1's TSC goes forward, by less than 2^48", 0 <= second.before - first.after < LONG, True)
    assert l1.expect("L2's TSC does not go back", went < 1 << 63, True)
    ratio_of_it = least - (least >> 20) <= went <= most + (most >> 20)
    assert l1.expect("L2's TSC goes forward by the ratio of what L1's does", ratio_of_it, True)


@clause("tscratemsr.scale.monotonic")
@ratios("one", "double", "3_2", "1_16", "10", "128")
def test_it_never_goes_back_in_a_run(l1, ratio):
    """A thousand reads in L2, each at least the one before; EBX counts those that are less."""
    guest = l1.guest(
        """
        mov esi, 1000
        xor ebx, ebx
        xor edi, edi
        again: rdtsc
        shl rdx, 32
        or rax, rdx
        cmp rax, rdi
        adc ebx, 0
        mov rdi, rax
        dec esi
        jnz again
        end: vmmcall
        """
    )
    before = l1.code("rdtsc\nshl rdx, 32\nor rax, rdx")
    with own_ratio(l1):
        assert l1.wrmsr(TSC_RATIO, ratio).ok
        exit = guest.run()

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"])
    assert l1.expect("reads that were less than the one before", exit.regs["rbx"], 0)
    least = floor_of(before.reg("rax"), ratio)
    assert l1.expect("L2's TSC at the end is beyond L1's before, scaled", exit.regs["rdi"] >= least, True)


@clause("tscratemsr.scale.fraction")
@pytest.mark.dirties("L1's TSC was written")
@cases("bit", [*range(0, 32, 3), 31, 32], prefix="bit", decimal=True)
def test_each_bit_of_the_ratio_counts(l1, bit):
    """1.0 and one bit more, or 2.0; and 1.0 less that bit."""
    guest = reading_guest(l1)
    for ratio in (ONE + (1 << bit), ONE - (1 << bit) or ONE // 2):
        guest.vmcb["rip"] = guest["start"]
        one = sample(l1, guest, ratio=ratio, setup=TSC_IS_FAR, teardown=TSC_IS_BACK)

        assert one.exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"])
        if one.before < FAR:
            pytest.skip("WRMSR of the TSC (10h) in L1 does nothing here: a ratio's low bits cannot be seen")
        assert_scaled(l1, one, ratio)


@clause("tscratemsr.scale.reads")
@reads()
@ratios("1_3", "1_16", "3_2", "just_above_one", "just_below_one", "10", "128", "half")
def test_each_way_to_read(l1, read, ratio):
    if "rdtscp" in read:
        l1.need("RDTSCP")
    guest = reading_guest(l1, read)

    one = sample(l1, guest, ratio=ratio)

    assert one.exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"])
    assert_scaled(l1, one, ratio)


@clause("tscratemsr.scale.reads")
@reads()
@cases("mode", MODES)
def test_in_every_mode(l1, read, mode):
    if "rdtscp" in read:
        l1.need("RDTSCP")
    guest = reading_guest(l1, read, mode=mode, vmcb={"tsc_offset": OFFSETS["plus"]})

    one = sample(l1, guest, ratio=RATIOS["2^-12"])

    assert one.exit.matches(
        code=VMEXIT.VMMCALL,
    )
    assert_scaled(l1, one, RATIOS["2^-12"], OFFSETS["plus"])


@clause("tscratemsr.scale.mperf")
@cases("counter", list(MPERF))
def test_mperf(l1, counter):
    msr, where = MPERF[counter]
    there = l1.cpuid_now(6)[2] & 1 if counter == "mperf" else l1.cpuid_now(0x8000_0007)[3] >> 10 & 1
    if not there:
        pytest.skip(f"CPUID {where} is 0: there is no MSR {msr:X}h")
    guest = reading_guest(l1, f"mov ecx, {msr:#x}\nrdmsr")

    one = sample(l1, guest, ratio=RATIOS["2^-12"], l1_reads=f"mov ecx, {msr:#x}\nrdmsr")

    assert one.exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"])
    assert_scaled(l1, one, RATIOS["2^-12"])


# --- L1's own TSC


@clause("tscratemsr.scale.not_in_host")
@cases("ratio", {name: RATIOS[name] for name in ("2^-20", "half", "double", "largest")})
def test_l1s_tsc_is_never_scaled(l1, ratio):
    """Read before the ratio is written, with it, after #VMEXIT, and with 1.0 again: it never goes back.

    With a small ratio in force it would be back by nearly all of it; with a large one when 1.0 is written.
    """
    read = "rdtsc\nshl rdx, 32\nor rax, rdx\nmov {}, rax"
    guest = reading_guest(l1)

    one = sample(l1, guest, ratio=ratio, setup=read.format("r12"), teardown=read.format("r13"))

    assert one.exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"])
    order = [one.exit.l1.reg("r12"), one.before, one.after, one.exit.l1.reg("r13")]
    assert l1.expect("L1's TSC does not go back when the ratio is written", order[0] <= order[1], True)
    assert l1.expect("L1's TSC does not go back from VMRUN to #VMEXIT", order[1] <= order[2], True)
    assert l1.expect("L1's TSC does not go back when 1.0 is written again", order[2] <= order[3], True)


# --- When a ratio takes effect


@clause("tscratemsr.scale.at_once")
@cases("clean", {"no_clean_bits": 0, "all_clean_bits": 0x1FFF})
def test_a_ratio_written_between_runs(l1, clean):
    """Nothing in the VMCB says that it changed."""
    guest = reading_guest(l1)
    for ratio in (RATIOS["double"], RATIOS["2^-12"], RATIOS["10"], ONE):
        one = sample(l1, guest, ratio=ratio)
        assert one.exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"])
        assert_scaled(l1, one, ratio)
        guest.vmcb.update({"rip": guest["start"], "clean": clean, "tlb_control": 0})


@clause("tscratemsr.scale.at_once")
@cases("ratio", {name: RATIOS[name] for name in ("2^-12", "1_3", "10", "largest")})
def test_a_ratio_that_l2_writes(l1, ratio):
    guest = l1.guest(f"{wrmsr(ratio)}\nrdtsc\nend: vmmcall")

    one = sample(l1, guest, ratio=RATIOS["double"])

    assert one.exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"])
    assert_scaled(l1, one, ratio)


@clause("tscratemsr.scale.wrmsr_tsc")
@cases("offset", {"no_offset": 0, "offset": 1 << 44})
@pytest.mark.dirties("L2 wrote the TSC")
def test_l2_writes_the_tsc(l1, offset):
    """L2 writes 2^50 at a ratio of 4 and reads back 2^52 and the offset by the manual; L1 restores its own TSC."""
    guest = l1.guest(f"{wrmsr(1 << 50, TSC)}\nrdtsc\nend: vmmcall", vmcb={"tsc_offset": offset})
    save = "rdtsc\nshl rdx, 32\nor rax, rdx\nmov r12, rax"
    restore = f"mov rax, r12\nmov rdx, r12\nshr rdx, 32\nmov ecx, {TSC:#x}\nwrmsr"

    one = sample(l1, guest, ratio=4 * ONE, setup=save, teardown=restore)

    assert one.exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"])
    ways = {"scaled": (1 << 52) + offset, "as written": 1 << 50, "ignored": 4 * one.before + offset}
    seen = [name for name, start in ways.items() if 0 <= one.within - start < 4 * LONG]
    assert l1.expect(f"L2 reads back what is one of: {', '.join(ways)}", bool(seen), True)
