"""What a suite's author writes with: ids, names of bits and exceptions, and values said by their bits."""

from __future__ import annotations

import pytest

import harness
from harness import CR0, GP, PF, VMEXIT, any_of, cases, masked, unwritten
from harness.guest import images
from harness.judge.exit import Exit, fault_match, fault_text
from harness.scenario.steps import Fault, Phase, VmrunAnswer, VmrunResult
from harness.svm import Vmcb, names, registers, vector_number


@pytest.mark.parametrize(
    ("mark", "ids"),
    [
        (cases("msr", [0xC000_0081, 0, 9, 0x10, -16]), ["c0000081h", "0", "9", "10h", "-10h"]),
        (cases("bit", [3, 12], prefix="bit", decimal=True), ["bit3", "bit12"]),
        (cases("np", [False, True]), ["no_np", "np"]),
        (cases("code", ["rep cpuid", "mov rax, [rbx]", ""]), ["rep_cpuid", "mov_rax_rbx", "none"]),
        (cases("code", [VMEXIT.CPUID, VMEXIT.EXCP_PF]), ["cpuid", "excp_pf"]),
        (cases("fault", [PF, GP, None]), ["pf", "gp", "none"]),
        (cases(("mode", "bits"), [("long64", 64), ("real16", 16)]), ["long64-40h", "real16-10h"]),
        (cases("mode, np", [("long64", True)]), ["long64-np"]),
        (cases("x", {"plain": 1, "odd": 2}), ["plain", "odd"]),
        (cases("x", [b"\x0f\xa2", {"cr0": 0x11}, [1, 2]]), ["0fa2", "cr0=11h", "1-2"]),
        (cases("x", [any_of(1, 2), masked(1, 0xF0), unwritten]), ["1or2", "0off0h", "unwritten"]),
    ],
    ids=range(11),
)
def test_ids_say_what_a_case_is(mark, ids):
    assert mark.kwargs["ids"] == ids


def test_two_cases_of_one_id_are_refused():
    with pytest.raises(ValueError, match="a_b is there twice"):
        cases("code", ["a b", "a, b"])


@pytest.mark.parametrize("register", ["CR0", "CR4", "EFER", "RFLAGS", "DR6", "DR7"])
def test_every_bit_that_is_named_has_that_name(register):
    """The names agree with the layouts by which values are printed."""
    layout = {run.name: run.mask for run in getattr(registers, register)}
    named = {name: value for name, value in vars(getattr(names, register)).items() if name.isupper() and name[0] != "_"}

    known = {"ONE", "RESET", "BLD"}
    assert {name: value for name, value in named.items() if name not in known} == {
        name: mask for name, mask in layout.items() if name != "reserved" and name[:3] not in ("bit", "one")
    }
    assert ~CR0.PG & (1 << 63) == 1 << 63


def test_exceptions_are_vectors_by_the_manual_s_names():
    assert all(vector_number(f"#{one.name}") == one for one in names.Vector if one.name != "NMI")
    assert (harness.PF, harness.GP) == (14, 13)


FAULT = Fault(14, Phase.NONE, 0, 2, 0x1000, 0, 0, 2, 0, 8)


def test_a_fault_is_said_by_its_bits_and_expected_by_name():
    match = fault_match("", FAULT, PF, 7)

    assert fault_text(FAULT).startswith("#PF[0002h RW] at ")
    assert [(row.expected, row.got, row.meaning) for row in match.rows] == [
        ("#PF", "#PF", ""),
        ("0007h", "0002h", "expected P RW US; got RW"),
    ]


def exit_with(**fields):
    before = images.vmcb_image("long64")
    after = before.copy()
    after.update(fields)
    return Exit(before, Vmcb(after.data), VmrunAnswer(VmrunResult.NONE, 0, {}, [], []), {}, labels={"end": 0x1000})


@pytest.mark.parametrize(
    ("code", "field", "value", "said"),
    [
        (VMEXIT.IOIO, "exitinfo1", 0x0060_0021, "TYPE=1(IN) SZ16 SEG=0(ES) PORT=60h"),
        (VMEXIT.NPF, "exitinfo1", 1 << 32 | 6, "RW US final-address"),
        (VMEXIT.EXCP_PF, "exitinfo1", 5, "error code P US"),
        (VMEXIT.MSR, "exitinfo1", 1, "TYPE=1(WRMSR)"),
        (VMEXIT.CR0_WRITE, "exitinfo1", 1 << 63 | 3, "GPR=3(rbx) MOV"),
        (VMEXIT.DR7_READ, "exitinfo1", 2, "GPR=2(rdx)"),
        (VMEXIT.TASK_SWITCH, "exitinfo2", 1 << 38, "JMP"),
        (VMEXIT.HLT, "exitinfo1", 5, ""),
    ],
)
def test_exit_information_is_said_by_its_bits(code, field, value, said):
    exit = exit_with(exitcode=code, **{field: value})

    assert exit.matches(**{field: value}).rows[-1].meaning == said


def test_events_are_said_by_their_bits():
    exit = exit_with(exitcode=VMEXIT.NPF, exitintinfo=0x8000_0B0E | 2 << 32)

    assert "TYPE=3(exception) EV V=1" in exit.matches(exitintinfo=0).rows[-1].meaning


def test_reached_is_the_vmmcall_at_a_label():
    assert exit_with(exitcode=VMEXIT.VMMCALL, rip=0x1000, rax=5).reached("end", rax=5)
    assert not exit_with(exitcode=VMEXIT.VMMCALL, rip=0x1001).reached("end")
    assert not exit_with(exitcode=VMEXIT.HLT, rip=0x1000).reached("end")
    with pytest.raises(KeyError, match="did you mean end"):
        exit_with().reached("ende")
