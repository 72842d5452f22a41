/* What the host's KVM must offer, and one line on how to mend what it does not. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "vm.h"

#define ENTRIES_MAX 512

static const struct {
    int number;
    const char *name;
} needed[] = {
    { KVM_CAP_IRQCHIP, "KVM_CAP_IRQCHIP" },   { KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY" },
    { KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID" }, { KVM_CAP_PIT2, "KVM_CAP_PIT2" },
    { KVM_CAP_MP_STATE, "KVM_CAP_MP_STATE" },
};

int open_kvm(const char *device)
{
    int kvm = open(device, O_RDWR | O_CLOEXEC);
    if (kvm < 0 && (errno == ENOENT || errno == ENODEV || errno == ENXIO))
        fail(END_HOST, "there is no %s: load KVM with `modprobe kvm_amd nested=1`, and turn SVM on in the firmware's setup", device);
    if (kvm < 0 && (errno == EACCES || errno == EPERM))
        fail(END_HOST, "%s may not be opened by this user: `usermod -aG kvm USER` (and log in again), or be root", device);
    if (kvm < 0)
        fail_errno(END_HOST, device);
    int version = ioctl(kvm, KVM_GET_API_VERSION, 0);
    if (version != KVM_API_VERSION)
        fail(END_HOST, "%s does not speak KVM's API %d", device, KVM_API_VERSION);
    for (size_t i = 0; i < sizeof(needed) / sizeof(*needed); i++)
        if (ioctl(kvm, KVM_CHECK_EXTENSION, needed[i].number) <= 0)
            fail(END_HOST, "the host's KVM lacks %s", needed[i].name);
    return kvm;
}

struct kvm_cpuid2 *supported_cpuid(int kvm)
{
    /* Room for leaves that we add. */
    struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) + (ENTRIES_MAX + 16) * sizeof(cpuid->entries[0]));
    if (!cpuid)
        fail(END_HOST, "no memory");
    cpuid->nent = ENTRIES_MAX;
    if (ioctl(kvm, KVM_GET_SUPPORTED_CPUID, cpuid))
        fail_errno(END_HOST, "KVM_GET_SUPPORTED_CPUID");
    return cpuid;
}

void check_svm(const struct kvm_cpuid2 *cpuid)
{
    int amd = 0, svm = 0;
    for (uint32_t i = 0; i < cpuid->nent; i++) {
        const struct kvm_cpuid_entry2 *entry = &cpuid->entries[i];
        if (entry->function == 0)       /* AuthenticAMD, HygonGenuine */
            amd = entry->ebx == 0x68747541 || entry->ebx == 0x6F677948;
        if (entry->function == 0x80000001)
            svm = entry->ecx >> 2 & 1;
    }
    if (!amd)
        fail(END_HOST, "the host's CPU is not AMD: nested SVM needs one");
    if (!svm)
        fail(END_HOST, "KVM offers no SVM to guests: `modprobe -r kvm_amd; modprobe kvm_amd nested=1` with no guest running");
}

/* Ways in which KVM differs from hardware on purpose, for old guests. A VMM may ask for the hardware's way. */
void take_quirks_away(int vm, uint32_t mask)
{
    struct kvm_enable_cap cap = { .cap = KVM_CAP_DISABLE_QUIRKS2, .args = { mask } };
    int known = ioctl(vm, KVM_CHECK_EXTENSION, KVM_CAP_DISABLE_QUIRKS2);
    uint32_t missing = known > 0 ? mask & ~(uint32_t)known : mask;
    if (missing)
        fail(END_HOST, "--quirks-off %x: the host's KVM does not know the quirks %x", mask, missing);
    if (mask && ioctl(vm, KVM_ENABLE_CAP, &cap))
        fail_errno(END_HOST, "KVM_CAP_DISABLE_QUIRKS2");
}
