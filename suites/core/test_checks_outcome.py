"""How a refused VMRUN ends.

As a #VMEXIT like any other: EXITCODE is -1 in all its 64 bits, GIF is 0, and L1 goes on behind VMRUN with its own
state and without an exception (APM2 15.5.1, 15.6, App. C). EXITINFO1 and EXITINFO2 say nothing.
A wrong L0 stores the code in 32 bits, notices a bad value when half of L2's state is loaded, or lets the exception that
its own emulation of a register load raised come through to L1.
"""

import pytest

from harness import VMEXIT, clause
from suites.lib.interrupts import taken_after_stgi

# One way or another to be refused, from each of the places where an L0 may notice it.
REASONS = {
    "asid": {"asid": 0},
    "intercept": {"intercept_misc2": 0b10},
    "cr0_upper": {"cr0": 0x1_8000_0031},
    "cr0_nw": {"cr0": 0xA000_0031},
    "cr0_pe": {"cr0": 0x8000_0030},
    "cr3": {"cr3": 1 << 63},
    "cr4_upper": {"cr4": 0x1_0000_0000_0020},
    "cr4_reserved": {"cr4": 0x8020},
    "cr4_pae": {"cr4": 0},
    "dr6": {"dr6": 0x1_FFFF_0FF0},
    "dr7": {"dr7": 0x1_0000_0400},
    "efer_svme": {"efer": 0x500},
    "efer_reserved": {"efer": 0x8000_0000_0000_1500},
    "cs": {"cs.attrib": 0xE9B},
    "iopm": {"iopm_base_pa": 1 << 63},
    "msrpm": {"msrpm_base_pa": 1 << 63},
    "event_type": {"eventinj": 0x8000_0720},
    "event_vector": {"eventinj": 0x8000_0302},
}
REFUSED = [pytest.param(vmcb, id=name) for name, vmcb in REASONS.items()]
EVERY_FIELD_ONCE = {next(iter(vmcb)): name for name, vmcb in REASONS.items()}.values()
RELOADED = (
    "CS", "SS", "DS", "ES", "GDTR.base", "GDTR.limit", "IDTR.base", "IDTR.limit", "CR0", "CR3", "CR4", "EFER", "RFLAGS",
    "RSP", "RAX", "DR7", "FS", "GS", "TR", "LDTR",
)  # fmt: skip
VECTOR = 0x51


def refused(l1, vmcb):
    """A guest that is refused. The maps are asked for, so that their range is certain to matter."""
    maps = [name for name, field in (("ioio", "iopm_base_pa"), ("msr", "msrpm_base_pa")) if field in vmcb]
    return l1.guest("vmmcall", intercept=maps, vmcb=vmcb)


def run_refused(guest, **run):
    """Runs it. That L2 is refused at all is for other clauses to ask: where it is not there is no outcome to judge."""
    exit = guest.run(**run)
    if not exit.is_invalid:
        pytest.skip("L2 was not refused; the check's own test says so")
    return exit


@clause("core.checks.exitcode_is_64_bit")
@pytest.mark.parametrize("vmcb", REFUSED)
def test_exit_code_has_64_bits(l1, vmcb):
    assert run_refused(refused(l1, vmcb)).matches(code=VMEXIT.INVALID)


@clause("core.checks.gif_clear_after_invalid")
@pytest.mark.parametrize("vmcb", REFUSED)
def test_interrupt_waits_for_stgi(l1, vmcb):
    """An interrupt that was pending before VMRUN is taken once L1 executes STGI, and not before."""
    guest = refused(l1, vmcb)
    guest.raise_interrupt(VECTOR)

    assert taken_after_stgi(l1, run_refused(guest, host_if=True), VECTOR)


@clause("core.checks.host_state_after_invalid")
@pytest.mark.parametrize("host_if", [False, True], ids=["if0", "if1"])
@pytest.mark.parametrize("vmcb", REFUSED)
def test_l1_goes_on_as_it_was(l1, vmcb, host_if):
    """Nothing of L2's state stays, and no exception reaches L1."""
    guest = refused(l1, vmcb)

    exit = run_refused(guest, host_if=host_if)

    for name in RELOADED:
        before, after = exit.host_changes.get(name, (0, 0))
        if name == "RFLAGS":  # RF is the processor's own
            before, after = before & ~(1 << 16), after & ~(1 << 16)
        if name == "DR7":  # bit 10 reads as 1 on every CPU; where it does not, that is not this clause's affair
            before, after = before | 1 << 10, after | 1 << 10
        assert l1.expect(f"L1's {name} after VMEXIT_INVALID", after, before)
    assert l1.expect("exceptions in L1", len([event for event in exit.events if event.vector < 32]), 0)


@clause("core.checks.several_at_once")
@pytest.mark.parametrize(
    "reasons",
    [
        ("asid", "intercept"),
        ("cr0_upper", "cr4_upper", "efer_reserved"),
        ("dr6", "dr7"),
        ("asid", "event_type"),
        ("efer_svme", "cr3", "cs"),
        (*EVERY_FIELD_ONCE,),
    ],
    ids=["controls", "registers", "debug", "asid_and_event", "state", "all"],
)
def test_several_reasons_give_one_exit(l1, reasons):
    vmcb = {name: value for reason in reasons for name, value in REASONS[reason].items()}

    assert refused(l1, vmcb).run().is_invalid


@clause("core.checks.host_state_after_invalid")
@pytest.mark.parametrize("vmcb", REFUSED)
def test_the_next_guest_runs(l1, vmcb):
    """A refusal leaves nothing behind in L0: a good VMCB at the same place runs."""
    run_refused(refused(l1, vmcb))
    guest = l1.guest("start: vmmcall")

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["start"])


@clause("core.checks.exitintinfo_of_a_refusal")
def test_refused_vmrun_reports_no_event_in_delivery(l1):
    """EXITINTINFO says V=0, or was not written, though the exit before reported an event."""
    guest = l1.guest("int 0x50", vmcb={"idtr.limit": 0})
    assert guest.run().matches(code=VMEXIT.EXCP_GP)

    exit = guest.resume(asid=0)

    assert exit.is_invalid
    wrote = exit.vmcb["exitintinfo"] != exit.before["exitintinfo"]
    assert l1.expect("EXITINTINFO.V, where written", exit.vmcb["exitintinfo"] >> 31 & 1 if wrote else 0, 0)
