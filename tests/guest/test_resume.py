"""`resume` runs a guest on, from where it stopped or from a label, with VMCB fields changed."""

from __future__ import annotations

import pytest

from harness.guest.l1 import L1
from harness.link.session import Session
from harness.scenario.asm import Assembler
from harness.svm import VMEXIT
from tests.fake_executor import FakeTarget
from tests.fake_l1 import FakeL1


@pytest.fixture
def l1(tmp_path):
    session = Session(FakeTarget(respond=FakeL1().respond))
    yield L1(session, Assembler(tmp_path), {})
    session.close()


def test_from_a_label_with_fields(l1):
    guest = l1.guest("vmmcall\nnext: vmmcall")
    guest.run()

    exit = guest.resume(at="next", cr2=0x1234, cs__base=0x10)

    assert exit.code == VMEXIT.VMMCALL
    assert (exit.before["rip"], exit.before["cr2"], exit.before["cs.base"]) == (guest["next"], 0x1234, 0x10)


def test_as_it_was_left(l1):
    guest = l1.guest("vmmcall")
    left = guest.run().vmcb

    assert guest.resume().before["rip"] == left["rip"]


def test_arguments_of_run(l1):
    guest = l1.guest("vmmcall")
    guest.run()

    assert guest.resume(run={"read": {"code": (guest.code_base, 3)}}).memory["code"] == guest.code


@pytest.mark.parametrize(
    ("arguments", "error"), [({"at": "nowhere"}, KeyError), ({"no_such_field": 1}, KeyError)], ids=["label", "field"]
)
def test_what_does_not_exist_is_refused(l1, arguments, error):
    guest = l1.guest("vmmcall")
    guest.run()

    with pytest.raises(error):
        guest.resume(**arguments)


def test_before_the_first_run_there_is_nothing_to_resume(l1):
    with pytest.raises(RuntimeError, match="did not run yet"):
        l1.guest("vmmcall").resume()


@pytest.mark.parametrize(("eventinj", "nrip"), [(0x8000_0440, 0x1234), (0x440, 0xA5A5_A5A5_A5A5_A5A5)])
def test_nrip_of_an_injected_event_is_kept(l1, eventinj, nrip):
    """It is an input then; otherwise it is filled like every output field."""
    guest = l1.guest("vmmcall")
    guest.run()

    assert guest.resume(eventinj=eventinj, nrip=0x1234).before["nrip"] == nrip


def test_memory_that_a_test_writes_after_a_run_is_there_in_the_next(l1):
    guest = l1.guest("vmmcall")
    guest.run()
    page = l1.scratch()
    guest.write(page, b"later")

    assert guest.run(read={"page": (page, 5)}).memory["page"] == b"later"


def test_it_is_written_once(l1):
    guest = l1.guest("vmmcall")
    guest.run()
    page = l1.scratch()
    guest.write(page, b"later")
    guest.run()
    l1.write(page, b"since")

    assert guest.run(read={"page": (page, 5)}).memory["page"] == b"since"


def test_l1_code_set_up_after_a_run_is_placed(l1):
    guest = l1.guest("vmmcall")
    guest.run()
    guest.setup("mov rcx, 0x1234567812345678")
    place = l1.place_code("nop").addr - 16
    guest.run()

    assert l1.read(place, 10).hex() == "48b97856341278563412"
