"""FERR_FREEZE: an x87 error that the processor would report over its FERR pin.

With CR0.NE=0 an unmasked x87 error raises no #MF: at the next waiting x87 instruction the processor asserts FERR# and
freezes until an interrupt comes, unless IGNNE# is asserted. With its intercept set (00Ch bit 30) L2 exits with 7Eh
instead of freezing (APM2 15.14.2). An L0 without it leaves L2 frozen, or lets it run over an error that nobody sees.
"""

from harness import VMEXIT, cases, clause, masked

NE = 1 << 5
ZERO_DIVIDE_UNMASKED = 0x37B
DIVIDE = "push {word}\nfninit\nfldcw [rsp]\npop rax\nfld1\nfldz\nfdivp st(1), st\nat: {waiting}\nend: vmmcall"


def _guest(l1, waiting, *, ne, word=ZERO_DIVIDE_UNMASKED, **options):
    guest = l1.guest(DIVIDE.format(word=word, waiting=waiting), **options)
    guest.vmcb["cr0"] = guest.vmcb["cr0"] & ~NE | (NE if ne else 0)
    guest.teardown("fninit")
    return guest


@clause("core.ferr.exit")
@cases("waiting", ["fwait", "fld1"])
def test_error_that_would_freeze_l2(l1, waiting):
    """At the waiting instruction, which is not executed."""
    guest = _guest(l1, waiting, ne=False, intercept=["ferr_freeze"])

    assert guest.run().matches(code=VMEXIT.FERR_FREEZE, rip=guest["at"])


@clause("core.ferr.only_for_ferr")
def test_error_with_ne_is_an_exception(l1):
    """CR0.NE=1: #MF, and no FERR."""
    guest = _guest(l1, "fwait", ne=True, intercept=["ferr_freeze"])

    assert guest.run().matches(code=VMEXIT.EXCP_MF, rip=guest["at"])


@clause("core.ferr.only_for_ferr")
def test_masked_error_is_none(l1):
    """The error is masked: L2 goes on, with its flag in the status word."""
    guest = _guest(l1, "fnstsw ax", ne=False, word=0x37F, intercept=["ferr_freeze"])

    assert guest.run().reached("end", rax=masked(1 << 2, 1 << 2 | 1 << 7))
