/* Single instructions that may fault (they return 0, or 1 after a fault), the guard, and the call of an L1 blob. */
#include "layout.h"

    .section .text
    .code64

    /* If the instruction at `from` faults, go on at `to`. */
    .macro FIXUP from, to
    .pushsection .fixups, "a"
    .quad \from, \to
    .popsection
    .endm

    /* int try_rdmsr(u32 msr, u64 *value) */
    .global try_rdmsr
try_rdmsr:
    movl %edi, %ecx
1:  rdmsr
    movl %eax, (%rsi)
    movl %edx, 4(%rsi)
    xorl %eax, %eax
    ret
    FIXUP 1b, failed

    /* int try_wrmsr(u32 msr, u64 value) */
    .global try_wrmsr
try_wrmsr:
    movl %edi, %ecx
    movl %esi, %eax
    movq %rsi, %rdx
    shrq $32, %rdx
1:  wrmsr
    xorl %eax, %eax
    ret
    FIXUP 1b, failed

    /* int try_xsetbv0(u64 value) */
    .global try_xsetbv0
try_xsetbv0:
    xorl %ecx, %ecx
    movl %edi, %eax
    movq %rdi, %rdx
    shrq $32, %rdx
1:  xsetbv
    xorl %eax, %eax
    ret
    FIXUP 1b, failed

    /* int try_vmload(u64 rax), try_vmsave(u64 rax) */
    .global try_vmload
try_vmload:
    movq %rdi, %rax
1:  vmload %rax
    xorl %eax, %eax
    ret
    FIXUP 1b, failed

    .global try_vmsave
try_vmsave:
    movq %rdi, %rax
1:  vmsave %rax
    xorl %eax, %eax
    ret
    FIXUP 1b, failed

    /* int try_clgi(void), try_stgi(void) */
    .global try_clgi
try_clgi:
1:  clgi
    xorl %eax, %eax
    ret
    FIXUP 1b, failed

    .global try_stgi
try_stgi:
1:  stgi
    xorl %eax, %eax
    ret
    FIXUP 1b, failed

failed:
    movl $1, %eax
    ret

    /* void open_window(void): a few instructions with IF=1, so that what is pending is taken. */
    .global open_window
open_window:
    sti
    .rept 8
    nop
    .endr
    jmp 1f                                      /* emulators look for interrupts where a block of code ends */
1:  nop
    jmp 2f
2:  nop
    cli
    ret

    /* void set_data_segments(void): DS, ES, SS flat; FS and GS are left, they may be a scenario's. */
    .global set_data_segments
set_data_segments:
    movl $SEL_DATA, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    ret

    /* int guarded(void (*function)(void *), void *argument): 1 if an exception ended it. Guards nest. The outermost, a step,
     * runs at a fixed RSP, so that what scenarios see of it is the same however the step came here. */
    .global guarded
guarded:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, %rax
    andq $-BLOCK_SIZE, %rax
    pushq CPU_GUARD(%rax)
    cmpq $0, (%rsp)
    movq %rsp, CPU_GUARD(%rax)
    movq %rdi, %rcx
    movq %rsi, %rdi
    jne 1f
    leaq STEP_STACK_TOP(%rax), %rsp
1:  call *%rcx
    xorl %eax, %eax
guard_leave:
    movq %rsp, %rdx
    andq $-BLOCK_SIZE, %rdx
    movq CPU_GUARD(%rdx), %rsp
    popq CPU_GUARD(%rdx)
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret

    /* The exception handler returns here with RSP as kept in the guard. */
    .global guard_abort
guard_abort:
    cld
    movl $1, %eax
    jmp guard_leave

    /* void call_blob(struct cpu *): loads every register but RSP, calls, and keeps what came back. */
    .global call_blob
call_blob:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    leaq blob_back(%rip), %rax
    pushq %rax                                  /* where the blob's RET goes */
    pushq CPU_BLOB_ADDR(%rdi)
    movq CPU_REGS_IN + 8 * 0(%rdi), %rax
    movq CPU_REGS_IN + 8 * 1(%rdi), %rcx
    movq CPU_REGS_IN + 8 * 2(%rdi), %rdx
    movq CPU_REGS_IN + 8 * 3(%rdi), %rbx
    movq CPU_REGS_IN + 8 * 5(%rdi), %rbp
    movq CPU_REGS_IN + 8 * 6(%rdi), %rsi
    movq CPU_REGS_IN + 8 * 8(%rdi), %r8
    movq CPU_REGS_IN + 8 * 9(%rdi), %r9
    movq CPU_REGS_IN + 8 * 10(%rdi), %r10
    movq CPU_REGS_IN + 8 * 11(%rdi), %r11
    movq CPU_REGS_IN + 8 * 12(%rdi), %r12
    movq CPU_REGS_IN + 8 * 13(%rdi), %r13
    movq CPU_REGS_IN + 8 * 14(%rdi), %r14
    movq CPU_REGS_IN + 8 * 15(%rdi), %r15
    pushq CPU_BLOB_RFLAGS(%rdi)
    movq CPU_REGS_IN + 8 * 7(%rdi), %rdi
    popfq
    ret
blob_back:
    pushfq
    pushq %r15
    pushq %r14
    pushq %r13
    pushq %r12
    pushq %r11
    pushq %r10
    pushq %r9
    pushq %r8
    pushq %rdi
    pushq %rsi
    pushq %rbp
    pushq %rsp
    pushq %rbx
    pushq %rdx
    pushq %rcx
    pushq %rax
    pushq $2                                    /* sane flags: no IF, DF, TF, AC */
    popfq                                       # segments later: the blob's GDT may still be loaded
    movq %rsp, %rsi
    movq %rsp, %rdi
    andq $-BLOCK_SIZE, %rdi
    addq $CPU_REGS_OUT, %rdi
    movl $17, %ecx
    rep movsq
    addq $17 * 8, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret
