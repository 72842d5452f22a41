/* The 256 interrupt stubs and their common path. */
#include "layout.h"

    .section .text
    .code64
    .balign 16
    .global vector_stubs
vector_stubs:
    .set vector, 0
    .rept 256
    .balign 16
    /* Vectors with an error code pushed by the CPU: 8, 10-14, 17, 21, 29, 30. */
    .if (vector == 8) || (vector >= 10 && vector <= 14) || (vector == 17) || (vector == 21) || (vector == 29) || (vector == 30)
    .else
    pushq $0
    .endif
    pushq $vector
    jmp vector_common
    .set vector, vector + 1
    .endr

    /* Builds struct frame: registers in x86 numbering, then what stub and CPU pushed. */
vector_common:
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
    pushq %rsp                                  /* a place holder: RSP is in the frame's own field */
    pushq %rbx
    pushq %rdx
    pushq %rcx
    pushq %rax
    cld
    movq %rsp, %rdi
    call take_vector
    popq %rax
    popq %rcx
    popq %rdx
    popq %rbx
    addq $8, %rsp
    popq %rbp
    popq %rsi
    popq %rdi
    popq %r8
    popq %r9
    popq %r10
    popq %r11
    popq %r12
    popq %r13
    popq %r14
    popq %r15
    addq $16, %rsp
    iretq
