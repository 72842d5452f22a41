"""What a suite's author does with L1 and L2, on both emulators: each way to enter L2 gives the exit that it should.

Nothing here asks whether L0 is right, so only what both emulators do right is used.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness import VMEXIT, read_msr, write_msr
from harness.cli.machine import build_executor
from harness.guest.l1 import L1
from harness.guest.needs import NotOffered
from harness.link.session import Session
from harness.machine.base import TargetOptions
from harness.scenario import steps
from harness.scenario.asm import Assembler
from harness.scenario.steps import Phase, Status, TableKind
from harness.targets import create, names
from suites.lib.legacy_host import down_and_up
from tests.executor.machines import BUILD

pytestmark = pytest.mark.emulator

PAT, STAR = 0x277, 0xC000_0081
VECTOR = 0x51
TAKE = "mov r12, [rsp + 24]"  # of a handler: something of the frame that only delivery can have pushed


@pytest.fixture(scope="module", params=names())
def session(request, tmp_path_factory):
    build_executor()
    folder = tmp_path_factory.mktemp(request.param)
    options = TargetOptions(folder, BUILD / "executor.elf", BUILD / "disk.img")
    cpus = 2 if request.param == "qemu-tcg" else 1
    session = Session(create(request.param, replace(options, cpus=cpus)))
    yield session
    session.close()


@pytest.fixture
def l1(session, tmp_path):
    return L1(session, Assembler(tmp_path), {})


def test_two_guests_take_turns(l1):
    one, two = (l1.guest(f"mov ebx, {n}\nvmmcall\nnext: mov ebx, {n}0\nvmmcall") for n in (1, 2))
    assert (one.run().regs["rbx"], two.run().regs["rbx"]) == (1, 2)

    assert (one.resume("next").regs["rbx"], two.resume("next").regs["rbx"]) == (10, 20)


def test_two_guests_in_real_mode(l1):
    one, two = (l1.guest(f"mov bx, {n}\npush bx\npop cx\nvmmcall", mode="real16") for n in (1, 2))

    assert [guest.run().regs["rcx"] & 0xFFFF for guest in (one, two, one)][:2] == [1, 2]


def test_an_msr_read_in_l2(l1):
    own = l1.rdmsr(PAT).value

    exit = l1.guest(read_msr(PAT)).run()

    assert exit.code == VMEXIT.VMMCALL
    assert exit.msr == own


def test_an_msr_written_in_l2(l1):
    guest = l1.guest(write_msr(STAR, 0x1234_5678_9ABC_DEF0) + read_msr(STAR))

    assert guest.run().msr == 0x1234_5678_9ABC_DEF0


def test_an_msr_that_l2_may_not_read_shows_where(l1):
    guest = l1.guest(read_msr(0x1234_5678), intercept=("msr",))  # MSRs beyond the map are always intercepted

    exit = guest.run()

    assert (exit.code, exit.rip) == (VMEXIT.MSR, guest["read"])


def test_vmrun_in_l1s_own_code(l1):
    guest = l1.guest("mov ebx, 5\nvmmcall", regs={"r9": 9})

    exit = guest.run_in("clgi\nvmrun\nmov r14, 0x14\nstgi")

    assert exit.matches(code=VMEXIT.VMMCALL, regs={"rbx": 5, "r9": 9})
    assert exit.l1.returned
    assert exit.l1.reg("r14") == 0x14
    assert guest.resume(rax=7).matches(rax=7)
    assert "core.exit.exitcode_known" in l1._tallies
    assert l1.universal == {}


def test_vmrun_that_faults_in_l1s_own_code(l1):
    exit = l1.guest("vmmcall").run_in("mov eax, 1\nvmrun")

    assert exit.vmrun_faults("#GP", 0)


def test_another_fault_in_l1s_own_code_is_not_vmruns(l1):
    exit = l1.guest("vmmcall").run_in("clgi\nvmrun\nbad: ud2")

    assert exit.fault is None
    assert exit.l1.faults("#UD", at="bad")
    assert not exit.matches(code=VMEXIT.VMMCALL).holds


def test_endless_guest_in_l1s_own_code_is_ended_by_the_watchdog(l1):
    guest = l1.guest("loop: jmp loop", vmcb={"v_intr_masking": 1, "rflags": 0x202})

    exit = guest.run_in("sti\nclgi\nvmrun")

    assert exit.by_watchdog
    assert len(l1.watchdog_exits) == 1
    assert l1.guest("vmmcall").run().code == VMEXIT.VMMCALL, "it does not end the next guest"


def test_l1_takes_an_interrupt_in_its_own_handler(l1):
    exit = l1.guest("vmmcall").run_in(
        f"clgi\nmov r13d, 0xFEE00300\nmov dword ptr [r13], {0x44000 + VECTOR:#x}\nvmrun\nstgi\nsti\nnop\ncli",
        handlers={VECTOR: TAKE, 3: "inc r15"},
        regs={"r15": 0},
    )

    assert exit.code == VMEXIT.VMMCALL
    assert [fault.vector for fault in exit.l1.taken] == [VECTOR]
    assert exit.l1.taken[0].rflags & 1 << 9
    assert exit.l1.reg("r12") == exit.l1.taken[0].rsp
    assert exit.l1.reg("r15") == 0


def test_handlers_of_exceptions_get_the_error_code(l1):
    result = l1.code("bt r11, 0\nbts r11, 62\nmov r11, [r11]\nmov r14, 1", handlers={13: "add qword ptr [rsp + 8], 3"})

    assert [(fault.vector, fault.error) for fault in result.taken] == [(13, 0)]
    assert result.reg("r14") == 1


def test_l1_that_leaves_gif_set(l1):
    """L1 takes the interrupt before VMRUN: no CLGI holds it back."""
    guest = l1.guest("vmmcall")
    guest.raise_interrupt(VECTOR)

    exit = guest.run(clgi=False)

    assert next(event for event in exit.events if event.vector == VECTOR).phase is Phase.BEFORE_VMRUN


def test_l1_whose_page_tables_do_not_hold_after_the_exit(l1):
    """L2 takes a page from L1's own tables; L1 has it in its TLB no more, for it loads CR3 again."""
    tables, page = l1.scratch(steps.TABLE_SIZES[TableKind.LONG_4K] // 4096), l1.scratch(1)
    entry = tables + 0x6000 + (page >> 12) * 8
    guest = l1.guest(f"mov dword ptr [{entry:#x}], 0\nvmmcall")
    guest.tables(tables, TableKind.LONG_4K)

    exit = guest.run_in(
        f"mov r13d, {tables:#x}\nmov cr3, r13\nclgi\nvmrun\nmov cr3, r13\nhere: mov r14, [{page:#x}]\nstgi"
    )

    assert exit.code == VMEXIT.VMMCALL
    assert exit.l1.faults("#PF", 0, at="here")


def test_vmrun_by_an_l1_without_paging(l1):
    guest = l1.guest("mov esi, 5\nvmmcall")

    exit = guest.run_in(
        down_and_up("mov eax, ebx\nclgi\nvmrun eax\nmov edx, esi\nstgi"), {"rbx": guest.vmcb_pa, "rdx": 0}
    )

    assert exit.code == VMEXIT.VMMCALL
    assert exit.l1.returned
    assert exit.l1.reg("rdx") == 5


def test_without_probes_the_exit_is_the_same_and_nothing_is_asked_of_gif(l1):
    exit = l1.guest("mov ebx, 5\nvmmcall").run(probes=False)

    assert exit.matches(code=VMEXIT.VMMCALL, regs={"rbx": 5})
    assert exit.host_changes == {}
    assert "core.exit.gif_clear" not in l1._tallies
    assert l1._tallies["core.exit.exitcode_known"].checked == 1
    assert l1.universal == {}


def test_on_the_second_cpu(l1, session):
    guest = l1.guest("mov ebx, 5\nvmmcall\nnext: vmmcall", regs={"r9": 9})
    if session.boot.hello.cpu_count < 2:
        with pytest.raises(NotOffered, match="one CPU"):
            guest.run(cpu=1)
        return
    guest.setup("mov r8d, 1")
    guest.teardown("mov r10d, 10")

    exit = guest.run(cpu=1, read={"code": (guest.code_base, len(guest.code))})

    assert exit.matches(code=VMEXIT.VMMCALL, regs={"rbx": 5, "r9": 9})
    assert exit.teardown.reg("r10") == 10
    assert exit.memory["code"] == guest.code
    assert l1._tallies["core.exit.host_state_restored"].checked == 1
    assert guest.resume("next").code == VMEXIT.VMMCALL, "and on the first CPU from there"


def test_second_cpu_is_free_again_when_the_block_raises(l1, session):
    if session.boot.hello.cpu_count < 2:
        pytest.skip("one CPU")
    guest = l1.guest("loop: jmp loop", vmcb={"v_intr_masking": 1, "rflags": 0x202})
    guest.run()
    guest.rewind()
    with pytest.raises(ZeroDivisionError), l1.on_second_cpu([steps.vmrun(guest.vmcb_pa, steps.VmrunFlag.IF, {})]):
        raise ZeroDivisionError

    after = L1(session, l1._assembler, {})
    with after.on_second_cpu([steps.cpuid(0)]) as second:
        pass

    assert [record.status for record in second.answers] == [Status.OK]


def test_busy_second_cpu_uses_up_the_boot_and_the_blocks_failure_counts(l1, session):
    """Nothing ends this guest: it takes no interrupt. The next test gets another boot."""
    if session.boot.hello.cpu_count < 2:
        pytest.skip("one CPU")
    guest = l1.guest("vmmcall\nloop: jmp loop", no_intercept=("intr",), vmcb={"rflags": 2})
    guest.run()
    l1.write(guest.vmcb_pa + 0x578, guest["loop"].to_bytes(8, "little"))

    with pytest.raises(ZeroDivisionError), l1.on_second_cpu([steps.vmrun(guest.vmcb_pa, steps.VmrunFlag.NONE, {})]):
        raise ZeroDivisionError

    assert session.boot.dirty
    session.restart("used up")


def test_flood_of_interrupts_does_not_hide_that_vmrun_faulted(l1):
    """More events than the executor keeps for a step, all before VMRUN's own fault."""
    guest = l1.guest("vmmcall")
    for vector in range(0x40, 0x90):
        guest.raise_interrupt(vector)

    exit = guest.run(clgi=False, rax=1)

    assert exit.vmrun_faults("#GP", 0)
    assert len([event for event in exit.answer.events if event.phase is Phase.BEFORE_VMRUN]) >= 60
