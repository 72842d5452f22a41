"""One set of scenarios, served over the UART, over shared memory and from a bundle: the records are the same.

What is masked: `tsc_cycles`, bytes 4 to 12 of a VMRUN's answer, is a time and set to zero. Nothing else is.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from harness.guest.l1 import L1
from harness.link.frames import bundle_image
from harness.link.session import Session, prelude
from harness.scenario import places, steps
from harness.scenario.asm import Assembler
from harness.scenario.scenario import Scenario, Templates, compile_items
from harness.scenario.steps import Op, RaiseKind, Record, Step, TableKind, VmrunResult, encode_list, split_records
from tests.executor.conftest import MakeTarget
from tests.executor.machines import DEADLINE_S, Machine

pytestmark = pytest.mark.emulator

MASKED = {"v_intr_masking": 1, "rflags": 0x202}


class Recorder(Session):
    """A session that keeps each scenario and the answer records of all its steps, the compiled ones too."""

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]
        self.scenarios: list[Scenario] = []
        self.records: list[list[Record]] = []

    def run(self, scenario: Scenario, deadline_s: float | None = None) -> list[Record]:
        records = super().run(scenario, deadline_s)
        self.scenarios.append(scenario)
        self.records.append(records)
        return records


def modes(l1: L1) -> None:
    """Six modes, with and without nested paging."""
    for mode in ("long64", "compat32", "pae32", "paged32", "prot32", "real16"):
        for np in (False, True):
            code = "mov eax, 0x1234\nmov ecx, 7\n1: add eax, ecx\nloop 1b\nvmmcall"
            assert l1.guest(code, mode=mode, np=np).run().code == 0x81


def resumed(l1: L1) -> None:
    guest = l1.guest("vmmcall\ninc rbx\nvmmcall", regs={"rbx": 41})
    guest.run()
    guest.vmcb["rip"] = guest.vmcb["rip"] + 3
    assert guest.run().regs["rbx"] == 42


def guest_faults(l1: L1) -> None:
    for code in ("ud2", "int3", "xor ecx, ecx\ndiv ecx", "mov rax, [0x123456000]", "hlt", "mov cr3, rax"):
        l1.guest(code, intercept=["hlt"]).run(read={"stack": (places.GUEST_STACK, 64)})


def own_faults(l1: L1) -> None:
    for code in ("ud2", "mov rax, [0x123456000]", "int3\nud2", "mov ax, 0x78\nmov ds, ax", "lea rbx, [rsp]\nnop"):
        l1.code(code, {"rax": 5})
    l1.user_code("hlt")
    l1.user_code("nop")


def invalid(l1: L1) -> None:
    """VMCBs that must not run, and operands that must not be."""
    for fields in ({"asid": 0}, {"efer": 0}, {"cr0": 0x2000_0000 | 0x11}, {"dr7": 1 << 40}):
        l1.guest("vmmcall", vmcb=fields).run()
    l1.guest("vmmcall").run(rax=1 << 50)
    l1.guest("vmmcall").run(rax=1 << 50, vmload=True)
    l1.guest("vmmcall", no_intercept=["vmrun"]).run()


def watchdog(l1: L1) -> None:
    exit = l1.guest("1: jmp 1b", vmcb=MASKED).run(watchdog_us=3000)
    assert exit.answer.result & VmrunResult.WATCHDOG


def interrupts(l1: L1) -> None:
    guest = l1.guest("1: jmp 1b", vmcb=MASKED)
    guest.raise_interrupt(0x41)
    assert [event.vector for event in guest.run().events] == [0x41]
    l1.raise_interrupt(0x51)
    assert len(l1.window()) == 1
    l1.guest("vmmcall").run(drain=False)
    l1.guest("vmmcall").run(stgi=False)
    l1.window()


def nmis(l1: L1) -> None:
    """An NMI to L1 before VMRUN, one in a window, and one that ends L2."""
    _, told = l1.steps([steps.raise_event(RaiseKind.NMI_SELF), steps.window(0)])
    assert [event.vector for event in steps.decode_window(told)] == [2]
    closed = [steps.window(0, clgi_after=True), steps.raise_event(RaiseKind.NMI_SELF)]
    l1.steps([*closed, steps.window(10, stgi=True)])
    l1.steps(closed)
    exit = l1.guest("1: jmp 1b", intercept=["nmi"], vmcb=MASKED).run(watchdog_us=2_000_000)
    assert exit.code == 0x61


def host(l1: L1) -> None:
    guest = l1.guest("mov eax, 1\nmov dr0, rax\nmov dr1, rax\nvmmcall", regs={"rcx": 3})
    guest.setup("mov eax, 0x77\nmov dr2, rax")
    guest.teardown("mov rbx, dr0\nxor eax, eax\nmov dr0, rax\nmov dr1, rax\nmov dr2, rax")
    guest.run(vmsave=True, vmload=True)
    l1.steps([steps.host_state(), steps.cpuid(0x8000_000A), steps.rdmsr(0xC000_0080), Step(Op.FAULTS, b"")])
    l1.guest("vmmcall").run(keep_hidden=True)


def memory(l1: L1) -> None:
    at = l1.scratch(40)
    l1.steps(
        [steps.tables(at, TableKind.LONG_4K), steps.mem_read(at + 0x5000, 0x6000), steps.mem_copy(at, at + 64, 99)]
    )
    l1.write(at, bytes(range(256)) * 40)
    assert len(l1.read(at, 20_000)) == 20_000


SCENARIOS: list[Callable[[L1], None]] = [
    modes, resumed, guest_faults, own_faults, invalid, watchdog, interrupts, nmis, host, memory,
]  # fmt: skip


def record(session: Recorder, cache: Path) -> None:
    try:
        for scenario in SCENARIOS:
            scenario(L1(session, Assembler(cache), {}))
    finally:
        session.close()


def masked(record: Record) -> tuple[Op, int, bytes]:
    body = record.body
    if record.op is Op.VMRUN and len(body) >= 12:
        body = body[:4] + bytes(8) + body[12:]
    return record.op, record.status, body


def described(scenarios: list[list[Record]]) -> list[list[str]]:
    """Records as text, so that a difference can be read."""
    return [
        [f"{record.op.name} {record.status.name} {masked(record)[2].hex()}" for record in records]
        for records in scenarios
    ]


def bundled(scenarios: list[Scenario]) -> tuple[bytes, list[list[bool]]]:
    """The scenarios as one bundle, as a session sends them, and which records are those of the scenario's own steps."""
    templates, lists, wanted = Templates(), [prelude()], [[False] * len(prelude())]
    for scenario in scenarios:
        own = {id(item) for item in scenario.items if isinstance(item, Step)}
        compiled = compile_items(scenario.items, templates)
        lists.append(compiled)
        wanted.append([id(step) in own for step in compiled])
    return bundle_image([encode_list(one) for one in lists]), wanted


def test_line_lane_and_bundle_give_the_same_records(target: MakeTarget, tmp_path: Path) -> None:
    line = Recorder(target("qemu-tcg"), use_lane=False)
    lane = Recorder(target("qemu-tcg"), use_lane=True)
    for session in (line, lane):
        record(session, tmp_path / "asm")
    image, wanted = bundled(line.scenarios)
    path = tmp_path / "bundle"
    path.write_bytes(image)
    machine = Machine.boot(target("qemu-tcg", bundle=path))
    result = machine.link.collect_bundle(DEADLINE_S)

    assert (result.ran, result.stopped_early) == (len(line.scenarios) + 1, 0)
    from_bundle = []
    for seq, own in enumerate(wanted[1:], start=2):
        answered = split_records(result.answers[seq])
        from_bundle.append([record for record, mine in zip(answered, own, strict=True) if mine])

    assert [scenario.digest() for scenario in line.scenarios] == [scenario.digest() for scenario in lane.scenarios]
    assert sum(record.op is Op.VMRUN for records in line.records for record in records) >= 30
    assert described(lane.records) == described(line.records)
    assert described(from_bundle) == described(line.records)
