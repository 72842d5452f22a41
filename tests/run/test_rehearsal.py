"""The rehearsal collects what tests will assemble, and neither fails a test nor lets one reach the target."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from harness.run import rehearsal
from harness.scenario.asm import Assembler


class Item(pytest.Function):
    """Just enough of a collected test."""

    def __init__(self, function, params):
        self._function = function
        self.params = params

    @property
    def obj(self):
        return self._function

    @property
    def fixturenames(self):
        return ["l1"]

    @property
    def callspec(self):
        return SimpleNamespace(params=self.params)


def one(l1, insn):
    guest = l1.guest(f"start: {insn}\nafter: vmmcall")
    guest.setup("mov dr0, rax")
    guest.run()
    raise AssertionError("went on after the first thing that needs a target")


def other(l1):
    l1.code("rdtsc")
    raise AssertionError("went on")


def broken(l1):
    l1.guest("frobnicate").run()


def skipping(l1):
    pytest.skip("not here")


def test_all_snippets_in_one_process_and_a_broken_one_hurts_nobody(tmp_path):
    assembler = Assembler(tmp_path)
    items = [_item(one, insn=insn) for insn in ("cpuid", "hlt", "pause")] + [_item(other), _item(skipping)]

    rehearsal.rehearse(items, assembler)

    assert assembler.processes == 1
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 5
    rehearsal.rehearse([_item(broken), _item(one, insn="nop")], assembler)
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 6


def _item(function, **params):
    # Nodes are made by their parents only; this one needs none.
    item = object.__new__(Item)
    Item.__init__(item, function, params)
    return item
