/* From any loader's 32-bit entry to C in long mode. */
#include "layout.h"

    .section .text
    .code32

    .global entry_pvh
entry_pvh:
    movl $BOOT_PVH, %esi
    jmp entry_common

    /* Multiboot, multiboot2 and our BIOS loader tell themselves apart by EAX. */
    .global entry_multiboot
entry_multiboot:
    xorl %esi, %esi
    cmpl $MAGIC_MULTIBOOT1, %eax
    jne 1f
    movl $BOOT_MULTIBOOT1, %esi
1:  cmpl $MAGIC_MULTIBOOT2, %eax
    jne 2f
    movl $BOOT_MULTIBOOT2, %esi
2:  cmpl $MAGIC_BIOS, %eax
    jne entry_common
    movl $BOOT_BIOS, %esi

entry_common:                                   /* ESI kind, EBX information, ECX bundle size (BIOS image) */
    cli
    cld
    movl %ecx, %ebp
    movl $bss_start, %edi
    movl $bss_end, %ecx
    subl %edi, %ecx
    shrl $2, %ecx
    xorl %eax, %eax
    rep stosl
    movl %esi, boot_kind
    movl %ebx, boot_information
    movl %ebp, boot_extra
    movl $cpu_blocks + BLOCK_SIZE, %esp

    /* Identity map of 4 GiB: PML4, PDPT, four page directories. Page-table pages hold nothing yet, so clear the first two. */
    movl $long_tables, %edi
    movl $2048, %ecx
    rep stosl
    movl $long_tables + 0x1007, long_tables
    movl $long_tables + 0x2007, %eax
    movl $long_tables + 0x1000, %edi
    movl $4, %ecx
1:  movl %eax, (%edi)
    addl $0x1000, %eax
    addl $8, %edi
    loop 1b
    movl $long_tables + 0x2000, %edi
    movl $0x87, %eax                            /* present, writable, user, 2 MiB */
    movl $2048, %ecx
2:  movl %eax, (%edi)
    movl $0, 4(%edi)
    addl $0x200000, %eax
    addl $8, %edi
    loop 2b

    movl $0x20, %eax                            /* PAE */
    movl %eax, %cr4
    movl $long_tables, %eax
    movl %eax, %cr3
    movl $0xC0000080, %ecx
    rdmsr
    orl $0x100, %eax                            /* LME */
    wrmsr
    movl $0x80010033, %eax                      /* PG WP NE ET MP PE; caches on */
    movl %eax, %cr0
    lgdtl boot_gdt_pointer
    ljmpl $SEL_CODE64, $long_mode

    .code64
long_mode:
    movl $SEL_DATA, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    xorl %eax, %eax
    movl %eax, %fs
    movl %eax, %gs
    call executor_main
1:  hlt                                         /* executor_main never returns */
    jmp 1b

    .section .rodata
    .balign 8
    .global boot_gdt_pointer
boot_gdt:
    .quad 0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF, 0x00CF9B000000FFFF
boot_gdt_pointer:
    .word 31
    .long boot_gdt

    .section .noinit.stacks, "aw", @nobits
    .global cpu_blocks
cpu_blocks:
    .skip BLOCK_SIZE * CPUS_MAX

    .section .noinit.tables, "aw", @nobits
    .balign 4096
    .global long_tables
long_tables:
    .skip 6 * 4096
