"""The second CPU begins a test as the first one does: SVM off and on, so that nothing of an earlier test is left."""

from __future__ import annotations

from harness.guest.l1 import L1
from harness.link.session import Session
from harness.scenario import places, steps
from harness.scenario.asm import Assembler
from tests.fake_executor import FakeTarget


def test_svm_is_turned_off_and_on_once_a_test(tmp_path):
    l1 = L1(Session(FakeTarget()), Assembler(tmp_path), {})

    assert l1.opening(1) == [steps.code(places.SVM_OFF_AND_ON, {})]
    assert l1.opening(1) == l1.opening(0) == []
    l1.reset()
    assert l1.opening(1) != []
