/* The guest's memory: RAM from 0, and one page at the reset vector. */
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "vm.h"

/* A CPU gets to the reset vector by INIT. What a BIOS would do there is to start over; saying so by the reset port ends us. */
static const uint8_t reset_code[16] = { 0xB0, 0x06, 0xBA, 0xF9, 0x0C, 0xEE, 0xFA, 0xF4 };  /* mov al,6; mov dx,0CF9h; out dx,al; cli; hlt */

static void add(struct vm *vm, uint32_t slot, uint64_t address, size_t size, void *memory)
{
    struct kvm_userspace_memory_region region = {
        .slot = slot, .guest_phys_addr = address, .memory_size = size, .userspace_addr = (uintptr_t)memory
    };
    if (ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &region))
        fail_errno(END_HOST, "KVM_SET_USER_MEMORY_REGION");
}

static uint8_t *allocate(size_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        fail_errno(END_HOST, "the guest's memory");
    return memory;
}

void make_memory(struct vm *vm)
{
    vm->ram_size = (size_t)vm->options->memory_mib << 20;
    vm->ram = allocate(vm->ram_size);
    add(vm, 0, 0, vm->ram_size, vm->ram);
    uint8_t *page = allocate(4096);
    memcpy(page + 4096 - sizeof(reset_code), reset_code, sizeof(reset_code));
    add(vm, 1, RESET_PAGE, 4096, page);
}

uint8_t *guest_memory(struct vm *vm, uint64_t address, uint64_t size)
{
    return size <= vm->ram_size && address <= vm->ram_size - size ? vm->ram + address : NULL;
}
