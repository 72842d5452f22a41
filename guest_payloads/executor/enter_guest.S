/* VMRUN and the instructions right after #VMEXIT.
 *
 * After #VMEXIT nothing is to be trusted but RIP: the GPRs are L2's, and RSP is what L0 gave back. So every value goes to
 * a static area by a RIP-relative store, and there is one copy of the code a CPU. The order matters: MOV leaves RFLAGS
 * alone, so flags can be pushed once RSP is known to be ours again.
 */
#include "layout.h"

    .macro ENTER_GUEST n
    .section .bss
    .balign 16
    .global vmrun_area_\n
vmrun_area_\n:
    .skip AREA_SIZE

    .section .text
    .code64
    .global enter_guest_\n, vmrun_insn_\n, vmrun_after_\n
enter_guest_\n:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, vmrun_area_\n + AREA_RSP_KEPT(%rip)
    pushq vmrun_area_\n + AREA_RFLAGS_IN(%rip)
    movq vmrun_area_\n + AREA_IN + 8 * 0(%rip), %rax
    movq vmrun_area_\n + AREA_IN + 8 * 1(%rip), %rcx
    movq vmrun_area_\n + AREA_IN + 8 * 2(%rip), %rdx
    movq vmrun_area_\n + AREA_IN + 8 * 3(%rip), %rbx
    movq vmrun_area_\n + AREA_IN + 8 * 5(%rip), %rbp
    movq vmrun_area_\n + AREA_IN + 8 * 6(%rip), %rsi
    movq vmrun_area_\n + AREA_IN + 8 * 7(%rip), %rdi
    movq vmrun_area_\n + AREA_IN + 8 * 8(%rip), %r8
    movq vmrun_area_\n + AREA_IN + 8 * 9(%rip), %r9
    movq vmrun_area_\n + AREA_IN + 8 * 10(%rip), %r10
    movq vmrun_area_\n + AREA_IN + 8 * 11(%rip), %r11
    movq vmrun_area_\n + AREA_IN + 8 * 12(%rip), %r12
    movq vmrun_area_\n + AREA_IN + 8 * 13(%rip), %r13
    movq vmrun_area_\n + AREA_IN + 8 * 14(%rip), %r14
    movq vmrun_area_\n + AREA_IN + 8 * 15(%rip), %r15
    popfq
vmrun_insn_\n:
    vmrun %rax
vmrun_after_\n:
    movq %rax, vmrun_area_\n + AREA_OUT + 8 * 0(%rip)
    movq %rcx, vmrun_area_\n + AREA_OUT + 8 * 1(%rip)
    movq %rdx, vmrun_area_\n + AREA_OUT + 8 * 2(%rip)
    movq %rbx, vmrun_area_\n + AREA_OUT + 8 * 3(%rip)
    movq %rbp, vmrun_area_\n + AREA_OUT + 8 * 5(%rip)
    movq %rsi, vmrun_area_\n + AREA_OUT + 8 * 6(%rip)
    movq %rdi, vmrun_area_\n + AREA_OUT + 8 * 7(%rip)
    movq %r8, vmrun_area_\n + AREA_OUT + 8 * 8(%rip)
    movq %r9, vmrun_area_\n + AREA_OUT + 8 * 9(%rip)
    movq %r10, vmrun_area_\n + AREA_OUT + 8 * 10(%rip)
    movq %r11, vmrun_area_\n + AREA_OUT + 8 * 11(%rip)
    movq %r12, vmrun_area_\n + AREA_OUT + 8 * 12(%rip)
    movq %r13, vmrun_area_\n + AREA_OUT + 8 * 13(%rip)
    movq %r14, vmrun_area_\n + AREA_OUT + 8 * 14(%rip)
    movq %r15, vmrun_area_\n + AREA_OUT + 8 * 15(%rip)
    movq %rsp, vmrun_area_\n + AREA_RSP_OUT(%rip)
    movq vmrun_area_\n + AREA_RSP_KEPT(%rip), %rsp
    pushfq
    popq vmrun_area_\n + AREA_RFLAGS_OUT(%rip)
    pushq $2
    popfq
    movw %cs, vmrun_area_\n + AREA_SELECTORS + 0(%rip)
    movw %ss, vmrun_area_\n + AREA_SELECTORS + 2(%rip)
    movw %ds, vmrun_area_\n + AREA_SELECTORS + 4(%rip)
    movw %es, vmrun_area_\n + AREA_SELECTORS + 6(%rip)
    movl $SEL_DATA, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret
    /* A fault of VMRUN goes on where #VMEXIT would have gone; take_vector has noted it. */
    .pushsection .fixups, "a"
    .quad vmrun_insn_\n, vmrun_after_\n
    .quad vmrun_after_\n, vmrun_after_\n
    .popsection
    .endm

    ENTER_GUEST 0
    ENTER_GUEST 1
