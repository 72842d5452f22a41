/* What a boot loader leaves for its kernel: multiboot information, or PVH start information. */
#include <string.h>

#include "vm.h"

#define MAP_ENTRIES 2
#define LOW_END 0x9FC00u
#define HIGH_BASE 0x100000u

struct multiboot_module { uint32_t start, end, text, zero; };
struct multiboot_map { uint32_t size; uint64_t base, length; uint32_t type; } __attribute__((packed));
struct multiboot_info {
    uint32_t flags, low_kib, high_kib, boot_device, command_line, module_count, modules, symbols[4], map_size, map;
};
enum { HAS_MEMORY = 1, HAS_COMMAND_LINE = 4, HAS_MODULES = 8, HAS_MAP = 0x40 };

struct pvh_module { uint64_t address, size, command_line, zero; };
struct pvh_map { uint64_t base, length; uint32_t type, zero; };
struct pvh_info {
    uint32_t magic, version, flags, module_count;
    uint64_t modules, command_line, rsdp, map;
    uint32_t map_entries, zero;
};

/* All in one page, behind the GDT. */
#define INFO (BOOT_PAGE + 0x100)
#define MODULES (BOOT_PAGE + 0x200)
#define MAP (BOOT_PAGE + 0x300)

static void write_multiboot(struct vm *vm, const struct image *image)
{
    uint64_t high = vm->ram_size - HIGH_BASE;
    struct multiboot_map map[MAP_ENTRIES] = { { 20, 0, LOW_END, 1 }, { 20, HIGH_BASE, high, 1 } };
    struct multiboot_module module = { image->module, image->module + image->module_size, 0, 0 };
    struct multiboot_info info = { .flags = HAS_MEMORY | HAS_MAP, .low_kib = LOW_END >> 10, .high_kib = (uint32_t)(high >> 10),
                                   .map_size = sizeof(map), .map = MAP };
    if (image->command_line) {
        info.flags |= HAS_COMMAND_LINE;
        info.command_line = image->command_line;
    }
    if (image->module_size) {
        info.flags |= HAS_MODULES;
        info.module_count = 1;
        info.modules = MODULES;
    }
    memcpy(vm->ram + MAP, map, sizeof(map));
    memcpy(vm->ram + MODULES, &module, sizeof(module));
    memcpy(vm->ram + INFO, &info, sizeof(info));
}

static void write_pvh(struct vm *vm, const struct image *image, uint32_t rsdp)
{
    struct pvh_map map[MAP_ENTRIES] = { { 0, LOW_END, 1, 0 }, { HIGH_BASE, vm->ram_size - HIGH_BASE, 1, 0 } };
    struct pvh_module module = { image->module, image->module_size, 0, 0 };
    struct pvh_info info = { .magic = 0x336EC578, .version = 1, .command_line = image->command_line, .rsdp = rsdp,
                             .map = MAP, .map_entries = MAP_ENTRIES };
    if (image->module_size) {
        info.module_count = 1;
        info.modules = MODULES;
    }
    memcpy(vm->ram + MAP, map, sizeof(map));
    memcpy(vm->ram + MODULES, &module, sizeof(module));
    memcpy(vm->ram + INFO, &info, sizeof(info));
}

/* Returns where it lies, for EBX. */
uint64_t write_boot_info(struct vm *vm, const struct image *image, int pvh, uint32_t rsdp)
{
    if (pvh)
        write_pvh(vm, image, rsdp);
    else
        write_multiboot(vm, image);
    return INFO;
}
