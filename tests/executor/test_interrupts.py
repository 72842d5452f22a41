"""RAISE and WINDOW, and the second CPU: what is raised is seen once, where it should be, and every wait has its end."""

from __future__ import annotations

import time

import pytest

from harness.link.link import LinkClosed, LinkReset
from harness.scenario import places, steps
from harness.scenario.steps import Op, Phase, RaiseKind, Record, Status, Step
from harness.targets import names
from tests.executor.conftest import MakeTarget
from tests.executor.machines import DEADLINE_S, Blobs, Machine

pytestmark = pytest.mark.emulator

LONG_US = 10_000_000
A = places.SCRATCH


def fixed(vector: int) -> Step:
    return steps.raise_event(RaiseKind.SELF, vector)


NMI = steps.raise_event(RaiseKind.NMI_SELF)


def taken(record: Record) -> list[tuple[int, Phase]]:
    return [(event.vector, event.phase) for event in steps.decode_window(record)]


def test_an_interrupt_waits_for_a_window(machine: Machine) -> None:
    raised, closed, opened, again = machine.run(
        fixed(0x40), steps.window(10, interrupts=False), steps.window(10), steps.window(10)
    )

    assert raised.body == b"\1", "pending"
    assert [taken(closed), taken(opened), taken(again)] == [[], [(0x40, Phase.WINDOW)], []]


def test_it_waits_from_one_request_to_the_next(machine: Machine) -> None:
    machine.run(fixed(0x40))
    assert taken(machine.run(steps.window(10))[0]) == [(0x40, Phase.WINDOW)]


def test_higher_vectors_come_first_and_none_is_lost(machine: Machine) -> None:
    vectors = [0x30, 0xEF, 0x55, 0x41, 0x80]
    *raised, window = machine.run(*(fixed(vector) for vector in vectors), steps.window(10))

    assert [record.body for record in raised] == [b"\1"] * 5
    assert [vector for vector, _ in taken(window)] == sorted(vectors, reverse=True)


def test_an_nmi_needs_no_window_and_is_told_by_the_next_step_that_tells_events(machine: Machine, blobs: Blobs) -> None:
    raised, _, window, again = machine.run(NMI, steps.cpuid(0), steps.window(0, interrupts=False), steps.window(0))
    assert raised.body == b"\0"
    assert taken(window) == [(2, Phase.NONE)]
    assert taken(again) == []

    blob = blobs.run(machine, "nop", before=[NMI])
    assert [(event.vector, event.phase) for event in blob.answer.events] == [(2, Phase.NONE)]


def test_gif_holds_both_back(machine: Machine) -> None:
    """The window before closes GIF, the last one opens it again."""
    records = machine.run(
        steps.window(0, clgi_after=True),
        NMI,
        fixed(0x40),
        steps.window(10),
        steps.window(10, stgi=True),
    )

    assert taken(records[3]) == []
    assert sorted(vector for vector, _ in taken(records[4])) == [2, 0x40]
    assert taken(machine.run(steps.window(10))[0]) == []


@pytest.mark.parametrize("delay_us", [0, 300, 2000])
def test_the_timer_comes_after_its_delay(machine: Machine, delay_us: int) -> None:
    timer = steps.raise_event(RaiseKind.TIMER, 0x44, delay_us=delay_us)
    raised, window = machine.run(timer, steps.window(50_000))
    events = taken(window)
    for _ in range(100):
        if events:
            break
        events = taken(machine.run(steps.window(50_000))[0])  # a busy machine's timers may be late

    assert raised.body == b"\0"
    assert events == [(0x44, Phase.WINDOW)]
    assert taken(machine.run(steps.window(1000))[0]) == [], "it is one-shot"


def test_the_timer_does_not_come_early(machine: Machine) -> None:
    timer = steps.raise_event(RaiseKind.TIMER, 0x44, delay_us=90_000)
    _, early, late, later = machine.run(timer, steps.window(500), steps.window(100_000), steps.window(100_000))

    assert taken(early) == []
    assert taken(late) + taken(later) == [(0x44, Phase.WINDOW)]


def test_a_window_lasts_as_long_as_it_says(qemu: Machine) -> None:
    began = time.monotonic()
    qemu.run(steps.window(100_000))
    assert 0.09 < time.monotonic() - began < DEADLINE_S


def test_an_interrupt_to_a_cpu_that_is_not_there(machine: Machine) -> None:
    assert machine.status(steps.raise_event(RaiseKind.CPU, 0x40, cpu=1)) is Status.NO_CPU
    assert machine.status(steps.raise_event(RaiseKind.NMI_CPU, cpu=7)) is Status.NO_CPU
    assert machine.status(steps.raise_event(RaiseKind.CPU, 0xF1, cpu=0)) is Status.BAD_STEP
    assert taken(machine.run(steps.raise_event(RaiseKind.CPU, 0x40, cpu=0), steps.window(10))[1]) == [
        (0x40, Phase.WINDOW)
    ]


@pytest.mark.parametrize("name", names())
def test_an_init_to_self_ends_the_boot(target: MakeTarget, name: str) -> None:
    machine = Machine.boot(target(name))
    with pytest.raises((LinkReset, LinkClosed)):
        machine.run(steps.raise_event(RaiseKind.INIT_SELF), steps.window(1000))
        machine.link.listen(DEADLINE_S)


# The second CPU


def test_there_is_no_second_cpu_where_there_is_one(machine: Machine) -> None:
    assert machine.status(steps.cpu_start(1, [])) is Status.NO_CPU
    assert machine.status(steps.cpu_join(1, 10)) is Status.NO_CPU


def test_the_second_cpu_runs_a_list_while_the_first_goes_on(two_cpus: Machine, blobs: Blobs) -> None:
    blobs.place(two_cpus, "lock inc qword ptr [rbx]\nmov rax, [rbx]\nud2", A + 0x1000)
    work = [*steps.mem_write(A + 8, b"two"), steps.code(A + 0x1000, {"rbx": A}), steps.host_state()]
    one = [steps.mem_fill(A, 16, 0), steps.cpu_start(1, work), steps.code(A + 0x1000, {"rbx": A})]
    *_, join, read = two_cpus.run(*one, steps.cpu_join(1, LONG_US), steps.mem_read(A, 16))

    written, code, state = steps.split_records(join.body)
    assert [written.tag, code.tag, state.tag] == [0, 1, 2]
    answer = steps.decode_code(code)
    assert code.status is Status.FAULT and answer.fault is not None
    assert (answer.fault.vector, answer.fault.cpu) == (6, 1)
    assert answer.registers["rax"] in (1, 2)
    assert read.body == b"\2" + bytes(7) + b"two" + bytes(5)
    host = steps.decode_host_state(state)
    assert (host["TR"], host["CS"], host["EFER"], host["CR3"]) == (0x48, 8, 0x1D00, two_cpus.hello.long_tables_pa)


def test_a_list_that_stops_is_answered_as_far_as_it_went(two_cpus: Machine) -> None:
    nested = [steps.cpuid(0), steps.cpu_start(1, []), steps.cpuid(0)]
    joined = two_cpus.run(steps.cpu_start(1, nested), steps.cpu_join(1, LONG_US))[1]

    statuses = [record.status for record in steps.split_records(joined.body)]
    assert statuses == [Status.OK, Status.BAD_STEP], "CPU_START is for the first CPU alone"


def test_interrupts_go_to_the_second_cpu(two_cpus: Machine) -> None:
    for _ in range(20):  # on a busy machine the first CPU may stand still until the second's window is over
        *_, join, own = two_cpus.run(
            steps.cpu_start(1, [steps.window(50_000)]),
            steps.raise_event(RaiseKind.CPU, 0x55, cpu=1),
            steps.raise_event(RaiseKind.NMI_CPU, cpu=1),
            steps.cpu_join(1, LONG_US),
            steps.window(100),
        )
        (window,) = steps.split_records(join.body)
        events = steps.decode_window(window)
        if len({event.vector for event in events}) == 2:
            break

    assert {event.vector for event in events} == {2, 0x55}
    assert {event.cpu for event in events} == {1}
    assert taken(own) == []


def test_a_join_times_out_and_may_be_made_again(two_cpus: Machine) -> None:
    busy = steps.cpu_start(1, [steps.window(100_000)])

    assert two_cpus.status(busy, steps.cpu_join(1, 10)) is Status.TIMEOUT
    assert two_cpus.status(busy) is Status.BAD_STEP, "it runs"
    (joined,) = two_cpus.run(steps.cpu_join(1, LONG_US))
    assert len(steps.split_records(joined.body)) == 1


def test_start_and_join_come_in_turn(two_cpus: Machine) -> None:
    assert two_cpus.status(steps.cpu_join(1, 10)) is Status.BAD_STEP, "nothing was started"
    two_cpus.run(steps.cpu_start(1, []), steps.window(1000))
    assert two_cpus.status(steps.cpu_start(1, [])) is Status.BAD_STEP, "it was not joined"
    assert two_cpus.run(steps.cpu_join(1, LONG_US))[0].body == b""
    assert two_cpus.status(steps.cpu_start(2, [])) is Status.NO_CPU
    assert two_cpus.status(steps.cpu_join(2, 10)) is Status.NO_CPU


def test_lists_and_answers_of_the_second_cpu_have_64_kib(target: MakeTarget) -> None:
    machine = Machine.boot(target("qemu-tcg", cpus=2), lane=True)
    assert machine.link.on_lane
    fits, over = 0x1_0000 - 16, 0x1_0000 - 15

    nested = Step(Op.MEM_WRITE, A.to_bytes(8, "little") + b"x" * fits)
    records = machine.run(steps.cpu_start(1, [nested]), steps.cpu_join(1, LONG_US), steps.mem_read(A, fits))
    assert records[2].body == b"x" * fits
    nested = Step(Op.MEM_WRITE, A.to_bytes(8, "little") + b"x" * over)
    assert machine.status(steps.cpu_start(1, [nested])) is Status.NO_ROOM

    for size, status in ((fits, Status.OK), (over, Status.NO_ROOM)):
        joined = machine.run(steps.cpu_start(1, [steps.mem_read(A, size)]), steps.cpu_join(1, LONG_US))[1]
        (record,) = steps.split_records(joined.body)
        assert record.status is status
