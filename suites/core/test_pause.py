"""PAUSE, whose intercept can be filtered.

Without a filter count each PAUSE (F3 90) of L2 exits, at every CPL (APM2 15.9, 15.14.4). NOP and XCHG share the opcode
and do not. A wrong L0 keeps a filter count of its own running where L1 set none, so that L1 misses the waiting of L2,
or it takes every 90h for a PAUSE.
"""

import pytest

from harness import VMEXIT, clause, unchanged


@clause("core.pause.every")
@pytest.mark.parametrize("np", [False, True], ids=["np_off", "np_on"])
def test_every_pause_exits(l1, np):
    """Five in a row, each resumed at the next."""
    if np:
        l1.need("NP")
    lines = "\n".join(f"p{number}: pause" for number in range(5))
    guest = l1.guest(f"{lines}\nend: vmmcall", np=np, intercept=["pause"])

    for number in range(5):
        exit = guest.run()
        assert exit.matches(code=VMEXIT.PAUSE, rip=guest[f"p{number}"])
        guest.vmcb["rip"] = guest[f"p{number}"] + 2
    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"])


@clause("core.pause.every")
def test_the_same_pause_exits_again(l1):
    """L1 resumes at the PAUSE itself: nothing has been counted."""
    guest = l1.guest("nop\nstart: pause\nvmmcall", intercept=["pause"])

    for _ in range(3):
        assert guest.run().matches(code=VMEXIT.PAUSE, rip=guest["start"])


@clause("core.pause.cpl")
@pytest.mark.parametrize("cpl", [0, 1, 2, 3])
def test_pause_exits_at_any_cpl(l1, cpl):
    guest = l1.guest("nop\nstart: pause\nvmmcall", cpl=cpl, intercept=["pause"])

    assert guest.run().matches(code=VMEXIT.PAUSE, rip=guest["start"], cpl=cpl, rax=unchanged)


@clause("core.pause.cpl")
@pytest.mark.parametrize("cpl", [0, 3])
def test_pause_without_the_intercept_runs_on(l1, cpl):
    guest = l1.guest("pause\npause\nend: vmmcall", cpl=cpl)

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"], cpl=cpl)


@clause("core.pause.not_nop")
@pytest.mark.parametrize(
    "code",
    ["0x90", "0x66, 0x90", "0x48, 0x90", "0xf2, 0x90", "0x0f, 0x1f, 0x00"],
    ids=["nop", "xchg_ax_ax", "rex_w_nop", "f2_nop", "long_nop"],
)
def test_nop_does_not_exit(l1, code):
    guest = l1.guest(f".byte {code}\nend: vmmcall", intercept=["pause"], vmcb={"rax": 0x1122_3344_5566_7788})

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"], rax=unchanged)


@clause("core.pause.not_nop")
def test_xchg_with_r8_does_not_exit(l1):
    """REX.B makes of 90h an exchange, which happens."""
    guest = l1.guest(".byte 0x49, 0x90\nend: vmmcall", intercept=["pause"], vmcb={"rax": 0x1111}, regs={"r8": 0x2222})

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"], rax=0x2222, regs={"r8": 0x1111})
