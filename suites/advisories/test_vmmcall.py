"""CVE-2026-46076: VMMCALL in L2 that L1 does not intercept.

KVM from 6.2 (to 6.12.85, 6.18.26, 7.0.3) answered it itself, as if L1 had called, where L1 had turned on Hyper-V's TLB
flush for L2, which it says in the VMCB's last 32 bytes of the control area: these are the host's own, and hardware does
not look at them (APM2 App. B, 3E0h). Not intercepted, VMMCALL raises #UD (15.9, 15.18), whatever stands there, and
whatever L2's registers hold. core.preconditions.vmmcall_not_intercepted asks that in every mode without these bytes;
they, and RCX, are the difference here. Xen gives each VMMCALL of L2 to L1, as can be read in its nestedsvm.c.
"""

from harness import VMEXIT, cases, clause

AREA, SIZE = 0x3E0, 0x20
CALLS = {"none": 0, "kvm": 5, "hyper_v_post": 0x5C, "hyper_v_flush": 0x1_0000_0002, "all_ones": (1 << 64) - 1}


@clause("advisories.vmmcall.host_reserved")
@cases("filled, rcx", {f"ones-{name}": (b"\xff", rcx) for name, rcx in CALLS.items()} | {"zeros": (b"\0", 0)})
def test_vmmcall_is_no_instruction(l1, filled, rcx):
    guest = l1.guest("nop\nat: vmmcall", no_intercept=["vmmcall"], vmcb={"rax": rcx & 0xFFFF_FFFF})
    guest.regs.update({"rbx": rcx, "rcx": rcx, "rdx": 0})
    guest.vmcb.data[AREA : AREA + SIZE] = filled * SIZE

    assert guest.run().matches(code=VMEXIT.EXCP_UD, rip=guest["at"])


@clause("advisories.vmmcall.host_reserved")
def test_intercepted_vmmcall_exits(l1):
    """The near miss."""
    guest = l1.guest("nop\nat: vmmcall", regs={"rcx": CALLS["hyper_v_flush"]})
    guest.vmcb.data[AREA : AREA + SIZE] = b"\xff" * SIZE

    assert guest.run().reached("at")
