"""L2 names an address where no memory is, by an SVM instruction or by its IDTR.

Where L1 does not intercept VMLOAD and VMSAVE, L2 chooses the physical address that they go to (APM2 15.5.2). On
hardware an address without memory reads as ones or zeros, and a write to it is lost; nobody is harmed. An L0 that
carries the instruction out for L2 maps that page itself; if it keeps a pointer to it as the one to L1's VMCB, the next
#VMEXIT is written through it, and L0 is gone.

With VmcbClean L1 may also say that the intercepts are those of the VMRUN before while they are not: a CPU then takes
either. An L0 that takes the old ones for its own decision, and the new ones for the merged VMCB, meets a VMRUN of L2
that it thought impossible.

An IDT without memory gives no gate that could be used, so that an exception of L2 ends in a shutdown or another exit.
An L0 that emulates what such an address reads as has to do it in the middle of the delivery; one that gives up there
ends L1 with all its guests.
"""

import pytest

from harness import VMEXIT, any_of, clause
from suites.lib.event_guest import EventGuest

NO_MEMORY = 0xF000_0000  # below the local APIC; no machine of the suite has memory there


@clause("core.preconditions.address_without_memory_in_l2")
@pytest.mark.dangerous
@pytest.mark.parametrize("mode", ["long64", "compat32"])
@pytest.mark.parametrize("np", [False, True], ids=["np_off", "np_on"])
@pytest.mark.parametrize("insn", ["vmload", "vmsave"])
def test_l0_survives(l1, insn, np, mode):
    """L2 goes on, or takes an exception; L1 lives, and a guest after this one runs."""
    if np:
        l1.need("NP")
    if mode == "compat32":
        insn = f"{insn} eax"
    guest = l1.guest(
        f"{insn}\ndone: vmmcall", mode=mode, np=np, no_intercept=["vmload", "vmsave"], vmcb={"rax": NO_MEMORY}
    )

    exit = guest.run()
    after = l1.guest("vmmcall").run()

    assert exit.matches(code=any_of(VMEXIT.VMMCALL, VMEXIT.EXCP_GP, VMEXIT.EXCP_UD))
    assert after.matches(code=VMEXIT.VMMCALL)


@clause("core.preconditions.address_without_memory_in_l2")
@pytest.mark.dangerous
def test_vmrun_whose_intercept_is_said_to_be_unchanged(l1):
    """The first VMRUN is refused, as it does not intercept VMRUN; the second one sets the bit, and clean bit 0 too."""
    l1.need("VmcbClean")
    guest = l1.guest("vmrun\ndone: vmmcall", vmcb={"rax": NO_MEMORY})
    intercepts = guest.vmcb["intercept_misc2"]
    guest.vmcb["intercept_misc2"] = intercepts & ~1
    first = guest.run()
    guest.vmcb["intercept_misc2"] = intercepts | 1
    guest.vmcb.update({"clean": 1, "rax": NO_MEMORY})

    second = guest.run()

    assert first.is_invalid
    assert second.is_invalid or second.matches(code=VMEXIT.VMRUN)


@clause("core.preconditions.idt_without_memory_in_l2")
@pytest.mark.dangerous
@pytest.mark.parametrize("np", [False, True], ids=["np_off", "np_on"])
def test_idt_without_memory(l1, np):
    """What the gates read as is the machine's affair: L2 comes out somehow, and a guest after this one runs."""
    if np:
        l1.need("NP")
    nothing = [f"exc_{vector}" for vector in range(32)]
    guest = EventGuest(l1, "ud2", mode="long64", no_intercept=nothing, np=np, vmcb={"idtr.base": NO_MEMORY})

    exit = guest.run()
    after = l1.guest("vmmcall").run()

    assert exit.ran
    assert after.matches(code=VMEXIT.VMMCALL)
