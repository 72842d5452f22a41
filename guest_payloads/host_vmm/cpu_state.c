/* The first CPU as a multiboot or PVH loader hands it over: flat 32-bit protected mode without paging. */
#include <string.h>
#include <sys/ioctl.h>

#include "vm.h"

#define MULTIBOOT_IN_EAX 0x2BADB002
#define GDT_ENTRIES 4

void set_start_state(struct vm *vm, struct cpu *cpu)
{
    struct image *image = vm->image;
    enum entry entry = vm->options->entry;
    int pvh = entry == ENTRY_PVH || (entry == ENTRY_AUTO && !image->multiboot_entry);
    if ((pvh && !image->pvh_entry) || (!pvh && !image->multiboot_entry))
        fail(END_IMAGE, "%s has no %s", vm->options->image, pvh ? "PVH note" : "multiboot header");

    static const uint64_t gdt[GDT_ENTRIES] = { 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF, 0x00008B0000000067 | (uint64_t)TSS_PAGE << 16 };
    memcpy(vm->ram + BOOT_PAGE, gdt, sizeof(gdt));

    struct kvm_sregs special;
    if (ioctl(cpu->fd, KVM_GET_SREGS, &special))
        fail_errno(END_HOST, "KVM_GET_SREGS");
    struct kvm_segment code = { .limit = 0xFFFFFFFF, .selector = 0x08, .type = 11, .present = 1, .db = 1, .s = 1, .g = 1 };
    struct kvm_segment data = code;
    data.selector = 0x10;
    data.type = 3;
    special.cs = code;
    special.ds = special.es = special.fs = special.gs = special.ss = data;
    /* VMRUN refuses a guest in protected mode whose TR is no busy TSS; so does some hardware. */
    special.tr = (struct kvm_segment){ .base = TSS_PAGE, .limit = 0x67, .selector = 0x18, .type = 11, .present = 1 };
    special.ldt = (struct kvm_segment){ .type = 2, .unusable = 1 };
    special.gdt.base = BOOT_PAGE;
    special.gdt.limit = sizeof(gdt) - 1;
    special.cr0 = 0x11;                 /* PE ET */
    special.cr3 = special.cr4 = special.efer = 0;
    if (ioctl(cpu->fd, KVM_SET_SREGS, &special))
        fail_errno(END_HOST, "KVM_SET_SREGS");

    struct kvm_regs regs = {
        .rip = pvh ? image->pvh_entry : image->multiboot_entry,
        .rax = pvh ? 0 : MULTIBOOT_IN_EAX,
        .rbx = write_boot_info(vm, image, pvh, write_acpi(vm)),
        .rflags = 2,
    };
    if (ioctl(cpu->fd, KVM_SET_REGS, &regs))
        fail_errno(END_HOST, "KVM_SET_REGS");
}
