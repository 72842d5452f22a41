/* What boot loaders look for: a multiboot header, a multiboot2 header and the PVH note. */
#include "layout.h"

    .section .headers, "ax"
    .balign 8
    .long 0x1BADB002, 3, -(0x1BADB002 + 3)      /* page-aligned modules, memory map */

    .balign 8
mb2:
    .long 0xE85250D6, 0, mb2_end - mb2, -(0xE85250D6 + 0 + (mb2_end - mb2))
    .short 6, 0                                 /* modules page-aligned */
    .long 8
    .short 0, 0                                 /* end */
    .long 8
mb2_end:

    .section .note.pvh, "a", @note
    .balign 4
    .long 4, 4, 18                              /* XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .long entry_pvh
