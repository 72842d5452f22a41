/* What the guest's CPUID says: all that KVM can give, less what --clear takes away. */
#include <string.h>
#include <sys/ioctl.h>

#include "vm.h"

#define HYPERVISOR 0x40000000u
#define FREQUENCIES 0x40000010u
#define APIC_BUS_KHZ 1000000            /* KVM's emulated APIC bus runs at 1 GHz */

static struct kvm_cpuid_entry2 *find(struct kvm_cpuid2 *cpuid, uint32_t leaf)
{
    for (uint32_t i = 0; i < cpuid->nent; i++)
        if (cpuid->entries[i].function == leaf)
            return &cpuid->entries[i];
    return NULL;
}

/* The guest need not measure its clocks if the leaf that says them is there, as under QEMU with vmware-cpuid-freq. */
static void tell_frequencies(struct vm *vm)
{
    struct kvm_cpuid_entry2 *hypervisor = find(vm->cpuid, HYPERVISOR);
    if (!hypervisor || !vm->tsc_khz || find(vm->cpuid, FREQUENCIES))
        return;
    if (hypervisor->eax < FREQUENCIES)
        hypervisor->eax = FREQUENCIES;
    vm->cpuid->entries[vm->cpuid->nent++] =
        (struct kvm_cpuid_entry2){ .function = FREQUENCIES, .eax = vm->tsc_khz, .ebx = APIC_BUS_KHZ };
}

static void clear_bits(struct vm *vm, const struct clear *clear)
{
    int found = 0;
    for (uint32_t i = 0; i < vm->cpuid->nent; i++) {
        struct kvm_cpuid_entry2 *entry = &vm->cpuid->entries[i];
        if (entry->function != clear->leaf || (!clear->any_subleaf && entry->index != clear->subleaf))
            continue;
        uint32_t *regs[] = { &entry->eax, &entry->ebx, &entry->ecx, &entry->edx };
        *regs[clear->reg] &= ~clear->mask;
        found = 1;
    }
    if (!found)
        fail(END_USAGE, "--clear: the guest has no CPUID leaf %x", clear->leaf);
}

/* Once for the machine. Clearing comes last, so that it has the last word. */
void choose_cpuid(struct vm *vm)
{
    struct kvm_cpuid_entry2 *basic = find(vm->cpuid, 1);
    if (basic) {
        basic->ecx |= 1u << 31;                 /* there is a hypervisor */
        basic->ebx = (basic->ebx & 0xFFFF) | vm->options->cpus << 16;
        basic->edx |= vm->options->cpus > 1 ? 1u << 28 : 0;
        if (ioctl(vm->kvm, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER) > 0)
            basic->ecx |= 1u << 24;
    }
    tell_frequencies(vm);
    for (uint32_t i = 0; i < vm->options->clear_count; i++)
        clear_bits(vm, &vm->options->clears[i]);
}

/* The same for every CPU but for its APIC id. */
void set_cpuid(struct vm *vm, struct cpu *cpu)
{
    for (uint32_t i = 0; i < vm->cpuid->nent; i++) {
        struct kvm_cpuid_entry2 *entry = &vm->cpuid->entries[i];
        if (entry->function == 1)
            entry->ebx = (entry->ebx & 0xFFFFFF) | cpu->index << 24;
        else if (entry->function == 0xB || entry->function == 0x1F)
            entry->edx = cpu->index;
        else if (entry->function == 0x8000001E)
            entry->eax = cpu->index;
    }
    if (ioctl(cpu->fd, KVM_SET_CPUID2, vm->cpuid))
        fail_errno(END_HOST, "KVM_SET_CPUID2");
}
