/* The second CPU wakes here in real mode, copied to TRAMPOLINE_PA, and comes out in cpu2_main on its own stack block. */
#include "layout.h"

    .section .rodata
    .global trampoline_start, trampoline_end
    .balign 16
    .code16
trampoline_start:
    cli
    xorw %ax, %ax
    movw %ax, %ds
    lgdtl (pointer - trampoline_start + TRAMPOLINE_PA)
    movl $0x11, %eax
    movl %eax, %cr0
    ljmpl $SEL_CODE32, $(protected - trampoline_start + TRAMPOLINE_PA)

    .code32
protected:
    movl $SEL_DATA, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl $0x20, %eax
    movl %eax, %cr4
    movl $long_tables, %eax
    movl %eax, %cr3
    movl $0xC0000080, %ecx
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl $0x80010033, %eax
    movl %eax, %cr0
    ljmpl $SEL_CODE64, $cpu2_entry

    .balign 8
gdt:
    .quad 0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF, 0x00CF9B000000FFFF
pointer:
    .word 31
    .long gdt - trampoline_start + TRAMPOLINE_PA
trampoline_end:

    .section .text
    .code64
cpu2_entry:
    xorl %eax, %eax
    movl %eax, %fs
    movl %eax, %gs
    movl $cpu_blocks + 2 * BLOCK_SIZE, %esp
    call cpu2_main
1:  hlt
    jmp 1b
