"""The vector of an intercepted INT n.

With DecodeAssists EXITINFO1 bits 7:0 are the instruction's immediate byte, and bits 63:8 are zero (APM2 15.8.2). An L1
that injects the interrupt again needs no look at L2's code. A wrong L0 sign-extends the byte, or leaves the field.
"""

import pytest

from harness import VMEXIT, cases, clause
from suites.lib.intercepting import V86


def _check(l1, code, vector, **options):
    guest = l1.guest(f"nop\nstart: .byte {code}\nvmmcall", intercept=["intn"], **options)

    exit = guest.run()

    assert exit.matches(code=VMEXIT.INTN, rip=guest["start"], info1=vector)


@clause("decodeassists.intn.vector")
@cases("vector", [0, 1, 2, 3, 4, 8, 0x0D, 0x20, 0x7F, 0x80, 0xA5, 0xFF])
def test_vector(l1, vector):
    """With the short forms' vectors too: CD 03 is no INT3."""
    _check(l1, f"0xcd, {vector}", vector)


@clause("decodeassists.intn.vector")
@pytest.mark.parametrize("mode", ["compat32", "pae32", "paged32", "prot32", "real16"])
def test_other_modes(l1, mode):
    _check(l1, "0xcd, 0x91", 0x91, mode=mode)


@clause("decodeassists.intn.vector")
def test_virtual_8086_mode(l1):
    """At IOPL 3, where INT n is no #GP."""
    _check(l1, "0xcd, 0x91", 0x91, mode="real16", vmcb=V86 | {"rflags": 0x2_3002})


@clause("decodeassists.intn.vector")
@pytest.mark.parametrize("mode", ["long64", "prot32"])
def test_user_code(l1, mode):
    _check(l1, "0xcd, 0x91", 0x91, mode=mode, cpl=3)


@clause("decodeassists.intn.vector")
@cases("prefixes", {"66": "0x66", "f3": "0xf3", "rex_w": "0x48", "66_2e_67_rex": "0x66, 0x2e, 0x67, 0x4f"})
def test_prefixes(l1, prefixes):
    _check(l1, f"{prefixes}, 0xcd, 0xe7", 0xE7)
