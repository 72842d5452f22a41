"""SHUTDOWN: what becomes of a triple fault in L2.

Intercepted, it is exit 7Fh, and the saved state is undefined (APM2 15.14.3). Not intercepted, it is a shutdown of the
processor that L1 has: the machine stops or is reset. Both are for L0 to contain: L0s have freed what they still used
(CVE-2022-3344), gone on in L1 with L2's state, or shut down more than the one machine.
"""

import pytest

from harness import VMEXIT, TargetLost, clause, masked

NOTHING = {"intercept_exceptions": 0, "idtr.limit": 0}
VALID, EXCEPTION = 1 << 31, 3 << 8
MODES = ["long64", "compat32", "pae32", "paged32", "prot32", "real16"]


@clause("core.shutdown.intercept")
@pytest.mark.parametrize("mode", MODES)
def test_triple_fault_exits(l1, mode):
    """#UD, with no IDT to deliver it or what comes of it."""
    guest = l1.guest("nop\nud2\nvmmcall", mode=mode, vmcb=NOTHING)

    assert guest.run().matches(code=VMEXIT.SHUTDOWN)


@clause("core.shutdown.intercept")
@pytest.mark.parametrize(
    ("code", "np"),
    [("int3", False), ("div ecx", False), ("mov rax, [rbx]", False), ("int 0x80", False), ("mov rax, [rbx]", True)],
    ids=["int3", "div", "page_fault", "int80", "page_fault_np"],
)
def test_triple_fault_of_any_cause_exits(l1, code, np):
    if np:
        l1.need("NP")
    guest = l1.guest(f"nop\n{code}\nvmmcall", np=np, vmcb=NOTHING, regs={"rcx": 0, "rbx": 0x1_4000_0000})

    assert guest.run().matches(code=VMEXIT.SHUTDOWN)


@clause("core.shutdown.intercept")
def test_idt_that_is_not_mapped(l1):
    """The page faults of delivery are combined to the end."""
    vmcb = {"intercept_exceptions": 0, "idtr.base": 0x1_4000_0000, "idtr.limit": 0xFFF}

    assert l1.guest("nop\nud2\nvmmcall", vmcb=vmcb).run().matches(code=VMEXIT.SHUTDOWN)


@clause("core.shutdown.exceptions_first")
@pytest.mark.parametrize(
    ("vector", "code", "during"),
    [(6, VMEXIT.EXCP_UD, 0), (13, VMEXIT.EXCP_GP, VALID | EXCEPTION | 6)],
    ids=["ud", "gp"],
)
def test_intercepted_exception_comes_before_the_shutdown(l1, vector, code, during):
    """#UD leads to #GP, both to #DF, all to the shutdown: one of them is intercepted, with RIP still at the UD2."""
    guest = l1.guest("nop\nstart: ud2\nvmmcall", vmcb={"intercept_exceptions": 1 << vector, "idtr.limit": 0})
    intinfo = masked(during, VALID | 0x7FF if during else VALID)

    assert guest.run().matches(code=code, rip=guest["start"], intinfo=intinfo)


@clause("core.shutdown.exceptions_first")
@pytest.mark.parametrize("mode", ["long64", "prot32"])
def test_intercepted_double_fault_comes_before_the_shutdown(l1, mode):
    """RIP is undefined with #DF."""
    guest = l1.guest("nop\nud2\nvmmcall", mode=mode, vmcb={"intercept_exceptions": 1 << 8, "idtr.limit": 0})

    assert guest.run().matches(code=VMEXIT.EXCP_DF)


@clause("core.shutdown.exceptions_first")
def test_intercepts_of_exceptions_that_do_not_come_are_no_obstacle(l1):
    """The near misses: all but #UD, #DF and #GP."""
    others = 0xFFFF_FFFF & ~(1 << 6 | 1 << 8 | 1 << 13)
    guest = l1.guest("nop\nud2\nvmmcall", vmcb={"intercept_exceptions": others, "idtr.limit": 0})

    assert guest.run().matches(code=VMEXIT.SHUTDOWN)


@clause("core.shutdown.vmcb_written_anew")
@pytest.mark.parametrize("np", [False, True], ids=["np_off", "np_on"])
def test_vmcb_written_anew_runs(l1, np):
    """Three rounds of shutdown and a good guest in the same VMCB."""
    if np:
        l1.need("NP")
    guest = l1.guest("nop\nud2\nend: vmmcall", np=np, vmcb=NOTHING)
    bad = guest.vmcb.copy()
    for _ in range(3):
        guest.rewind()
        guest.vmcb = bad.copy()
        assert guest.run().matches(code=VMEXIT.SHUTDOWN)
        guest.rewind()
        guest.vmcb = bad.copy()
        guest.vmcb["rip"] = guest["end"]
        assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"])


@clause("core.shutdown.run_again")
def test_vmcb_as_it_was_left_is_survived(l1):
    """The save area is undefined, so what L2 does is; L1 goes on."""
    guest = l1.guest("nop\nud2\nend: vmmcall", vmcb=NOTHING)
    assert guest.run().matches(code=VMEXIT.SHUTDOWN)

    guest.run()

    assert l1.expect("RAX of L1's code afterwards", l1.code("mov eax, 0x600d").reg("rax"), 0x600D)


@clause("core.shutdown.not_intercepted")
@pytest.mark.dangerous
@pytest.mark.fresh_boot
@pytest.mark.dirties("L2 was shut down without an intercept")
@pytest.mark.parametrize("mode", ["long64", "prot32"])
def test_shutdown_that_is_not_intercepted_is_one_of_the_machine(l1, mode):
    """The machine is gone, so no answer comes; and then it can be started again."""
    guest = l1.guest("nop\nud2\nvmmcall", mode=mode, vmcb=NOTHING, no_intercept=["shutdown"])
    code = None
    try:
        code = guest.run(deadline_s=1.5).code
    except TargetLost as lost:
        if lost.verdict == "MISS":
            raise

    assert l1.expect("L1 got an exit", code is not None, False)
    assert l1.expect("RAX of L1's code afterwards", l1.code("mov eax, 0x600d").reg("rax"), 0x600D)
