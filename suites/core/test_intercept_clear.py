"""Instructions whose intercept is clear.

L2 executes them as on a machine of its own, and no other intercept catches them, its neighbours in the word least of
all (APM2 15.7, 15.9). A wrong L0 intercepts them for its own needs and hands the exit to L1, which did not ask for it;
or it mistakes one bit for another. Each test looks for what the instruction leaves behind.
"""

import pytest

from harness import VMEXIT, any_of, clause, masked, unchanged
from suites.lib.intercepting import LDT_SELECTOR, OSXSAVE, TSS_SELECTOR, case, set_all_but, with_tables

GDTR = {"gdtr.base": 0x12_3456_7000, "gdtr.limit": 0x4321}
IDTR = {"idtr.base": 0x76_5432_1000, "idtr.limit": 0x1234}
FLAGS = 0xCD7  # all the arithmetic flags and DF
UPPER = 0xFFFF_FFFF_0000_0000

both = pytest.mark.parametrize("others", [False, True], ids=["alone", "others_set"])
crowded = pytest.mark.parametrize("others", [True], ids=["others_set"])


def made(l1, code, own, others, *, handler=None, **options):
    """A 64-bit guest with a GDT and an IDT, in which these intercepts are clear and, if asked, all others set."""
    guest = l1.guest(code, **options)
    fields = {name: guest.vmcb[name] for name in ("gdtr.base", "gdtr.limit", "idtr.base", "idtr.limit")}
    with_tables(l1, guest, handler)
    guest.vmcb.update({name: value for name, value in fields.items() if name in options.get("vmcb", {})})
    if others:
        set_all_but(guest.vmcb, own)
    return guest


@crowded
@pytest.mark.parametrize(
    ("insn", "fields"), [case("sgdt", "sgdt", GDTR, id="sgdt"), case("sidt", "sidt", IDTR, id="sidt")]
)
def test_table_register_is_stored(l1, insn, fields, others):
    """The base and limit of L2, not those that L0 runs it with."""
    place = l1.scratch(1)
    guest = made(l1, f"{insn} [rbx]\nend: vmmcall", [insn], others, vmcb=fields, regs={"rbx": place})
    base, limit = fields.values()

    exit = guest.run(read={"stored": (place, 10)})

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"])
    stored = int.from_bytes(exit.memory["stored"], "little")
    assert l1.expect("limit and base as stored", stored, base << 16 | limit, width_bytes=10)


@crowded
@pytest.mark.parametrize(
    ("insn", "register"), [case("lgdt", "lgdt", "gdtr", id="lgdt"), case("lidt", "lidt", "idtr", id="lidt")]
)
def test_table_register_is_loaded(l1, insn, register, others):
    place = l1.scratch(1)
    guest = made(l1, f"{insn} [rbx]\nend: vmmcall", [insn], others, regs={"rbx": place})
    guest.write(place, (0x12_3456_7000 << 16 | 0x4321).to_bytes(10, "little"))

    loaded = {f"{register}.base": 0x12_3456_7000, f"{register}.limit": 0x4321}
    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"], fields=loaded)


@crowded
@pytest.mark.parametrize(
    ("insn", "field"), [case("sldt", "sldt", "ldtr.selector", id="sldt"), case("str", "str", "tr.selector", id="str")]
)
def test_selector_is_stored(l1, insn, field, others):
    """The selector that L1 loaded for L2 with VMLOAD."""
    vmcb = {"ldtr.selector": 0x1238, "tr.selector": 0x4568}
    guest = made(l1, f"{insn} rdx\nend: vmmcall", [insn], others, vmcb=vmcb)

    exit = guest.run(vmload=True)

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"], regs={"rdx": vmcb[field]})


@crowded
@pytest.mark.parametrize(
    ("insn", "selector", "loaded"),
    [
        case("lldt", "lldt", LDT_SELECTOR, {"ldtr.selector": LDT_SELECTOR, "ldtr.limit": 0xFFF}, id="lldt"),
        case("ltr", "ltr", TSS_SELECTOR, {"tr.selector": TSS_SELECTOR, "tr.limit": 0x67}, id="ltr"),
    ],
)
def test_selector_is_loaded(l1, insn, selector, loaded, others):
    """Seen by the VMSAVE that L1 does after the exit."""
    guest = made(l1, f"{insn} dx\nend: vmmcall", [insn], others, regs={"rdx": selector})

    exit = guest.run(vmsave=True)

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"], fields=loaded)


@both
@pytest.mark.parametrize(
    ("insn", "written"),
    [
        case("rdtsc", "rdtsc", ("rax", "rdx"), id="rdtsc"),
        case("rdtscp", "rdtscp", ("rax", "rdx", "rcx"), id="rdtscp"),
        case("rdpru", "rdpru", ("rax", "rdx"), id="rdpru"),
    ],
)
def test_counter_is_read(l1, insn, written, others):
    """The upper halves of the registers are zero afterwards. ECX 0 is MPERF to RDPRU."""
    code = f"mov rdx, -1\nmov rax, rdx\nmovabs rcx, 0x1234567800000000\n{insn}\nend: vmmcall"
    guest = made(l1, code, [insn], others)

    exit = guest.run()

    values = {name: masked(0, UPPER) for name in written if name != "rax"}
    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"], rax=masked(0, UPPER), regs=values)


@clause("core.intercept.cpuid")
@both
def test_cpuid_answers(l1, others):
    """What L1 gets for leaf 0, in which nothing changes with the mode."""
    eax, ebx, ecx, edx = l1.cpuid_now(0)
    guest = made(l1, "cpuid\nend: vmmcall", ["cpuid"], others, vmcb={"rax": 0}, regs={"rcx": 0})

    exit = guest.run()

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"], rax=eax, regs={"rbx": ebx, "rcx": ecx, "rdx": edx})


@clause("core.intercept.pushf")
@both
def test_pushf_pushes(l1, others):
    guest = made(l1, "pushfq\npop rdx\nend: vmmcall", ["pushf"], others, vmcb={"rflags": FLAGS})

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"], regs={"rdx": FLAGS})


@clause("core.intercept.popf")
@both
def test_popf_pops(l1, others):
    guest = made(l1, f"push {FLAGS}\npopfq\nend: vmmcall", ["popf"], others)

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"], rflags=FLAGS)


@clause("core.intercept.iret")
@both
def test_iret_returns(l1, others):
    code = f"mov rax, rsp\npush 0x10\npush rax\npush {FLAGS}\npush 8\npush offset there\niretq\nnop\nthere: vmmcall"
    guest = made(l1, code, ["iret"], others)

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["there"], rflags=FLAGS, rsp=unchanged)


@clause("core.intercept.rsm")
@pytest.mark.parametrize("mode", ["long64", "real16"])
def test_rsm_is_no_instruction_outside_smm(l1, mode):
    """Every other intercept is set."""
    guest = l1.guest("nop\ninsn: rsm\nvmmcall", mode=mode)
    set_all_but(guest.vmcb, ["rsm"])

    assert guest.run().matches(code=VMEXIT.EXCP_UD, rip=guest["insn"])


@both
@pytest.mark.parametrize("vector", [case("intn", v, id=f"{v:02x}") for v in (0x0D, 0x80)])
def test_software_interrupt_is_delivered(l1, vector, others):
    """Through the IDT. The intercepts of exceptions are all set and do not see it, even with an exception's vector."""
    code = f"start: .byte 0xcd, {vector}\nbehind: vmmcall\nhandler: mov rdx, [rsp]\nend: vmmcall"
    guest = made(l1, code, ["intn"], others, handler="handler")

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"], regs={"rdx": guest["behind"]})


@clause("core.intercept.icebp")
@both
def test_icebp_is_delivered(l1, others):
    """Through vector 1; the intercept of #DB is set and does not see it."""
    code = "start: .byte 0xf1\nbehind: vmmcall\nhandler: mov rdx, [rsp]\nend: vmmcall"
    guest = made(l1, code, ["icebp"], others, handler="handler")

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"], regs={"rdx": guest["behind"]})


@pytest.mark.parametrize("insn", [case("intn", "int3", id="int3"), case("intn", "into", id="into")])
def test_other_interrupting_instruction_is_no_software_interrupt(l1, insn):
    """INT3 and INTO are exceptions: with INTn intercepted too their own intercepts catch them, at the instruction."""
    mode, code = ("long64", VMEXIT.EXCP_BP) if insn == "int3" else ("prot32", VMEXIT.EXCP_OF)
    guest = l1.guest(f"nop\nstart: {insn}\nvmmcall", mode=mode, intercept=["intn", "icebp"], vmcb={"rflags": 0x802})

    assert guest.run().matches(code=code, rip=guest["start"])


@crowded
@pytest.mark.parametrize(
    ("insn", "own"),
    [
        case("invd", "invd", "invd", id="invd", marks=[pytest.mark.dangerous]),
        case("wbinvd", "wbinvd", "wbinvd", id="wbinvd"),
        case("wbnoinvd", ".byte 0xf3, 0x0f, 0x09", "wbinvd", id="wbnoinvd"),
        case("pause", "pause", "pause", id="pause"),
        case("invlpg", "invlpg [rbx]", "invlpg", id="invlpg"),
        case("invlpga", "invlpga", "invlpga", id="invlpga"),
        case("stgi", "stgi", "stgi", id="stgi"),
        case("clgi", "clgi", "clgi", id="clgi"),
        case("monitor", "monitor", "monitor", id="monitor"),
        case("monitorx", "monitorx", "monitor", id="monitorx"),
        case("invpcid", "invpcid rdx, [rbx]", "invpcid", id="invpcid"),
    ],
)
def test_instruction_without_result_runs_on(l1, insn, own, others):
    """Nothing to see but that L2 comes to its next instruction with its registers as they were."""
    place = l1.scratch(1)
    registers = {"rbx": place, "rcx": 0, "rdx": 2 if own == "invpcid" else 0}
    guest = made(l1, f"{insn}\nend: vmmcall", [own], others, vmcb={"rax": place}, regs=registers)

    exit = guest.run()

    same = dict.fromkeys(("rbx", "rcx", "rdx", "rsi", "r15"), unchanged)
    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"], rax=unchanged, regs=same)


@both
@pytest.mark.parametrize("insn", [case("mwait", "mwait", id="mwait"), case("mwaitx", "mwaitx", id="mwaitx")])
def test_mwait_waits_or_runs_on(l1, insn, others):
    """It may end its wait at any time; the watchdog's interrupt ends it at the latest, behind the instruction."""
    guest = made(l1, f"{insn}\nend: vmmcall", ["mwait", "mwait_armed"], others, regs={"rcx": 0, "rbx": 0})

    assert guest.run(watchdog_us=50_000).matches(code=any_of(VMEXIT.VMMCALL, VMEXIT.INTR), rip=guest["end"])


@clause("core.intercept.xsetbv")
@both
def test_xsetbv_writes(l1, others):
    """The value that XCR0 has already, so that nothing is left behind."""
    code = "xor ecx, ecx\nxgetbv\nmov rsi, rax\nxsetbv\nxgetbv\nend: vmmcall"
    xcr0 = l1.host_state().get("XCR0", 1)
    guest = made(l1, code, ["xsetbv"], others, vmcb=OSXSAVE, regs={"rcx": 0})

    exit = guest.run()

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"], rax=masked(xcr0, 0xFFFF_FFFF))


@both
@pytest.mark.parametrize("np", [False, True], ids=["np_off", "np_on"])
@pytest.mark.parametrize("nothing", [case("vmsave", None, id="vmsave")])
def test_vmsave_stores(l1, nothing, others, np):
    """Into L2's memory at rAX, from what L1 loaded for L2."""
    if np:
        l1.need("NP")
    place = l1.scratch(1)
    guest = made(
        l1, "vmsave\nend: vmmcall", ["vmsave"], others, np=np, vmcb={"rax": place, "star": 0x1122_3344_5566_7788}
    )

    exit = guest.run(vmload=True, read={"star": (place + 0x600, 8)})

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"])
    assert l1.expect("STAR as stored", int.from_bytes(exit.memory["star"], "little"), 0x1122_3344_5566_7788)


@both
@pytest.mark.parametrize("np", [False, True], ids=["np_off", "np_on"])
@pytest.mark.parametrize("nothing", [case("vmload", None, id="vmload")])
def test_vmload_loads(l1, nothing, others, np):
    """From L2's memory at rAX; L1's VMSAVE after the exit shows it."""
    if np:
        l1.need("NP")
    place = l1.scratch(1)
    guest = made(l1, "vmload\nend: vmmcall", ["vmload"], others, np=np, vmcb={"rax": place})
    image = l1.vmcb_image()
    image["star"] = 0x8877_6655_4433_2211
    guest.write(place, bytes(image))

    exit = guest.run(vmload=True, vmsave=True)

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"], star=0x8877_6655_4433_2211)


@pytest.mark.parametrize(
    ("insn", "other"),
    [
        case("rdtscp", "rdtsc", "rdtscp", id="rdtsc_by_rdtscp"),
        case("rdtscp", "rdtscp", "rdtsc", id="rdtscp_by_rdtsc"),
        case("invd", "wbinvd", "invd", id="wbinvd_by_invd"),
        case("invlpg", "invlpg [rbx]", "invlpga", id="invlpg_by_invlpga"),
        case("invlpga", "invlpga", "invlpg", id="invlpga_by_invlpg"),
        case("pushf", "pushfq", "popf", id="pushf_by_popf"),
    ],
)
def test_nearest_relative_does_not_catch_it(l1, insn, other):
    """One instruction, and the one intercept that it could be confused with."""
    place = l1.scratch(1)
    guest = l1.guest(f"{insn}\nend: vmmcall", intercept=[other], regs={"rbx": place, "rcx": 0}, vmcb={"rax": place})

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"])


@pytest.mark.parametrize(
    "nothing", [pytest.param(None, id="hlt", marks=pytest.mark.clause("core.intercept.hlt_wakes"))]
)
@pytest.mark.parametrize(
    ("rflags", "others"), [(0x2, False), (0x202, False), (0x202, True)], ids=["if0", "if1", "if1_others_set"]
)
def test_hlt_waits_for_an_interrupt_of_l1(l1, nothing, rflags, others):
    """The watchdog's timer ends the wait: L1 masks with its own IF (V_INTR_MASKING), so L2's does not count."""
    guest = made(l1, "hlt\nbehind: vmmcall", ["hlt"], others, vmcb={"rflags": rflags})

    assert guest.run(watchdog_us=50_000, deadline_s=2.0).matches(code=VMEXIT.INTR, rip=guest["behind"])


@pytest.mark.parametrize("both_bits", [False, True], ids=["conditional", "both"])
@pytest.mark.parametrize("nothing", [case("mwait_armed", None, id="armed")])
def test_mwait_with_the_monitor_armed(l1, nothing, both_bits):
    place = l1.scratch(1)
    bits = ["mwait_armed", "mwait"] if both_bits else ["mwait_armed"]
    code = "monitor\nmov eax, 0\nstart: mwait\nvmmcall"
    guest = l1.guest(code, intercept=bits, vmcb={"rax": place}, regs={"rcx": 0, "rdx": 0})

    assert guest.run().matches(code=VMEXIT.MWAIT_ARMED, rip=guest["start"])


@pytest.mark.parametrize("nothing", [case("mwait_armed", None, id="not_armed")])
def test_mwait_with_the_monitor_not_armed(l1, nothing):
    """Both intercepts are set: the unconditional one catches it."""
    guest = l1.guest("start: mwait\nvmmcall", intercept=["mwait_armed", "mwait"], vmcb={"rax": 0}, regs={"rcx": 0})

    assert guest.run().matches(code=VMEXIT.MWAIT, rip=guest["start"])
