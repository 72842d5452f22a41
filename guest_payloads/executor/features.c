/* Turns on what scenarios use: SSE, XSAVE, NX, SVME. A machine without SVM boots all the same. */
#include "executor.h"

#define MSR_EFER 0xC0000080
#define MSR_VM_HSAVE_PA 0xC0010117

struct features features;
static u8 host_save[CPUS_MAX][4096] NOINIT PAGE_ALIGNED;

void enable_features(void)
{
    struct cpu *cpu = this_cpu();
    u32 basic[4], extended[4], maximum[4], xsave[4];
    cpu->quiet = 1;
    cpuid(1, 0, basic);
    cpuid(0x80000000, 0, maximum);
    cpuid(0x80000001, 0, extended);
    features.apic = basic[3] >> 9 & 1;
    features.xsave = basic[2] >> 26 & 1;
    features.nx = extended[3] >> 20 & 1;

    u64 cr4;
    __asm__ volatile("movq %%cr4, %0" : "=r"(cr4));
    cr4 |= 0x600 | (features.xsave ? 0x40000 : 0);      /* OSFXSR, OSXMMEXCPT, OSXSAVE */
    __asm__ volatile("movq %0, %%cr4" : : "r"(cr4));
    __asm__ volatile("fninit");
    if (features.xsave) {
        cpuid(0xD, 0, xsave);
        try_xsetbv0(3 | (xsave[0] & 4));
    }
    u64 efer;
    try_rdmsr(MSR_EFER, &efer);
    if (features.nx)
        try_wrmsr(MSR_EFER, efer |= 0x800);
    if (maximum[0] >= 0x8000000A && extended[2] >> 2 & 1 && !try_wrmsr(MSR_EFER, efer | 0x1000)) {
        features.svm = 1;
        try_wrmsr(MSR_VM_HSAVE_PA, (u64)host_save[cpu->index]);
    }
    cpu->quiet = 0;
}

u64 read_efer(void)
{
    u64 efer = 0;
    try_rdmsr(MSR_EFER, &efer);
    return efer;
}

int svme_is_set(void) { return read_efer() >> 12 & 1; }
