"""VMRUN's step: what goes into L2 and what is told of it, flag by flag. Whether L0 is right is for the suites."""

from __future__ import annotations

import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from harness.guest import images
from harness.scenario import places, steps
from harness.scenario.scenario import plain_page
from harness.scenario.steps import Op, Phase, RaiseKind, Status, Step, TableKind, VmrunAnswer, VmrunFlag, VmrunResult
from harness.svm.vmcb import Vmcb, field
from tests.executor.conftest import MakeTarget
from tests.executor.machines import DEADLINE_S, Blobs, Machine

pytestmark = pytest.mark.emulator

VMCB, CODE = places.VMCB, places.GUEST_CODE
MASKED = {"v_intr_masking": 1, "rflags": 0x202}  # with IF=0 in L2, Bochs 2.7 lets no interrupt end it
TOO_HIGH = 1 << 50  # above any physical memory
EXIT_INTR, EXIT_VMMCALL = 0x60, 0x81
NONE = VmrunFlag.NONE
VMMCALL = bytes.fromhex("0f01d9")
RIPS = places.SCRATCH
HANG = b"\xeb\xfe"
BITS = {"long64": 64, "compat32": 32, "pae32": 32, "paged32": 32, "prot32": 32, "real16": 16}


@dataclass
class Ran:
    """One VMRUN: its answer, and the VMCB afterwards."""

    status: Status
    answer: VmrunAnswer
    vmcb: Vmcb

    @property
    def vectors(self) -> list[tuple[int, Phase]]:
        return [(event.vector, event.phase) for event in self.answer.events]

    @property
    def host_changes(self) -> dict[str, tuple[int, int]]:
        """Host state that changed, but for CR2, which #VMEXIT leaves as L2's."""
        return {name: both for name, both in self.answer.host_changes.items() if name != "CR2"}


def prepare(
    machine: Machine,
    code: bytes,
    fields: Mapping[str, int] | None = None,
    *,
    mode: str = "long64",
    np: bool = False,
) -> Vmcb:
    """Writes what every boot of a session begins with, the code and the VMCB."""
    image = images.vmcb_image(mode, np=np)
    for name, value in (fields or {}).items():
        image[name] = value
    base = places.LOW_GUEST if mode == "real16" else CODE
    machine.run(
        steps.mem_fill(places.IOPM, 0x3000, 0),
        steps.mem_fill(places.MSRPM, 0x2000, 0),
        steps.tables(places.TABLES_LONG, TableKind.LONG),
        steps.tables(places.TABLES_NESTED, TableKind.LONG),
        steps.tables(places.TABLES_PAE, TableKind.PAE),
        steps.tables(places.TABLES_LEGACY, TableKind.LEGACY),
    )
    machine.run(*plain_page(VMCB, bytes(image.data)), *steps.mem_write(base, code))
    return image


def enter(
    machine: Machine,
    image: Vmcb,
    flags: VmrunFlag = VmrunFlag.IF,
    *,
    before: tuple[Step, ...] = (),
    rax: int = VMCB,
    watchdog_us: int = 0,
    **registers: int,
) -> Ran:
    record = machine.run(*before, steps.vmrun(rax, flags, registers, watchdog_us))[-1]
    answer = steps.decode_vmrun(record)
    after = bytearray(image.data)
    for offset, data in answer.differences:
        after[offset : offset + len(data)] = data
    return Ran(record.status, answer, Vmcb(after))


def test_a_guest_runs_and_its_differences_are_the_vmcbs(machine: Machine) -> None:
    image = prepare(machine, bytes.fromhex("48b88877665544332211") + VMMCALL)  # mov rax, imm64

    ran = enter(machine, image)

    assert ran.status is Status.OK
    assert ran.answer.result == VmrunResult.PROBED
    assert ran.answer.tsc_cycles > 0
    assert (ran.vmcb["exitcode"], ran.vmcb["rax"], ran.vmcb["rip"]) == (EXIT_VMMCALL, 0x1122334455667788, CODE + 10)
    assert (ran.answer.events, ran.answer.registers, ran.host_changes) == ([], {}, {})
    assert machine.run(steps.mem_read(VMCB, 4096))[0].body == bytes(ran.vmcb.data)
    ends = [offset + len(data) for offset, data in ran.answer.differences]
    starts = [offset for offset, _ in ran.answer.differences]
    assert all(start - end >= 4 for start, end in zip(starts[1:], ends[:-1], strict=True)), "closer runs are joined"


def test_registers_go_in_and_come_out(machine: Machine, blobs: Blobs) -> None:
    names = [name for name in steps.GPR_NAMES if name not in ("rax", "rsp")]
    text = "\n".join(f"not {name}" for name in names) + "\nvmmcall"
    image = prepare(machine, blobs.assemble(text, CODE))

    loaded = enter(machine, image, **{name: n << 32 for n, name in enumerate(names)})
    image = prepare(machine, blobs.assemble(text, CODE))
    filled = enter(machine, image)

    mask = (1 << 64) - 1
    assert loaded.answer.registers == {name: n << 32 ^ mask for n, name in enumerate(names)}
    fills = {name: steps.GPR_FILL + steps.GPR_NUMBER[name] for name in names}
    assert filled.answer.registers == {name: fill ^ mask for name, fill in fills.items()}


def test_host_state_that_changed_is_told_once(machine: Machine, blobs: Blobs) -> None:
    code = bytes.fromhex("b801000000 0f23c0") + VMMCALL  # mov eax, 1; mov dr0, rax
    clear = "xor eax, eax\nmov dr0, rax"

    blobs.run(machine, clear)
    first = enter(machine, prepare(machine, code))
    second = enter(machine, prepare(machine, code))
    blobs.run(machine, clear)
    unasked = enter(machine, prepare(machine, code), VmrunFlag.NO_HOST_STATE)
    blobs.run(machine, clear)

    assert first.host_changes == {"DR0": (0, 1)}
    assert second.host_changes == {}
    assert unasked.host_changes == {}


def test_the_whole_host_state_of_a_vmrun_can_be_asked_for_later(machine: Machine, blobs: Blobs) -> None:
    """It is as it was at that VMRUN, whatever came since; the executor's own state, which a blob left, is not it."""
    blobs.run(machine, "mov eax, 0x1234\nmov dr3, rax")
    first = enter(machine, prepare(machine, VMMCALL), VmrunFlag.IF)
    blobs.run(machine, "xor eax, eax\nmov dr3, rax")
    second = enter(machine, prepare(machine, VMMCALL), VmrunFlag.NONE)
    unasked = enter(machine, prepare(machine, VMMCALL), VmrunFlag.NO_HOST_STATE)

    kept = [
        steps.decode_host_state(machine.run(steps.host_state_at(0, ran.answer.serial))[0]) for ran in (first, second)
    ]
    now = steps.decode_host_state(machine.run(steps.host_state())[0])
    assert [state["DR3"] for state in kept] == [0x1234, 0]
    assert [state["RFLAGS"] & 0x200 for state in kept] == [0x200, 0]
    assert set(kept[0]) == set(kept[1]) == set(now)
    same = ("CR0", "CR3", "CR4", "EFER", "CS", "GDTR.base", "IDTR.limit", "MSR_C0010117")
    assert [kept[1][name] for name in same] == [now[name] for name in same]
    assert (second.answer.serial - first.answer.serial, unasked.answer.serial) == (1, 0)


@pytest.mark.parametrize(("cpu", "ago"), [(0, 64), (0, -1), (1, 0), (2, 0), (0xFFFF, 0)])
def test_a_host_state_that_is_not_kept_is_a_bad_step(machine: Machine, cpu: int, ago: int) -> None:
    for _ in range(ago):
        enter(machine, prepare(machine, VMMCALL))
    last = enter(machine, prepare(machine, VMMCALL)).answer.serial

    statuses = [machine.status(steps.host_state_at(*which)) for which in ((cpu, last - ago), (0, last))]
    assert statuses == [Status.BAD_STEP, Status.OK]


FLAGS = [
    NONE, VmrunFlag.IF, VmrunFlag.VMLOAD, VmrunFlag.VMSAVE, VmrunFlag.VMLOAD | VmrunFlag.VMSAVE, VmrunFlag.NO_CLGI,
    VmrunFlag.NO_CLGI | VmrunFlag.IF, VmrunFlag.NO_STGI, VmrunFlag.NO_GIF_PROBE, VmrunFlag.NO_HOST_STATE,
    VmrunFlag.NO_WATCHDOG, VmrunFlag.NO_DRAIN, VmrunFlag.KEEP_HIDDEN, VmrunFlag.VMLOAD | VmrunFlag.KEEP_HIDDEN,
    VmrunFlag(0x7FF) & ~VmrunFlag.TF,
]  # fmt: skip


@pytest.mark.parametrize("flags", FLAGS, ids=str)
def test_every_flag_leaves_the_executor_in_order(machine: Machine, blobs: Blobs, flags: VmrunFlag) -> None:
    image = prepare(machine, VMMCALL)

    ran = enter(machine, image, flags)
    (window,) = machine.run(steps.window(100, stgi=True))

    assert (ran.status, ran.vmcb["exitcode"], ran.vectors) == (Status.OK, EXIT_VMMCALL, [])
    probed = VmrunResult.NONE if flags & VmrunFlag.NO_GIF_PROBE else VmrunResult.PROBED
    assert ran.answer.result == probed
    if not flags & VmrunFlag.VMSAVE:
        assert ran.host_changes == {} or flags & VmrunFlag.VMLOAD
    assert steps.decode_window(window) == [], "nothing is left behind, the probe's own vector least of all"
    assert blobs.run(machine, "bad: ud2").fault.rip == places.L1_CODE
    state = steps.decode_host_state(machine.run(steps.host_state())[0])
    assert (state["TR"], state["EFER"], state["CR8"]) == (0x38, 0x1D00, 0)


def test_vmload_and_vmsave_carry_hidden_state(machine: Machine) -> None:
    """The guest swaps KernelGSbase for GS's base; VMSAVE puts both into the VMCB, and L1 keeps its own."""
    image = prepare(machine, bytes.fromhex("0f01f8") + VMMCALL, {"gs.base": 0x1111_2000, "kernel_gs_base": 0x3333_4000})
    own = steps.decode_host_state(machine.run(steps.host_state())[0])

    ran = enter(machine, image, VmrunFlag.VMLOAD | VmrunFlag.VMSAVE)

    assert (ran.vmcb["gs.base"], ran.vmcb["kernel_gs_base"]) == (0x3333_4000, 0x1111_2000)
    after = steps.decode_host_state(machine.run(steps.host_state())[0])
    assert {k: v for k, v in after.items() if k not in ("RSP", "CR2")} == {
        k: v for k, v in own.items() if k not in ("RSP", "CR2")
    }


def test_keep_hidden_keeps_them_until_the_next_vmrun(machine: Machine) -> None:
    prepare(machine, VMMCALL, {"kernel_gs_base": 0x5555_6000})
    read = steps.rdmsr(0xC000_0102)

    _, kept = machine.run(steps.vmrun(VMCB, VmrunFlag.VMLOAD | VmrunFlag.KEEP_HIDDEN, {}), read)
    _, own = machine.run(steps.wrmsr(0xC000_0102, 0), read)

    assert steps.decode_msr(kept)[0] == 0x5555_6000
    assert steps.decode_msr(own)[0] == 0


@pytest.mark.parametrize(("us", "least_s"), [(20_000, 0.01), (0, 0.1)])
def test_the_watchdog_ends_an_endless_guest(machine: Machine, us: int, least_s: float) -> None:
    image = prepare(machine, HANG, MASKED)
    began = time.monotonic()

    ran = enter(machine, image, VmrunFlag.IF, watchdog_us=us)

    assert ran.answer.result == VmrunResult.WATCHDOG | VmrunResult.PROBED
    assert (ran.vmcb["exitcode"], ran.vmcb["rip"]) == (EXIT_INTR, CODE)
    assert ran.vectors == [], "its interrupt is the executor's own"
    if not machine.is_bochs:  # its clock is the count of instructions
        assert least_s < time.monotonic() - began < DEADLINE_S


def test_what_is_pending_is_taken_after_stgi(machine: Machine) -> None:
    image = prepare(machine, VMMCALL, MASKED)
    before = (steps.raise_event(RaiseKind.SELF, 0x41),)

    drained = enter(machine, image, NONE, before=before)
    kept = enter(machine, prepare(machine, VMMCALL, MASKED), VmrunFlag.NO_DRAIN, before=before)
    (window,) = machine.run(steps.window(100))

    assert drained.vectors == [(0x41, Phase.AFTER_STGI)]
    assert kept.vectors == []
    assert [event.vector for event in steps.decode_window(window)] == [0x41]


def test_an_interrupt_ends_the_guest_and_is_told(machine: Machine) -> None:
    image = prepare(machine, HANG, MASKED)

    ran = enter(machine, image, VmrunFlag.IF, before=(steps.raise_event(RaiseKind.SELF, 0x41),))

    assert ran.vmcb["exitcode"] == EXIT_INTR
    assert ran.vectors == [(0x41, Phase.AFTER_STGI)]
    assert not ran.answer.result & VmrunResult.WATCHDOG


def test_no_stgi_leaves_gif_clear(machine: Machine) -> None:
    prepare(machine, VMMCALL)
    _, _, still, opened = machine.run(
        steps.vmrun(VMCB, VmrunFlag.NO_STGI, {}),
        steps.raise_event(RaiseKind.NMI_SELF),
        steps.window(10),
        steps.window(10, stgi=True),
    )

    assert steps.decode_window(still) == []
    assert [event.vector for event in steps.decode_window(opened)] == [2]


def test_the_timer_needs_no_watchdog(machine: Machine) -> None:
    image = prepare(machine, HANG, MASKED)
    timer = steps.raise_event(RaiseKind.TIMER, 0x44, delay_us=2000)

    ran = enter(machine, image, VmrunFlag.IF | VmrunFlag.NO_WATCHDOG, before=(timer,))

    assert (ran.vmcb["exitcode"], ran.vectors) == (EXIT_INTR, [(0x44, Phase.AFTER_STGI)])


def test_a_vmrun_that_faults(machine: Machine, blobs: Blobs) -> None:
    image = prepare(machine, VMMCALL)

    ran = enter(machine, image, rax=TOO_HIGH)

    assert ran.status is Status.FAULT
    assert ran.answer.result == VmrunResult.FAULTED | VmrunResult.NOT_COMPARED
    (event,) = ran.answer.events
    assert (event.vector, event.error, event.phase, event.cs) == (13, 0, Phase.VMRUN, 8)
    assert blobs.run(machine, "bad: ud2").fault.vector == 6
    assert enter(machine, image).vmcb["exitcode"] == EXIT_VMMCALL


def test_a_vmload_that_faults(machine: Machine) -> None:
    image = prepare(machine, VMMCALL)

    ran = enter(machine, image, VmrunFlag.VMLOAD | VmrunFlag.IF, rax=TOO_HIGH)

    assert ran.status is Status.FAULT
    assert ran.vectors == [(13, Phase.BEFORE_VMRUN)]
    assert not ran.answer.result & VmrunResult.FAULTED, "VMRUN was not made"
    assert (ran.answer.differences, ran.host_changes, ran.answer.registers) == ([], {}, {})
    assert enter(machine, image).vmcb["exitcode"] == EXIT_VMMCALL


@pytest.mark.parametrize("how", ["SVME", "a CPU without SVM"])
def test_a_vmrun_that_is_ud(target: MakeTarget, machine: Machine, how: str) -> None:
    if how != "SVME":
        machine = Machine.boot(target("qemu-tcg", cpu_model="qemu64,-svm"))
    image = prepare(machine, VMMCALL)
    off = (steps.wrmsr(0xC000_0080, 0xD00),) if how == "SVME" else ()

    ran = enter(machine, image, before=off)
    machine.run(steps.wrmsr(0xC000_0080, 0x1D00 if off else 0xD00))

    assert ran.status is Status.FAULT
    assert (ran.answer.result & VmrunResult.FAULTED, ran.vectors) == (VmrunResult.FAULTED, [(6, Phase.VMRUN)])
    assert ran.answer.differences == []
    if off:
        assert enter(machine, image).vmcb["exitcode"] == EXIT_VMMCALL


def test_a_host_trap_flag_is_noted(machine: Machine) -> None:
    """RFLAGS.TF in the host: a #DB before VMRUN (POPF's) or after #VMEXIT, and no more stepping afterwards."""
    image = prepare(machine, VMMCALL)

    ran = enter(machine, image, VmrunFlag.TF)

    assert {event.vector for event in ran.answer.events} == {1}
    assert 1 <= len(ran.answer.events) <= 2
    assert "RFLAGS" not in ran.host_changes
    assert enter(machine, prepare(machine, VMMCALL)).vectors == []


MODES = {
    TableKind.LONG: "long64",
    TableKind.LONG_4K: "long64",
    TableKind.PAE: "pae32",
    TableKind.LEGACY: "paged32",
}


@pytest.mark.parametrize("nested", [False, True], ids=["shadow", "nested"])
@pytest.mark.parametrize("kind", list(MODES), ids=lambda kind: kind.name)
def test_tables_serve_as_a_guests(machine: Machine, blobs: Blobs, kind: TableKind, nested: bool) -> None:
    """The guest copies a word from one page to another through the map that TABLES made."""
    mode, at, data = MODES[kind], places.SCRATCH + 0x10_0000, places.SCRATCH + 0x5000
    text = f"mov eax, [{data:#x}]\nmov [{data + 0x2000:#x}], eax\nvmmcall"
    if BITS[mode] == 64:
        text = f"mov ebx, {data:#x}\nmov eax, [rbx]\nmov [rbx+0x2000], eax\nvmmcall"
    code = blobs.assemble(text, CODE, BITS[mode])
    image = prepare(machine, code, {"cr3": at}, mode=mode, np=nested)
    machine.run(steps.tables(at, kind), *steps.mem_write(data, b"word"), steps.mem_fill(data + 0x2000, 4, 0))

    ran = enter(machine, image)

    assert (ran.vmcb["exitcode"], ran.vectors) == (EXIT_VMMCALL, [])
    assert machine.run(steps.mem_read(data + 0x2000, 4))[0].body == b"word"


@pytest.mark.parametrize("kind", [TableKind.LONG, TableKind.LONG_4K], ids=lambda kind: kind.name)
def test_tables_serve_as_nested_ones(machine: Machine, kind: TableKind) -> None:
    at = places.SCRATCH + 0x10_0000
    image = prepare(machine, VMMCALL, {"n_cr3": at}, np=True)
    machine.run(steps.tables(at, kind))

    assert enter(machine, image).vmcb["exitcode"] == EXIT_VMMCALL


def test_the_executors_own_tables_serve_as_both(machine: Machine) -> None:
    own = machine.hello.long_tables_pa
    image = prepare(machine, VMMCALL, {"n_cr3": own, "cr3": own}, np=True)

    assert enter(machine, image).vmcb["exitcode"] == EXIT_VMMCALL


@pytest.mark.parametrize("mode", BITS)
def test_every_mode_is_entered(machine: Machine, mode: str) -> None:
    ran = enter(machine, prepare(machine, VMMCALL, mode=mode))
    assert (ran.vmcb["exitcode"], ran.status, ran.vectors) == (EXIT_VMMCALL, Status.OK, [])


def test_a_vmcb_outside_the_arena_is_not_compared(machine: Machine) -> None:
    image = prepare(machine, VMMCALL)
    low = 0x4_0000
    machine.run(steps.mem_copy(low, VMCB, 4096))

    ran = enter(machine, image, rax=low)

    assert ran.answer.result & VmrunResult.NOT_COMPARED
    assert ran.answer.differences == []
    (code,) = struct.unpack("<Q", machine.run(steps.mem_read(low + field("exitcode").offset, 8))[0].body)
    assert code == EXIT_VMMCALL


def test_hundreds_of_vmruns_in_one_list(qemu: Machine) -> None:
    prepare(qemu, VMMCALL)
    began = time.monotonic()
    for _ in range(5):
        records = qemu.run(*[steps.vmrun(VMCB, NONE, {})] * 100)
        assert {record.op for record in records} == {Op.VMRUN}
        assert {record.status for record in records} == {Status.OK}
    assert time.monotonic() - began < DEADLINE_S


def test_both_cpus_enter_guests_at_once(two_cpus: Machine) -> None:
    """Each with its own VMCB, a hundred times, so that anything the CPUs share would show."""
    prepare(two_cpus, VMMCALL)
    for number in (0, 1):
        vmcb, code = places.VMCB + 0x1000 * number, places.GUEST_CODE + 0x100 * number
        image = images.vmcb_image("long64")
        image["rip"] = code
        two_cpus.run(*plain_page(vmcb, bytes(image.data)))
        two_cpus.run(*steps.mem_write(code, b"\x48\xff\xc3\x0f\x01\xd9"))  # inc rbx; vmmcall
        two_cpus.run(*steps.mem_write(RIPS + 8 * number, code.to_bytes(8, "little")))

    def runs(number: int) -> list[Step]:
        vmcb = places.VMCB + 0x1000 * number
        rewind = steps.mem_copy(vmcb + field("rip").offset, RIPS + 8 * number, 8)
        return [s for n in range(20) for s in (rewind, steps.vmrun(vmcb, VmrunFlag.IF, {"rbx": n + 1000 * number}))]

    for _ in range(5):
        both = [steps.cpu_start(1, runs(1)), *runs(0), steps.cpu_join(1, 5 * 1_000_000)]
        records = two_cpus.run(*both)
        for number, answered in ((0, records[1:-1]), (1, steps.split_records(records[-1].body))):
            answers = [steps.decode_vmrun(record) for record in answered if record.op is Op.VMRUN]
            assert [answer.registers for answer in answers] == [{"rbx": n + 1000 * number + 1} for n in range(20)]
            assert all(answer.events == [] and set(answer.host_changes) <= {"CR2"} for answer in answers)
