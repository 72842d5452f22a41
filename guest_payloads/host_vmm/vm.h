/* One guest under KVM. */
#ifndef VM_H
#define VM_H
#include <linux/kvm.h>
#include <stddef.h>
#include <stdint.h>

#include "host.h"
#include "options.h"

/* Guest-physical places. Ours lie in conventional memory above what the executor hands to scenarios (up to 8_0000h). */
#define BOOT_PAGE 0x90000u              /* GDT, multiboot or PVH information, memory map */
#define COMMAND_LINE 0x91000u
#define TSS_PAGE 0x92000u
#define ACPI_TABLES 0xE0000u            /* where a BIOS's RSDP is looked for */
#define MODULE_BASE 0x2000000u          /* above the arena */
#define RESET_PAGE 0xFFFFF000u

struct vm {
    int kvm, fd;
    uint8_t *ram;
    size_t ram_size;
    size_t run_size;
    const struct options *options;
    struct image *image;
    struct kvm_cpuid2 *cpuid;
    uint32_t tsc_khz;
};
struct image {
    uint32_t multiboot_entry, pvh_entry;        /* 0: none */
    uint32_t command_line, module, module_size;
};
struct cpu {
    struct vm *vm;
    struct kvm_run *run;
    uint32_t index;
    int fd;
};

/* kvm_check.c: what KVM must offer, with a line for each that it does not, and which of its quirks a guest goes without. */
int open_kvm(const char *device);
struct kvm_cpuid2 *supported_cpuid(int kvm);
void check_svm(const struct kvm_cpuid2 *cpuid);
void take_quirks_away(int vm, uint32_t mask);

/* memory.c: size bytes at address of the guest's RAM; NULL where they are not. */
void make_memory(struct vm *vm);
uint8_t *guest_memory(struct vm *vm, uint64_t address, uint64_t size);

/* image.c, boot_info.c, acpi.c */
void load_image(struct vm *vm, struct image *image);
uint64_t write_boot_info(struct vm *vm, const struct image *image, int pvh, uint32_t rsdp);
uint32_t write_acpi(struct vm *vm);

/* cpuid.c */
void choose_cpuid(struct vm *vm);
void set_cpuid(struct vm *vm, struct cpu *cpu);

/* cpu_state.c, run.c */
void set_start_state(struct vm *vm, struct cpu *cpu);
_Noreturn void run_cpu(struct cpu *cpu);

/* ports.c, uart.c, block_console.c */
void port_out(struct vm *vm, uint16_t port, uint32_t width, const uint8_t *data);
void port_in(struct vm *vm, uint16_t port, uint32_t width, uint8_t *data);
void uart_out(uint8_t reg, uint8_t value);
uint8_t uart_in(uint8_t reg);
void block_exchange(struct vm *vm, uint32_t address);

#endif
