"""The steps that touch memory, CPUID, MSRs and tables, with good input and bad, and how a list of steps ends."""

from __future__ import annotations

import struct

import pytest

from harness.scenario import places, steps
from harness.scenario.steps import Op, Status, Step, TableKind, encode_list
from tests.executor.conftest import MakeTarget
from tests.executor.machines import DEADLINE_S, Machine

pytestmark = pytest.mark.emulator

A = places.SCRATCH
LOW, LOW_END = 0x2_0000, 0x8_0000
ARENA_END = places.ARENA + places.ARENA_SIZE
IMAGE = 0x10_0000
EFER, VM_HSAVE_PA = 0xC000_0080, 0xC001_0117
NO_SUCH_MSR = 0xDEAD_BEEF


def test_memory_is_written_filled_copied_and_read(machine: Machine) -> None:
    data = bytes(range(256))

    whole, _, overlap = machine.run(
        steps.mem_fill(A, 1024, 0xEE),
        *steps.mem_write(A + 1, data),  # odd on purpose
        steps.mem_copy(A + 400, A + 1, 256),
        steps.mem_read(A, 1024),
        steps.mem_copy(A + 3, A + 1, 200),
        steps.mem_read(A + 1, 203),
    )[-3:]

    expected = bytearray(b"\xee" * 1024)
    expected[1:257] = expected[400:656] = data
    assert whole.body == bytes(expected)
    assert overlap.body == data[:2] + data[:200] + data[202:203], "overlapping areas are copied as by memmove"


@pytest.mark.parametrize(("first", "end"), [(places.ARENA, ARENA_END), (LOW, LOW_END)])
def test_all_of_a_scenarios_memory_can_be_touched(machine: Machine, first: int, end: int) -> None:
    assert machine.run(*steps.mem_write(first, b"first"), *steps.mem_write(end - 4, b"last"))
    got = machine.run(steps.mem_read(first, 5), steps.mem_read(end - 4, 4), steps.mem_read(end, 0))
    assert [record.body for record in got] == [b"first", b"last", b""]


OUTSIDE = [
    (0, 1), (LOW - 1, 1), (LOW - 1, 2), (LOW_END, 1), (LOW_END - 1, 2), (places.ARENA - 1, 1), (places.ARENA - 1, 2),
    (ARENA_END, 1), (ARENA_END - 1, 2), (0xFEE0_0000, 4), (1 << 32, 1), (1 << 47, 1), ((1 << 64) - 1, 1),
    ((1 << 64) - 1, 2), (places.ARENA, 0xFFFF_FFFF), (LOW, places.ARENA - LOW + 1),
]  # fmt: skip


@pytest.mark.parametrize(("addr", "size"), OUTSIDE)
def test_memory_outside_is_refused_and_left_alone(qemu: Machine, addr: int, size: int) -> None:
    assert qemu.status(steps.mem_read(addr, size)) is Status.BAD_ADDRESS
    assert qemu.status(steps.mem_fill(addr, size, 1)) is Status.BAD_ADDRESS
    assert qemu.status(steps.mem_copy(addr, places.ARENA, size)) is Status.BAD_ADDRESS
    assert qemu.status(steps.mem_copy(places.ARENA, addr, size)) is Status.BAD_ADDRESS
    if size < 16:
        assert qemu.status(*steps.mem_write(addr, bytes(size))) is Status.BAD_ADDRESS
    if size == 1:
        assert qemu.status(steps.code(addr, {})) is Status.BAD_ADDRESS


def test_the_image_can_be_read_but_not_written(machine: Machine) -> None:
    assert machine.run(steps.mem_read(IMAGE, 4))[0].body == bytes.fromhex("02b0ad1b")
    assert machine.run(steps.mem_copy(A, IMAGE, 4), steps.mem_read(A, 4))[1].body == bytes.fromhex("02b0ad1b")
    assert machine.status(steps.mem_fill(IMAGE, 4, 0)) is Status.BAD_ADDRESS
    assert machine.status(steps.mem_copy(IMAGE, A, 4)) is Status.BAD_ADDRESS
    assert machine.status(*steps.mem_write(IMAGE, b"\0")) is Status.BAD_ADDRESS
    assert machine.status(steps.tables(IMAGE, TableKind.LEGACY)) is Status.BAD_ADDRESS
    assert machine.status(steps.code(IMAGE, {})) is Status.BAD_ADDRESS


# What each op's body has at least; one byte less, or one more, is no such step.
BODIES = {
    Op.MEM_WRITE: struct.pack("<Q", A),
    Op.MEM_FILL: struct.pack("<QIB", A, 1, 0),
    Op.MEM_READ: struct.pack("<QI", A, 1),
    Op.MEM_COPY: struct.pack("<QQI", A, A, 1),
    Op.TABLES: struct.pack("<QB", A, 0),
    Op.CPUID: struct.pack("<II", 0, 0),
    Op.RDMSR: struct.pack("<I", EFER),
    Op.WRMSR: struct.pack("<IQ", NO_SUCH_MSR, 0),
    Op.CODE: struct.pack("<QIHQ", places.L1_CODE, 0, 2, 7),
    Op.VMRUN: struct.pack("<QIIHHQ", places.VMCB, 0, 0, 2, 0, 7),
    Op.RAISE: struct.pack("<BBBBI", 0, 0x40, 0, 0, 0),
    Op.WINDOW: struct.pack("<II", 0, 0),
    Op.HOST_STATE: b"",
    Op.CPU_START: struct.pack("<BBH", 1, 0, 0),
    Op.CPU_JOIN: struct.pack("<BBHI", 1, 0, 0, 1),
    Op.FAULTS: b"",
}
assert len(BODIES) == len(Op) == 16
MORE_IS_MORE = {Op.MEM_WRITE, Op.CPU_START}  # data, or a list of steps, follows


@pytest.mark.parametrize("op", list(Op), ids=lambda op: op.name)
def test_a_body_of_the_wrong_size_is_no_step(qemu: Machine, op: Op) -> None:
    body = BODIES[op]
    qemu.run(*steps.mem_write(places.L1_CODE, b"\xc3"))

    for size in range(len(body)):
        assert qemu.status(Step(op, body[:size])) is Status.BAD_STEP, size
    if op not in MORE_IS_MORE:
        assert qemu.status(Step(op, body + b"\0")) is Status.BAD_STEP


BAD_VALUES = {
    "TABLES of kind 4": Step(Op.TABLES, struct.pack("<QB", A, 4)),
    "TABLES of kind 255": Step(Op.TABLES, struct.pack("<QB", A, 255)),
    "TABLES not aligned": Step(Op.TABLES, struct.pack("<QB", A + 8, 0)),
    "CODE with RSP": Step(Op.CODE, struct.pack("<QIHQ", A, 0, 1 << 4, 0)),
    "CODE with flag 2": Step(Op.CODE, struct.pack("<QIH", A, 4, 0)),
    "VMRUN with RAX": Step(Op.VMRUN, struct.pack("<QIIHHQ", A, 0, 0, 1, 0, 0)),
    "VMRUN with RSP": Step(Op.VMRUN, struct.pack("<QIIHHQ", A, 0, 0, 1 << 4, 0, 0)),
    "VMRUN with flag 11": Step(Op.VMRUN, struct.pack("<QIIHH", A, 1 << 11, 0, 0, 0)),
    "RAISE of kind 6": Step(Op.RAISE, struct.pack("<BBBBI", 6, 0x40, 0, 0, 0)),
    "RAISE of an exception": Step(Op.RAISE, struct.pack("<BBBBI", 0, 0x2F, 0, 0, 0)),
    "RAISE of the executor's": Step(Op.RAISE, struct.pack("<BBBBI", 0, 0xF0, 0, 0, 0)),
    "timer with the executor's": Step(Op.RAISE, struct.pack("<BBBBI", 3, 0xF0, 0, 0, 100)),
    "WINDOW too long": steps.window(100_001),
    "WINDOW with flag 3": Step(Op.WINDOW, struct.pack("<II", 0, 8)),
    "CPU_START of the first CPU": steps.cpu_start(0, []),
    "CPU_JOIN of the first CPU": steps.cpu_join(0, 1),
}


@pytest.mark.parametrize("what", BAD_VALUES)
def test_a_value_that_cannot_be_is_no_step(qemu: Machine, what: str) -> None:
    assert qemu.status(BAD_VALUES[what]) is Status.BAD_STEP


def test_tables_that_do_not_fit_are_refused(qemu: Machine) -> None:
    for kind, size in steps.TABLE_SIZES.items():
        assert qemu.status(steps.tables(ARENA_END - size, kind)) is Status.OK
        assert qemu.status(steps.tables(ARENA_END - size + 0x1000, kind)) is Status.BAD_ADDRESS


def identity_map(kind: TableKind, at: int) -> bytes:
    """The tables as docs/link-protocol.md describes them."""

    def page(entries: list[int]) -> bytes:
        return struct.pack("<512Q", *entries, *[0] * (512 - len(entries)))

    if kind is TableKind.LEGACY:
        return struct.pack("<1024I", *(n << 22 | 0x87 for n in range(1024)))
    pointers = at if kind is TableKind.PAE else at + 0x1000
    top = b"" if kind is TableKind.PAE else page([pointers | 7])
    flags = 1 if kind is TableKind.PAE else 7
    pdpt = page([pointers + 0x1000 * (n + 1) | flags for n in range(4)])
    directory = [n << 21 | 0x87 for n in range(2048)]
    small = b""
    if kind is TableKind.LONG_4K:
        directory[:16] = [at + 0x6000 + 0x1000 * n | 7 for n in range(16)]
        small = struct.pack("<8192Q", *(n << 12 | 7 for n in range(8192)))
    return top + pdpt + struct.pack("<2048Q", *directory) + small


@pytest.mark.parametrize("kind", list(TableKind), ids=lambda kind: kind.name)
def test_tables_are_as_described(machine: Machine, kind: TableKind) -> None:
    size = steps.TABLE_SIZES[kind]

    _, answer, _ = machine.run(
        steps.mem_fill(A, size + 0x1000, 0xAA), steps.tables(A, kind), steps.mem_fill(A + size, 1, 0xAA)
    )

    assert answer.body == struct.pack("<I", size)
    pages = machine.run(steps.mem_read(A, size + 0x1000))[0].body
    assert pages[:size] == identity_map(kind, A)
    assert pages[size:] == b"\xaa" * 0x1000


def test_cpuid_answers_as_the_hello_did(machine: Machine) -> None:
    stable = [key for key in machine.hello.cpuid.leaves if key not in ((1, 0), (0xD, 0), (0xD, 1))]
    records = machine.run(*(steps.cpuid(*key) for key in stable))

    assert [steps.decode_cpuid(record) for record in records] == [machine.hello.cpuid.leaves[key] for key in stable]
    assert {0, 1, 0x8000_0000, 0x8000_0001, 0x8000_000A} <= {leaf for leaf, _ in machine.hello.cpuid.leaves}


def test_msrs_are_read_and_written(machine: Machine) -> None:
    star = 0xC000_0081
    old, _, new, _ = machine.run(
        steps.rdmsr(star), steps.wrmsr(star, 0x1122_3344_5566_7788), steps.rdmsr(star), steps.wrmsr(star, 0)
    )

    assert steps.decode_msr(old) == (0, None)
    assert steps.decode_msr(new) == (0x1122_3344_5566_7788, None)
    value, _ = steps.decode_msr(machine.run(steps.rdmsr(EFER))[0])
    assert value == 0x1D00, "SVME, NXE, LMA and LME"


def test_an_msr_that_faults_is_answered_with_the_fault_and_the_list_goes_on(machine: Machine) -> None:
    bad = steps.wrmsr(0xC000_0100, 1 << 50) if machine.is_bochs else steps.wrmsr(VM_HSAVE_PA, 1)  # both allow much
    written, after, counted, window = machine.run(bad, steps.rdmsr(EFER), Step(Op.FAULTS, b""), steps.window(0))

    _, fault = steps.decode_msr(written)
    assert written.status is Status.FAULT and fault is not None
    assert (fault.vector, fault.error, fault.cs, fault.phase) == (13, 0, 8, steps.Phase.NONE)
    assert IMAGE <= fault.rip < IMAGE + 0x1_0000, "an instruction of the executor's"
    assert steps.decode_msr(after) == (0x1D00, None)
    assert struct.unpack("<II", counted.body)[0] > 0
    assert steps.decode_window(window) == [], "it is no event"


def test_an_msr_that_is_not_there_faults_when_read(target: MakeTarget) -> None:
    machine = Machine.boot(target("bochs", extra_args=("cpu: ignore_bad_msrs=0",)))

    read, after = machine.run(steps.rdmsr(NO_SUCH_MSR), steps.rdmsr(EFER))

    value, fault = steps.decode_msr(read)
    assert value is None and fault is not None
    assert (fault.vector, fault.error) == (13, 0)
    assert steps.decode_msr(after)[0] == 0x1D00


def test_host_state_is_the_executors(machine: Machine) -> None:
    state = steps.decode_host_state(machine.run(steps.host_state())[0])

    assert state | {
        "CS": 8, "SS": 0x10, "DS": 0x10, "ES": 0x10, "TR": 0x38, "LDTR": 0, "GDTR.limit": 0x67, "IDTR.limit": 0xFFF,
        "CR0": 0x8001_0033, "CR3": machine.hello.long_tables_pa, "CR8": 0, "EFER": 0x1D00, "DR6": 0xFFFF_0FF0,
        "DR7": 0x400,
    } == state  # fmt: skip
    assert state["RFLAGS"] & 0x200 == 0
    assert state["CR4"] & 0x620 == 0x620
    assert IMAGE <= state["GDTR.base"] < 0x40_0000 and IMAGE <= state[f"MSR_{VM_HSAVE_PA:08X}"] < 0x40_0000
    assert {"MSR_C0000081", "MSR_C0000100", "MSR_00000174", "MSR_00000277", "XCR0", "IDTR.base", "CR2"} <= set(state)


def test_the_executors_own_tables_are_the_long_map(machine: Machine) -> None:
    at = machine.hello.long_tables_pa
    expected = identity_map(TableKind.LONG, at)
    got = machine.run(steps.mem_read(at, len(expected)))[0].body

    used = bytes(
        byte & ~0x60 if n % 8 == 0 else byte for n, byte in enumerate(got)
    )  # the CPU's accessed and dirty bits
    assert used == expected


def test_faults_counts(machine: Machine) -> None:
    def counts() -> tuple[int, int]:
        return struct.unpack("<II", machine.run(Step(Op.FAULTS, b""))[0].body)

    before = counts()
    assert counts() == before
    machine.run(*steps.mem_write(A, b"\xcc\xcc\x0f\x0b"), steps.code(A, {}))
    assert counts() == (before[0] + 3, before[1])
    machine.run(steps.raise_event(steps.RaiseKind.SELF, 0x40), steps.window(100))
    assert counts() == (before[0] + 3, before[1] + 1)


# Lists


def test_tags_come_back_and_a_list_goes_on_after_a_fault(machine: Machine) -> None:
    first = machine.run(*steps.mem_write(A, b"\x0f\x0b"))
    records = machine.run(steps.cpuid(0), steps.code(A, {}), steps.cpuid(1), steps.cpuid(0))

    assert [record.tag for record in records] == [0, 1, 2, 3]
    assert [record.status for record in records] == [Status.OK, Status.FAULT, Status.OK, Status.OK]
    assert records[0].body == records[3].body
    assert machine.link.run(steps.cpuid(0).encode(0xBEEF), DEADLINE_S)[2:4] == b"\xef\xbe"
    assert first[0].body == b""


@pytest.mark.parametrize("op", [0x00, 0x11, 0x77, 0xFF])
def test_a_list_stops_at_an_op_there_is_not(machine: Machine, op: int) -> None:
    odd = struct.pack("<BBHI", op, 0, 0x1234, 2) + b"zz"
    good = steps.mem_read(A, 1).encode(7)

    answer = machine.link.run(good + odd + good, DEADLINE_S)

    assert answer[9:] == struct.pack("<BBHI", op, Status.BAD_STEP, 0x1234, 0)


def test_a_list_stops_at_a_step_that_is_not_done(machine: Machine) -> None:
    machine.run(steps.mem_fill(A, 8, 0))

    records = machine.ask(steps.cpuid(0), steps.mem_read(0, 4), steps.mem_fill(A, 8, 1))

    assert [record.status for record in records] == [Status.OK, Status.BAD_ADDRESS]
    assert machine.run(steps.mem_read(A, 8))[0].body == bytes(8)


def test_a_step_cut_short_is_no_step(machine: Machine) -> None:
    good = encode_list([steps.cpuid(0), steps.mem_read(A, 4)])

    for cut in range(1, 20):
        answer = machine.link.run(good[:-cut], DEADLINE_S)
        assert answer[24 + 1] == Status.BAD_STEP
        assert answer[24 + 4 :] == bytes(4)
    huge = struct.pack("<BBHI", Op.MEM_READ, 0, 0, 0xFFFF_FFFF) + good
    assert machine.link.run(huge, DEADLINE_S) == struct.pack("<BBHI", Op.MEM_READ, Status.BAD_STEP, 0, 0)
    assert machine.link.run(b"", DEADLINE_S) == b""


def test_an_answer_that_does_not_fit_is_no_room(target: MakeTarget) -> None:
    qemu = Machine.boot(target("qemu-tcg"), lane=True)
    most = qemu.hello.answer_max
    assert qemu.status(steps.mem_read(A, most)) is Status.NO_ROOM
    assert len(qemu.run(steps.mem_read(A, most - 16))[0].body) == most - 16, "a header, and room for one more"
    assert qemu.status(steps.mem_read(A, most - 15)) is Status.NO_ROOM

    records = qemu.ask(steps.mem_read(A, 200_000), steps.mem_read(A, 200_000), steps.cpuid(0))

    assert [record.status for record in records] == [Status.OK, Status.NO_ROOM]
    full = qemu.ask(steps.mem_read(A, most - 16), steps.cpuid(0))
    assert [record.status for record in full] == [Status.OK, Status.NO_ROOM]
