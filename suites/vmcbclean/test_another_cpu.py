"""A VMCB that moves to another CPU.

Each CPU holds VMCBs for itself, so L1 clears the field when it takes a VMCB elsewhere (APM2 15.15.2). Then every change
counts on both. An L0 with one record for all of L1's CPUs, or one that forgets to look which CPU ran the VMCB last,
loses what L1 changed meanwhile.
"""

import pytest

from harness import any_of, cases, clause
from suites.vmcbclean.probes import ALL, EVERY

NAMES = ("general1", "iopm_base", "v_tpr", "n_cr3", "cr0", "cr3", "dr7", "idtr_base", "ds_selector")
CHOSEN = {name: ALL[name] for name in NAMES}


@clause("vmcbclean.another_cpu")
@pytest.mark.two_cpus
@cases("probe", CHOSEN)
def test_there_and_back(l1, probe):
    """Changed before each move, with 0C0h = 0."""
    started = probe.start(l1)
    assert started.is_old()
    before = {name: started.guest.vmcb[name] for name in started.new}
    started.change()
    assert started.is_new(cpu=1)
    started.guest.vmcb.update(before)
    assert started.is_old()


@clause("vmcbclean.another_cpu_bits_set", "vmcbclean.absent")
@pytest.mark.two_cpus
@cases("probe", CHOSEN)
def test_back_with_all_bits_set(l1, probe):
    """Changed for the other CPU; the first one may still have the old value. With 0 it has the new one."""
    started = probe.start(l1)
    assert started.is_old()
    started.change()
    assert started.is_new(cpu=1)
    seen = started.sees(EVERY)
    either = any_of(probe.seen_old, probe.seen_new)
    expected = l1.either("VmcbClean", offered=either, absent=probe.seen_new)
    assert l1.expect("what L2 finds back on the first CPU", seen, expected)

    started.change()
    assert started.is_new()
