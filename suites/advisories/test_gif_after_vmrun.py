"""VMRUN without CLGI: GIF is 0 after each #VMEXIT.

No number, but mended together with the five of May 2026: KVM (before 6.12.86 and 6.18.27) and Xen (before the commit
5fa2c5849f of May 2026) left GIF as it was when they refused a VMRUN, because a hypervisor that executes CLGI first, as
all do, does not notice. #VMEXIT clears GIF, also the one with VMEXIT_INVALID (APM2 15.6, 15.17). Where it is left at 1
an interrupt reaches L1 right behind VMRUN, with L2's FS, GS and TR still in the CPU. core.exit.gif_clear asks after
each other VMRUN of the suites, all of which begin with GIF=0.
"""

from harness import VMEXIT, cases, clause

VECTOR = 0x51
WAIT = "mov ecx, 20000\n{0}: pause\ndec ecx\njnz {0}"
# L1 executes VMRUN with GIF=1 and IF=1, sends itself an interrupt, waits, and only then executes STGI.
CODE = f"""
    vmrun
    mov edi, 0xfee00300
    mov dword ptr [rdi], {0x4_4000 | VECTOR:#x}
    {WAIT.format("before")}
    mov r14, r15
    stgi
    {WAIT.format("behind")}
    mov r13, r15
    cli
"""


@clause("advisories.gif.clear_without_clgi")
@cases(
    "fields, code",
    {
        "accepted": ({}, VMEXIT.VMMCALL),
        "asid_0": ({"asid": 0}, None),
        "cr0_bit32": ({"cr0": 1 << 32 | 0x8000_0031}, None),
        "no_vmrun_intercept": ({"intercept_misc2": 2}, None),
        "efer_without_svme": ({"efer": 0x500}, None),
    },
)
def test_vmrun_with_gif_set(l1, fields, code):
    guest = l1.guest("end: vmmcall", vmcb=fields)

    exit = guest.run_in(CODE, {"r15": 0, "r14": 9, "r13": 9}, interrupts=True, handlers={VECTOR: "inc r15"})

    assert exit.is_invalid if code is None else exit.matches(code=code)
    assert exit.l1.returned
    assert l1.expect("interrupts that L1 took before its STGI", exit.l1.reg("r14"), 0)
    assert l1.expect("interrupts that it took in all", exit.l1.reg("r13"), 1)
