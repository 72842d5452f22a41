"""Which I/O accesses exit: the I/O permissions map.

One bit for each port; an access exits if any of the bits of its bytes is set, whether they lie in one byte of the map,
in two, or in two of its pages, and the three bits behind port FFFFh are for accesses that run over the end (APM2
15.10). An L0 that runs L2 with a map of its own has to look this up in L1's: Xen asks for all bits instead of any, and
off-by-one errors at the ends are an old story. A port that L1 does not intercept must not be shown to it.
"""

import pytest

from harness import VMEXIT, clause, masked
from harness.svm.msr import iopm_position

REGISTERS = {1: "al", 2: "ax", 4: "eax"}
RAX = 0x1122_3344_5566_7788


def _guest(l1, port, size, bits, *, out=False, fill=0):
    """L2 does one access; the map holds `fill` bytes, and `bits` (ports) inverted."""
    access = f"out dx, {REGISTERS[size]}" if out else f"in {REGISTERS[size]}, dx"
    guest = l1.guest(f"nop\nstart: {access}\nend: vmmcall", intercept=["ioio"], vmcb={"rax": RAX}, regs={"rdx": port})
    base = l1.scratch(3)
    if fill:
        l1.fill(base, 0x3000, fill)
    content = {}
    for bit in bits:
        byte, number = iopm_position(bit)
        content[byte] = content.get(byte, fill) ^ 1 << number
    for byte, value in content.items():
        guest.write(base + byte, bytes([value]))
    guest.vmcb["iopm_base_pa"] = base
    return guest


def _exits(guest):
    return guest.run().matches(code=VMEXIT.IOIO, rip=guest["start"], rax=RAX)


def _passes(guest):
    return guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"])


# An access whose bits lie in one byte of the map, and one whose bits lie in two.
PORTS = [pytest.param(0x1230, False, id="in_1230"), pytest.param(0x1235, True, id="out_1235")]
BYTES = [(size, byte) for size in (1, 2, 4) for byte in range(size)]


@clause("core.ioio.any_byte")
@pytest.mark.parametrize(("size", "byte"), BYTES, ids=[f"{8 * size}bit-byte{byte}" for size, byte in BYTES])
@pytest.mark.parametrize(("port", "out"), PORTS)
def test_one_bit_is_enough(l1, port, out, size, byte):
    """Each byte's bit alone."""
    assert _exits(_guest(l1, port, size, [port + byte], out=out))


@clause("core.ioio.any_byte")
@pytest.mark.parametrize("side", ["below", "above"])
@pytest.mark.parametrize("size", [1, 2, 4], ids=["8bit", "16bit", "32bit"])
@pytest.mark.parametrize(("port", "out"), PORTS)
def test_neighbours_do_not_count(l1, port, out, size, side):
    """The near miss: the bit right below the access, or right above it."""
    assert _passes(_guest(l1, port, size, [port - 1 if side == "below" else port + size], out=out))


@clause("core.ioio.not_intercepted")
@pytest.mark.parametrize("size", [1, 2, 4], ids=["8bit", "16bit", "32bit"])
@pytest.mark.parametrize(("port", "out"), PORTS)
def test_clear_bits_in_a_full_map(l1, port, out, size):
    """All bits are set but those of the access."""
    assert _passes(_guest(l1, port, size, range(port, port + size), out=out, fill=0xFF))


@clause("core.ioio.not_intercepted")
@pytest.mark.parametrize("size", [1, 2, 4], ids=["8bit", "16bit", "32bit"])
def test_in_writes_its_part_of_rax(l1, size):
    """IN AL and IN AX leave the rest of RAX; IN EAX clears the upper half. What the port reads as is not stated."""
    guest = _guest(l1, 0x1230, size, [])
    kept = {1: masked(RAX, ~0xFF), 2: masked(RAX, ~0xFFFF), 4: masked(0, ~0xFFFF_FFFF)}[size]

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"], rax=masked(kept.value, kept.mask & (1 << 64) - 1))


@clause("core.ioio.not_intercepted")
@pytest.mark.parametrize("code", ["insb", "outsb", "rep insw", "rep outsd"], ids=lambda code: code.replace(" ", "_"))
def test_string_forms_go_on(l1, code):
    """The pointer and the count advance."""
    is_in = "ins" in code
    guest = l1.guest(f"{code}\nend: vmmcall", intercept=["ioio"], regs={"rdx": 0x1230, "rcx": 3})
    buffer = l1.scratch()
    pointer = "rdi" if is_in else "rsi"
    guest.regs[pointer] = buffer
    count = 3 if "rep" in code else 1
    size = {"b": 1, "w": 2, "d": 4}[code[-1]]

    expected = {pointer: buffer + count * size, "rcx": 0 if "rep" in code else 3}
    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"], regs=expected)


@clause("core.ioio.off")
@pytest.mark.parametrize(
    "code",
    ["in al, dx", "out dx, eax", "in ax, 0xE0", "insb", "outsw", "rep outsb"],
    ids=["in_al_dx", "out_dx_eax", "in_ax_imm", "insb", "outsw", "rep_outsb"],
)
def test_map_is_ignored_without_the_intercept(l1, code):
    """Every bit is set."""
    guest = l1.guest(f"{code}\nend: vmmcall", no_intercept=["ioio"], regs={"rdx": 0x1230, "rcx": 2})
    base = l1.scratch(3)
    l1.fill(base, 0x3000, 0xFF)
    guest.regs["rsi"] = guest.regs["rdi"] = l1.scratch()
    guest.vmcb["iopm_base_pa"] = base

    assert _passes(guest)


# Port, size, the one bit that is set (as a port number), whether the access exits.
STRADDLING = [
    (0x4FFF, 2, 0x4FFF, True), (0x4FFF, 2, 0x5000, True), (0x4FFF, 2, 0x5001, False),
    (0x4FFF, 1, 0x5000, False), (0x4FFD, 4, 0x5000, True), (0x4FFC, 4, 0x5000, False),
    (0x7FFF, 2, 0x7FFF, True), (0x7FFF, 2, 0x8000, True), (0x7FFF, 2, 0x8001, False), (0x7FFF, 2, 0, False),
    (0x7FFF, 1, 0x8000, False), (0x7FFD, 4, 0x8000, True), (0x7FFF, 4, 0x8002, True),
    (0x7FFC, 4, 0x8000, False), (0x8000, 1, 0x8000, True), (0x8000, 1, 0, False),
]  # fmt: skip


@clause("core.ioio.straddle")
@pytest.mark.parametrize(
    ("port", "size", "bit", "exits"), STRADDLING, ids=[f"{p:x}h-{8 * s}bit-bit{b:x}" for p, s, b, _ in STRADDLING]
)
def test_straddling_access(l1, port, size, bit, exits):
    """4FFFh is the last port of a byte, 7FFFh the last of a page of the map."""
    guest = _guest(l1, port, size, [bit])

    assert _exits(guest) if exits else _passes(guest)


BEYOND = [
    (0xFFFF, 2, 0x1_0000, True), (0xFFFE, 4, 0x1_0000, True), (0xFFFE, 4, 0x1_0001, True), (0xFFFD, 4, 0x1_0000, True),
    (0xFFFF, 4, 0x1_0001, True), (0xFFFF, 4, 0x1_0002, True), (0xFFFF, 2, 0xFFFF, True),
    (0xFFFF, 1, 0x1_0000, False), (0xFFFF, 2, 0x1_0001, False), (0xFFFC, 4, 0x1_0000, False),
    (0xFFFD, 4, 0x1_0001, False), (0xFFFE, 4, 0x1_0002, False), (0xFFFF, 2, 0, False), (0xFFFF, 4, 2, False),
]  # fmt: skip


@clause("core.ioio.beyond_64k")
@pytest.mark.parametrize(
    ("port", "size", "bit", "exits"), BEYOND, ids=[f"{p:x}h-{8 * s}bit-bit{b:x}" for p, s, b, _ in BEYOND]
)
def test_access_over_the_end(l1, port, size, bit, exits):
    """Bits 10000h to 10002h are the first of the third page."""
    guest = _guest(l1, port, size, [bit])

    assert _exits(guest) if exits else _passes(guest)


@clause("core.ioio.map_changed")
@pytest.mark.parametrize("order", [[False, True, False], [True, False, True]], ids=["clear_set_clear", "set_clear_set"])
def test_map_changed_between_runs(l1, order):
    """L1 writes the byte in its map and does VMRUN again, with the same VMCB."""
    port = 0x1230
    guest = _guest(l1, port, 1, [])
    at = guest.vmcb["iopm_base_pa"] + iopm_position(port)[0]
    l1.write(at, bytes([int(order[0])]))
    for intercepted in order:
        l1.write(at, bytes([int(intercepted)]))
        guest.vmcb["rip"] = guest["start"]
        exit = guest.run()
        if intercepted:
            assert exit.matches(code=VMEXIT.IOIO, rip=guest["start"])
        else:
            assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"])
