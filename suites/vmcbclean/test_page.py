"""Which VMCB it is: the page decides.

The CPU knows a VMCB by its physical address, on each CPU for itself; where the address matches none that it holds, it
takes the clean field as 0 (APM2 15.15, 15.15.2). The ASID has no part in it. An L0 that remembers "the last VMCB" and
compares something else, or nothing, runs one guest with another one's intercepts and page tables.
"""

from harness import any_of, cases, clause
from harness.scenario import places
from harness.svm import Clean
from suites.vmcbclean.probes import ALL, ALL_ONES, EVERY, Probe

# Probes whose two values lie in the VMCB alone, so that two VMCBs can hold one each.
PAIRS = {name: probe for name, probe in ALL.items() if name not in ("cr_write", "dr_write")}
DR7_A, DR7_B = 0x400, 0x00DF_0400  # no breakpoint is enabled
READ = "again: mov rax, dr7\nend: vmmcall"


@clause("vmcbclean.two_vmcbs", "vmcbclean.absent")
@cases("probe", PAIRS)
def test_two_vmcbs_take_turns(l1, probe: Probe):
    """One has the old value, the other the new one, all else is the same; both have all bits set from then on."""
    first, second = probe.start(l1), probe.start(l1)
    second.change()
    assert first.is_old()
    assert second.is_new()
    for _ in range(2):
        assert first.is_old(EVERY)
        assert second.is_new(EVERY)


@clause("vmcbclean.asid_is_no_key", "vmcbclean.absent")
@cases("asids", {"same": (1, 1), "other": (1, 2)})
def test_asid_does_not_matter(l1, asids):
    """Two VMCBs, under one ASID or two."""
    guests = [l1.guest(READ, vmcb={"dr7": dr7, "asid": asid}) for dr7, asid in zip((DR7_A, DR7_B), asids, strict=True)]
    for clean in (0, EVERY, EVERY):
        for guest, dr7 in zip(guests, (DR7_A, DR7_B), strict=True):
            guest.vmcb.update({"rip": guest["again"], "clean": clean})
            assert guest.run().reached("end", rax=dr7)


@clause("vmcbclean.asid_is_no_key", "vmcbclean.absent")
def test_another_asid(l1):
    """Bit 2 is clear, all others are set: L2 goes on with the rest as it was."""
    guest = l1.guest(READ, vmcb={"dr7": DR7_A})
    assert guest.run().reached("end", rax=DR7_A)

    exit = guest.resume("again", asid=min(2, l1.cpuid.nasid - 1), clean=EVERY & ~(1 << Clean.ASID))

    assert exit.reached("end", rax=DR7_A)


# Pages of the arena that nothing else uses: they were no VMCB since the boot, but for this very test.
VIRGIN = {
    "every_bit": (places.VMCB + 0x4000, EVERY),
    "all_ones": (places.VMCB + 0x5000, ALL_ONES),
    "bit6": (places.VMCB + 0x6000, 1 << Clean.DRX),
}


@clause("vmcbclean.fresh_page", "vmcbclean.absent")
@cases("page, clean", VIRGIN)
def test_fresh_page(l1, page, clean):
    """The first VMRUN of a page says that nothing was changed. Another VMCB has run before."""
    assert l1.guest(READ, vmcb={"dr7": DR7_A}).run().reached("end", rax=DR7_A)
    guest = l1.guest(READ, vmcb={"dr7": DR7_B, "clean": clean}, vmcb_pa=page)

    assert guest.run().reached("end", rax=DR7_B)


@clause("vmcbclean.fresh_page", "vmcbclean.absent")
def test_vmcb_moved_to_another_page(l1):
    """L1 copies a VMCB that has run to a fresh page, changes it there, and says that nothing was changed."""
    guest = l1.guest(READ, vmcb={"dr7": DR7_A})
    assert guest.run().reached("end", rax=DR7_A)
    moved = l1.guest(READ, vmcb_pa=places.VMCB + 0x8000)
    rip, rsp = moved.vmcb["rip"], moved.vmcb["rsp"]
    moved.vmcb.data[:] = guest.vmcb.data
    moved.vmcb.update({"rip": rip, "rsp": rsp, "dr7": DR7_B, "clean": EVERY})

    assert moved.run().reached("end", rax=DR7_B)
    assert guest.resume("again", clean=EVERY).reached("end", rax=DR7_A)


@clause("vmcbclean.page_reused")
@cases("clean", [EVERY, ALL_ONES])
def test_page_reused_for_another_vmcb(l1, clean):
    """The page holds another guest now, whose bits claim that it does not. With 0 it runs."""
    pa = places.VMCB
    first = l1.guest(READ, vmcb={"dr7": DR7_A}, vmcb_pa=pa)
    assert first.run().reached("end", rax=DR7_A)
    second = l1.guest(
        "again: mov eax, dr7\nend: vmmcall", mode="prot32", vmcb={"dr7": DR7_B, "clean": clean}, vmcb_pa=pa
    )

    exit = second.run()

    mixed = exit.is_invalid or l1.expect("DR7 that is saved", exit.vmcb["dr7"], any_of(DR7_A, DR7_B))
    assert mixed
    second.rewind()
    image = l1.vmcb_image("prot32")
    image.update({"dr7": DR7_B, "rip": second["again"], "rsp": second.stack_top})
    second.vmcb.data[:] = image.data
    assert second.run().reached("end", rax=DR7_B)
