"""A machine that offers no SVM.

Where Fn8000_0001 ECX[2] is 0 the SVM instructions do not exist: #UD (APM2 15.4 and their pages in volume 3). An L0
whose administrator switched nesting off for a guest, and that hides the bit only, leaves L1 the instructions, and with
them code that nobody counted on. Run it with `--cpu max,-svm`.
"""

from harness import any_of, cases, clause
from harness.svm.msr import MSR, VM_CR_SVMDIS


@clause("policy.coherence.without_svm")
@cases("insn", ["vmrun", "vmload", "vmsave", "clgi", "stgi", "invlpga"])
def test_instructions_do_not_exist(l1, insn):
    code = f"mov rax, r8\nmov ecx, 1\nprobe: {insn}"

    assert l1.code(code, {"r8": l1.scratch()}).faults("#UD", at="probe")


@clause("policy.coherence.msrs_without_svm")
def test_vm_cr(l1):
    """#GP(0), 0, or a value that says that SVM is off."""
    read = l1.rdmsr(MSR.VM_CR)

    if read.fault:
        assert read.faults("#GP", 0)
    else:
        assert l1.expect("VM_CR, or its SVMDIS", read.value & VM_CR_SVMDIS or read.value, any_of(0, VM_CR_SVMDIS))


@clause("policy.coherence.msrs_without_svm")
def test_vm_hsave_pa(l1):
    read = l1.rdmsr(MSR.VM_HSAVE_PA)

    assert read.faults("#GP", 0) if read.fault else read.reads(0)
