"""OUTS names the segment that it reads from.

EXITINFO1[12:10] of an I/O exit is the effective segment of OUTS, so that L1 finds the buffer without decoding
(APM2 15.10.3); it came with the decode assists. An L0 that emulates the access for L1 and leaves the field 0 makes L1
read from ES: L2 then sends bytes of another segment to the device.
"""

from harness import VMEXIT, cases, clause

SEGMENTS = {"es": (0x26, 0), "cs": (0x2E, 1), "ss": (0x36, 2), "ds": (0x3E, 3), "fs": (0x64, 4), "gs": (0x65, 5)}


def segment_of(l1, code, mode):
    """EXITINFO1[12:10] of the exit that the string instruction makes."""
    guest = l1.guest(f"start: {code}\nvmmcall", mode=mode, intercept=["ioio"], regs={"rdx": 0x1230, "rcx": 1})
    maps = l1.scratch(3)
    guest.write(maps, b"\xff" * 0x3000)
    guest.vmcb["iopm_base_pa"] = maps

    exit = guest.run()

    assert exit.matches(code=VMEXIT.IOIO, rip=guest["start"])
    return exit.info1 >> 10 & 7


@clause("decodeassists.ioio_segment")
@cases("mode", ["prot32", "long64"])
@cases("code", ["outsb", "outsd", "rep outsb"])
def test_outs_without_a_prefix(l1, code, mode):
    assert l1.expect("EXITINFO1[12:10] (SEG)", segment_of(l1, code, mode), 3, width_bytes=1)


@clause("decodeassists.ioio_segment")
@cases("prefix, number", SEGMENTS)
def test_outs_with_a_prefix(l1, prefix, number):
    """In 32-bit code, where all six prefixes count."""
    segment = segment_of(l1, f".byte {prefix:#x}, 0x6E", "prot32")

    assert l1.expect("EXITINFO1[12:10] (SEG)", segment, number, width_bytes=1)


@clause("decodeassists.ioio_segment")
@cases("prefix, number", {name: SEGMENTS[name] for name in ("fs", "gs")})
def test_outs_with_a_prefix_in_64_bit_mode(l1, prefix, number):
    segment = segment_of(l1, f".byte {prefix:#x}, 0x6E", "long64")

    assert l1.expect("EXITINFO1[12:10] (SEG)", segment, number, width_bytes=1)


@clause("decodeassists.ioio_segment")
@cases("prefix", {"none": "", "fs": ".byte 0x64\n"})
def test_ins_is_always_es(l1, prefix):
    assert l1.expect("EXITINFO1[12:10] (SEG)", segment_of(l1, f"{prefix}insb", "prot32"), 0, width_bytes=1)
