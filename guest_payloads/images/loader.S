/* The boot sector of the disk image: loads the executor (and a bundle) with the BIOS and jumps to its 32-bit entry.
 *
 * The image: sector 0 this, then the executor's flat bytes (to 1 MiB), then the bundle (to 4 MiB). Each chunk is read below
 * 1 MiB and copied up with a flat ES, set again for every chunk because a BIOS may put its own limits back.
 */
    .code16
    .text
    .global start

    .set BUFFER_SEGMENT, 0x1000
    .set CHUNK_SECTORS, 32
    .set EXECUTOR_ADDRESS, 0x100000
    .set BUNDLE_ADDRESS, 0x400000

start:
    cli
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %ss
    movw $0x7C00, %sp
    ljmp $0, $1f
1:  sti
    cld
    movb %dl, drive

    movw $0x2401, %ax                   /* A20: ask the BIOS, and port 92h */
    int $0x15
    inb $0x92, %al
    testb $2, %al
    jnz 2f
    orb $2, %al
    andb $0xFE, %al
    outb %al, $0x92
2:
    movb $0x41, %ah                     /* is there AH=42h? */
    movw $0x55AA, %bx
    movb drive, %dl
    int $0x13
    jc 3f
    cmpw $0xAA55, %bx
    jne 3f
    incb has_lba
    jmp 4f
3:  movb $8, %ah                        /* no: the geometry, for AH=02h */
    movb drive, %dl
    int $0x13
    jc failed
    andw $63, %cx
    movw %cx, sectors_a_track
    movzbw %dh, %ax
    incw %ax
    movw %ax, heads
4:
    movl $EXECUTOR_ADDRESS, %edi
    movl executor_sectors, %esi
    call load
    movl $BUNDLE_ADDRESS, %edi
    movl bundle_sectors, %esi
    call load

    cli
    lgdtl gdt_pointer
    movl $1, %eax
    movl %eax, %cr0
    ljmp $8, $protected

/* ESI sectors to EDI, from the sector `next` on. */
load:
    movl $CHUNK_SECTORS, %ecx
    cmpl %ecx, %esi
    jae 1f
    movl %esi, %ecx
1:  jecxz 4f
    cmpb $0, has_lba
    jne 2f
    movw $1, %cx                        /* by cylinder, head and sector, one at a time */
2:  subl %ecx, %esi
    pushal
    call read
    popal
    addl %ecx, next
    shll $7, %ecx                       /* sectors to double words */
    cli
    pushw %ds
    lgdtl gdt_pointer
    movl %cr0, %eax
    incw %ax
    movl %eax, %cr0
    movw $16, %bx
    movw %bx, %es                       /* ES reaches 4 GiB and keeps that limit */
    decw %ax
    movl %eax, %cr0
    movw $BUFFER_SEGMENT, %ax
    movw %ax, %ds
    pushl %esi
    xorl %esi, %esi
    .byte 0x67
    rep movsl                           # with 32-bit addresses
    popl %esi
    popw %ds
    sti
    jmp load
4:  ret

/* CX sectors from `next` to the buffer. */
read:
    cmpb $0, has_lba
    je 1f
    movw %cx, packet + 2
    movl next, %eax
    movl %eax, packet + 8
    movw $packet, %si
    movb $0x42, %ah
    jmp 2f
1:  movl next, %eax
    xorl %edx, %edx
    movzwl sectors_a_track, %ebx
    divl %ebx
    movb %dl, %cl
    incb %cl                            /* sector, from 1 */
    xorl %edx, %edx
    movzwl heads, %ebx
    divl %ebx
    movb %al, %ch                       /* cylinder below 256: the image is small */
    movb %dl, %dh
    movw $BUFFER_SEGMENT, %bx
    movw %bx, %es
    xorw %bx, %bx
    movw $0x0201, %ax
2:  movb drive, %dl
    int $0x13
    jc failed
    ret

failed:
    movw $0x0E21, %ax                   /* "!" */
    int $0x10
    movw $0x3F8, %dx
    outb %al, %dx
3:  hlt                                 /* nothing more can be done */
    jmp 3b

    .code32
protected:
    movw $16, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl $0x4D56534E, %eax
    movl $BUNDLE_ADDRESS, %ebx
    movl bundle_bytes, %ecx
    jmp *entry

    .balign 8
gdt:
    .quad 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF
gdt_pointer:
    .word 23
    .long gdt
packet:
    .word 16, 0, 0, BUFFER_SEGMENT
    .quad 0
next:
    .long 1
sectors_a_track:
    .word 0
heads:
    .word 0
drive:
    .byte 0
has_lba:
    .byte 0

    /* Filled in by mkimage. */
    .org 0x1A0
executor_sectors:
    .long 0
bundle_sectors:
    .long 0
bundle_bytes:
    .long 0
entry:
    .long 0

    .org 510
    .word 0xAA55
