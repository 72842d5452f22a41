"""L1's state after #VMEXIT is whole: every item has its real value, changed or not, and a name that does not exist is
refused."""

from __future__ import annotations

import pytest

from harness import unchanged
from harness.guest import images
from harness.judge.exit import Exit
from harness.judge.host_state import HOST_MSRS, HostState, host_item
from harness.scenario.steps import HOST_REGISTERS, VmrunAnswer, VmrunResult, host_item_name
from harness.svm import MSR

KEPT = {"CR3": 0x1000, "EFER": 0x1D01, "MSR_C0000082": 5, "GDTR.base": 7}


def exit_with(changes=None, kept=KEPT):
    vmcb = images.vmcb_image("long64")
    answer = VmrunAnswer(VmrunResult.NONE, 0, {}, [], [], changes or {})
    return Exit(vmcb, vmcb, answer, {}, host_at_vmrun=lambda: kept)


def test_what_did_not_change_has_its_value():
    exit = exit_with({"CR8": (1, 2)})

    assert (exit.host["CR3"], exit.host["GDTR.base"], exit.host["CR8"]) == (0x1000, 7, 2)
    assert [exit.host[name] for name in ("LSTAR", "MSR_C0000082", 0xC000_0082, MSR.LSTAR)] == [5] * 4
    assert exit.host["EFER"] == exit.host[0xC000_0080] == 0x1D01
    assert (exit.host.before["CR8"], exit.host.before["CR3"]) == (1, 0x1000)
    assert exit.matches(host={"CR3": 0x1000, "LSTAR": unchanged, 0xC000_0082: 5, "CR8": 2})
    assert not exit.matches(host={"CR3": 0})
    assert not exit.matches(host={"CR8": unchanged})


@pytest.mark.parametrize(
    ("name", "said"),
    [("CR33", "did you mean CR3"), ("LSTARR", "did you mean LSTAR"), ("MSR_C0000099", "did you mean MSR_C0000"),
     (0xC001_0015, "no 'MSR_C0010015'"), ("efer", "did you mean EFER")],
)  # fmt: skip
def test_a_name_that_does_not_exist_is_refused(name, said):
    for ask in (lambda: exit_with().host[name], lambda: exit_with().matches(host={name: 0})):
        with pytest.raises(KeyError, match=said):
            ask()


def test_what_this_machine_does_not_have_is_refused():
    with pytest.raises(KeyError, match="this machine has no MSR_C0000103"):
        exit_with().host["TSC_AUX"]
    assert "TSC_AUX" not in exit_with().host and "LSTAR" in exit_with().host and "CR33" not in exit_with().host


def test_what_was_not_captured_is_said_so():
    vmcb = images.vmcb_image("long64")
    exit = Exit(vmcb, vmcb, VmrunAnswer(VmrunResult.NONE, 0, {}, [], []), {})

    with pytest.raises(LookupError, match="not captured"):
        exit.matches(host={"CR3": 0})


def test_every_item_of_the_executor_has_a_name():
    names = [host_item_name(0, number) for number in range(1, 29)] + [host_item_name(1, msr) for msr in HOST_MSRS]

    assert sorted(host_item(name) for name in names) == sorted(names)
    assert set(names) == {*HOST_REGISTERS, *(f"MSR_{msr:08X}" for msr in HOST_MSRS)}
    assert len(HostState(dict.fromkeys(names, 1), {})) == len(names)
