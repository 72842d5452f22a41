/* GDT, IDTs and TSSes. */
#include "executor.h"

struct tss {
    u32 zero0;
    u64 rsp[3], zero1, ist[7], zero2;
    u16 zero3, io_map;
} PACKED;
struct gate {
    u16 offset_low, selector;
    u8 ist, type;
    u16 offset_middle;
    u32 offset_high, zero;
} PACKED;
struct pointer {
    u16 limit;
    u64 base;
} PACKED;

static u64 gdt[13] __attribute__((aligned(16)));
static struct tss tss[CPUS_MAX] __attribute__((aligned(16)));
/* Two IDTs: one with IST stacks, and one without. Around VMRUN the second is used, because after VMLOAD the task register is
 * L2's, and taking a stack from there would be the end; the stack is known good there. */
static struct gate idt[256] NOINIT PAGE_ALIGNED, idt_without_ist[256] NOINIT PAGE_ALIGNED;
extern u8 vector_stubs[];

static void set_system_descriptor(u32 selector, u64 base, u32 limit, u64 type)
{
    gdt[selector / 8] = (limit & 0xFFFF) | (base & 0xFFFFFF) << 16 | type << 40 | (u64)(limit >> 16 & 15) << 48 | (base >> 24 & 0xFF) << 56;
    gdt[selector / 8 + 1] = base >> 32;
}

static void build(void)
{
    gdt[SEL_CODE64 / 8] = 0x00AF9B000000FFFF;
    gdt[SEL_DATA / 8] = 0x00CF93000000FFFF;
    gdt[SEL_CODE32 / 8] = 0x00CF9B000000FFFF;
    gdt[SEL_CODE16 / 8] = 0x00009B000000FFFF;
    gdt[SEL_DATA3 / 8] = 0x00CFF3000000FFFF;
    gdt[SEL_CODE3 / 8] = 0x00AFFB000000FFFF;
    set_system_descriptor(SEL_TSS0, (u64)&tss[0], sizeof(struct tss) - 1, 0x89);
    set_system_descriptor(SEL_TSS1, (u64)&tss[1], sizeof(struct tss) - 1, 0x89);
    set_system_descriptor(SEL_LDT, ARENA_BASE, 0xFFF, 0x82);
    for (u32 cpu = 0; cpu < CPUS_MAX; cpu++) {
        u64 block = (u64)cpu_blocks[cpu];
        tss[cpu].rsp[0] = block + IST_EXCEPTION_TOP;
        tss[cpu].ist[0] = block + IST_EXCEPTION_TOP;
        tss[cpu].ist[1] = block + IST_NMI_TOP;
        tss[cpu].ist[2] = block + IST_DOUBLE_TOP;
        tss[cpu].ist[3] = block + IST_MACHINE_CHECK_TOP;
        tss[cpu].ist[4] = block + IST_INTERRUPT_TOP;
        tss[cpu].ist[5] = block + IST_DEBUG_TOP;
        tss[cpu].io_map = sizeof(struct tss);
    }
    for (u32 vector = 0; vector < 256; vector++) {
        u64 stub = (u64)vector_stubs + vector * 16;
        u8 ist = vector == 2 ? 2 : vector == 8 ? 3 : vector == 18 ? 4 : vector >= 32 ? 5 : vector == 1 ? 6 : 1;
        u8 type = vector == 3 ? 0xEE : 0x8E;    /* INT3 is for CPL 3 as well */
        idt[vector] = (struct gate){ (u16)stub, SEL_CODE64, ist, type, (u16)(stub >> 16), (u32)(stub >> 32), 0 };
        idt_without_ist[vector] = idt[vector];
        idt_without_ist[vector].ist = 0;
    }
}

void load_idt(int with_ist)
{
    struct pointer pointer = { sizeof(idt) - 1, with_ist ? (u64)idt : (u64)idt_without_ist };
    __asm__ volatile("lidt %0" : : "m"(pointer));
}

void reload_tr(u32 cpu)
{
    u16 selector = cpu ? SEL_TSS1 : SEL_TSS0;
    ((u8 *)gdt)[selector + 5] = 0x89;           /* LTR refuses a busy TSS */
    __asm__ volatile("ltr %0" : : "r"(selector) : "memory");
}

static void load_gdt(void)
{
    struct pointer pointer = { sizeof(gdt) - 1, (u64)gdt };
    __asm__ volatile("lgdt %0" : : "m"(pointer));
}

void load_descriptors(u32 cpu)
{
    if (cpu == 0)
        build();
    load_gdt();
    load_idt(1);
    reload_tr(cpu);
    u16 zero = 0;
    __asm__ volatile("lldt %0" : : "r"(zero));
}

/* After a blob. */
void restore_descriptors(u32 cpu)
{
    struct pointer pointer;
    u16 selector;
    __asm__ volatile("sgdt %0" : "=m"(pointer));
    if (pointer.base != (u64)gdt || pointer.limit != sizeof(gdt) - 1)
        load_gdt();
    __asm__ volatile("sidt %0" : "=m"(pointer));
    if (pointer.base != (u64)idt || pointer.limit != sizeof(idt) - 1)
        load_idt(1);
    __asm__ volatile("str %0" : "=r"(selector));
    if (selector != (cpu ? SEL_TSS1 : SEL_TSS0))
        reload_tr(cpu);
}
