"""What is never cached: a change counts with all clean bits set.

TLB_CONTROL, the interrupt shadow, EVENTINJ, RFLAGS, RIP, RSP, RAX and what the exit reports belong to no group
(APM2 15.15.3), and neither do what VMLOAD and VMSAVE carry, nor the contents of the permission maps. An L0 that caches
RFLAGS with the segments, or takes its copy of a map for good while bit 1 is set, runs L2 with what L1 has replaced.
"""

from harness import RFLAGS, VMEXIT, cases, clause, masked, unchanged, write_msr
from harness.svm import MSR, inject_interrupt, inject_software
from harness.svm.msr import iopm_position, msrpm_position
from suites.lib.event_guest import EventGuest
from suites.lib.tlb_maps import AT_HERE, AT_THERE, far_guest, read_byte
from suites.vmcbclean.probes import ALL_ONES, EVERY

STATUS = RFLAGS.CF | RFLAGS.PF | RFLAGS.ZF | RFLAGS.SF | RFLAGS.OF | RFLAGS.DF


@clause("vmcbclean.never_cached")
@cases("clean", [EVERY, ALL_ONES])
def test_registers(l1, clean):
    """RIP, RSP, RAX and RFLAGS, all changed at once."""
    guest = l1.guest("vmmcall\nnext: mov rbx, rax\nmov rcx, rsp\npushfq\npop rdx\nend: vmmcall", vmcb={"rflags": 2})
    assert guest.run().ran

    exit = guest.resume("next", clean=clean, rax=0x1234_5678, rsp=guest.stack_top - 0x80, rflags=STATUS | 2)

    regs = {"rbx": 0x1234_5678, "rcx": guest.stack_top - 0x80, "rdx": STATUS | 2}
    assert exit.reached("end", regs=regs)


@clause("vmcbclean.never_cached")
@cases("clean", [EVERY, ALL_ONES])
def test_event_injection(l1, clean):
    """An event in the second run that the first one did not have, and none in the third."""
    guest = EventGuest(l1, "again: nop\nend: vmmcall", mapped=True)
    assert guest.run().matches(rip=guest["end"])
    guest.vmcb.update({"rip": guest["again"], "clean": clean, "eventinj": inject_interrupt(0x61)})
    assert guest.took(guest.run(), 0x61)
    guest.vmcb.update({"rip": guest["again"], "eventinj": 0})

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"])


@clause("vmcbclean.never_cached")
@cases("shadow", [0, 1])
def test_interrupt_shadow(l1, shadow):
    """A virtual interrupt that IF held back in the first run comes before L2's first instruction, or behind it."""
    code = "again: inc ebx\ninc ebx\nend: vmmcall"
    request = {"v_irq": 1, "v_intr_prio": 15, "v_intr_vector": 0x51, "rflags": 2}
    guest = EventGuest(l1, code, mapped=True, regs={"rbx": 0}, vmcb=request)
    assert guest.run().matches(rip=guest["end"], v_irq=1)
    guest.vmcb.update({"rip": guest["again"], "clean": EVERY, "rflags": RFLAGS.IF | 2, "interrupt_shadow": shadow})

    assert guest.took(guest.run(), 0x51, regs={"rbx": shadow})


@clause("vmcbclean.never_cached")
@cases("clean", [EVERY, ALL_ONES])
def test_tlb_control(l1, clean):
    """L1 turns an entry of L2's tables; the flush that it asks for is made."""
    guest, far = far_guest(l1, "again: mov al, [rbx]\nend: vmmcall")
    assert l1.expect("the byte that L2 reads first", read_byte(guest.run()), AT_HERE, width_bytes=1)
    exit = guest.resume("again", tlb_control=0)
    assert exit.reached("end")
    far.turn(l1)

    exit = guest.resume("again", clean=clean, tlb_control=1)

    assert l1.expect("the byte that L2 reads after the flush", read_byte(exit), AT_THERE, width_bytes=1)


@clause("vmcbclean.never_cached")
@cases("clean", [EVERY, ALL_ONES])
def test_what_the_exit_reports(l1, clean):
    """Three exits in turn, each reported as what it is."""
    code = "out: out 0x55, al\nin: in ax, dx\ncpuid: cpuid\nend: vmmcall"
    guest = l1.guest(code, intercept=["ioio", "cpuid"], regs={"rdx": 0x1230})
    maps = l1.scratch(3)
    guest.write(maps, b"\xff" * 0x3000)
    guest.vmcb["iopm_base_pa"] = maps
    exit = guest.run()
    assert exit.matches(code=VMEXIT.IOIO, rip=guest["out"], info1=masked(0x55 << 16 | 0x10, 0xFFFF_0071))
    exit = guest.resume("in", clean=clean)
    assert exit.matches(code=VMEXIT.IOIO, rip=guest["in"], info1=masked(0x1230 << 16 | 0x21, 0xFFFF_0071))
    exit = guest.resume("cpuid")
    assert exit.matches(code=VMEXIT.CPUID, rip=guest["cpuid"], clean=unchanged)
    assert guest.resume("end").reached("end")


@clause("vmcbclean.nrip_input")
@cases("clean", [EVERY, ALL_ONES])
def test_nrip_of_an_injected_software_interrupt(l1, clean):
    """The frame's return address is the nRIP that L1 wrote after the first run."""
    guest = EventGuest(l1, "again: nop\nend: vmmcall\nelsewhere: nop", mapped=True)
    assert guest.run().matches(rip=guest["end"])
    event = {"eventinj": inject_software(0x61), "nrip": guest["elsewhere"]}
    guest.vmcb.update({"rip": guest["again"], "clean": clean} | event)

    exit = guest.run()

    assert guest.took(exit, 0x61)
    assert l1.expect("return address in the frame", guest.frame(exit).ip, guest["elsewhere"])


MAPS = {
    "iopm": ("insn: in al, 0x80\nend: vmmcall", "iopm_base_pa", 3, iopm_position(0x80), VMEXIT.IOIO),
    "msrpm": ("mov ecx, 0x174\ninsn: rdmsr\nend: vmmcall", "msrpm_base_pa", 2, msrpm_position(0x174), VMEXIT.MSR),
}


@clause("vmcbclean.map_contents")
@cases("clean", [EVERY, ALL_ONES])
@cases("code, field, pages, position, exit_code", MAPS)
def test_permission_changed_in_the_map(l1, code, field, pages, position, exit_code, clean):
    """A permission is taken away and given back; the map stays where it is."""
    byte, bit = position
    guest = l1.guest("again: " + code, intercept=["ioio", "msr"])
    base = guest.vmcb[field] = l1.scratch(pages)
    assert guest.run().reached("end")
    l1.write(base + byte, bytes([1 << bit]))

    assert guest.resume("again", clean=clean).matches(code=exit_code, rip=guest["insn"])

    l1.write(base + byte, b"\0")
    assert guest.resume("again").reached("end")


def _msr(number):
    return f"mov ecx, {number:#x}\nrdmsr\nshl rdx, 32\nor rax, rdx"


VMLOADED = {
    "fs_base": ("fs.base", _msr(MSR.FS_BASE), 0x0123_4560),
    "gs_base": ("gs.base", _msr(MSR.GS_BASE), 0x0234_5670),
    "fs_selector": ("fs.selector", "xor eax, eax\nmov ax, fs", 0x1238),
    "gs_selector": ("gs.selector", "xor eax, eax\nmov ax, gs", 0x2340),
    "tr_selector": ("tr.selector", "xor eax, eax\nstr ax", 0x0048),
    "ldtr_selector": ("ldtr.selector", "xor eax, eax\nsldt ax", 0x0050),
    "kernel_gs_base": ("kernel_gs_base", _msr(MSR.KERNEL_GS_BASE), 0x0345_6780),
    "star": ("star", _msr(MSR.STAR), 0x0023_0010_1122_3344),
    "lstar": ("lstar", _msr(MSR.LSTAR), 0x0456_7890),
    "cstar": ("cstar", _msr(MSR.CSTAR), 0x0567_8900),
    "sfmask": ("sfmask", _msr(MSR.SFMASK), 0x0004_7700),
    "sysenter_cs": ("sysenter_cs", _msr(MSR.SYSENTER_CS), 0x0058),
    "sysenter_esp": ("sysenter_esp", _msr(MSR.SYSENTER_ESP), 0x0678_9000),
    "sysenter_eip": ("sysenter_eip", _msr(MSR.SYSENTER_EIP), 0x0789_0000),
}


@clause("vmcbclean.vmload_state")
@cases("field, code, value", VMLOADED)
def test_what_vmload_loads(l1, field, code, value):
    """L1 writes the field after the first run."""
    guest = l1.guest(f"again: {code}\nend: vmmcall")
    assert guest.run(vmload=True).reached("end")

    exit = guest.resume("again", clean=EVERY, run={"vmload": True}, **{field.replace(".", "__"): value})

    assert exit.reached("end", rax=value)


@clause("vmcbclean.vmload_state")
def test_what_vmsave_stores(l1):
    """L2 writes FS.base and LSTAR, L1's VMSAVE stores them into the VMCB, and its VMLOAD brings them back."""
    write = write_msr(MSR.FS_BASE, 0x0123_4560) + write_msr(MSR.LSTAR, 0x0456_7890).replace("write:", "")
    code = f"{write}vmmcall\nnext: {_msr(MSR.LSTAR)}\nmov rbx, rax\n{_msr(MSR.FS_BASE)}\nend: vmmcall"
    guest = l1.guest(code)
    assert guest.run(vmload=True, vmsave=True).ran

    exit = guest.resume("next", clean=EVERY, run={"vmload": True, "vmsave": True})

    assert exit.reached("end", rax=0x0123_4560, regs={"rbx": 0x0456_7890})
