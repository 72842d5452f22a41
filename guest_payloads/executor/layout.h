/* Fixed numbers shared by C and assembly. */
#ifndef LAYOUT_H
#define LAYOUT_H

/* Selectors (docs/link-protocol.md). */
#define SEL_CODE64 0x08
#define SEL_DATA 0x10
#define SEL_CODE32 0x18
#define SEL_CODE16 0x20
#define SEL_DATA3 0x28
#define SEL_CODE3 0x30
#define SEL_TSS0 0x38
#define SEL_TSS1 0x48
#define SEL_LDT 0x58

/* Each CPU owns one aligned block: struct cpu at its bottom, the stacks above. Any handler finds its CPU by masking RSP;
 * GS would be quicker, but GS is under test. */
#define BLOCK_SIZE 0x10000
#define CPUS_MAX 2
#define IST_EXCEPTION_TOP 0x6000
#define IST_NMI_TOP 0x7000
#define IST_DOUBLE_TOP 0x8000
#define IST_MACHINE_CHECK_TOP 0x9000
#define IST_INTERRUPT_TOP 0xA000
#define IST_DEBUG_TOP 0xB000
#define STEP_STACK_TOP 0xF000                   /* above it, what led to the step: the way down to run_steps() */

/* struct cpu, as far as assembly looks into it; asserted in executor.h. */
#define CPU_GUARD 0
#define CPU_BLOB_ADDR 8
#define CPU_BLOB_RFLAGS 16
#define CPU_REGS_IN 24
#define CPU_REGS_OUT 152
#define CPU_RFLAGS_OUT 280

/* struct vmrun_area, one per CPU, addressed without any register. */
#define AREA_IN 0
#define AREA_OUT 128
#define AREA_RFLAGS_IN 256
#define AREA_RFLAGS_OUT 264
#define AREA_RSP_KEPT 272
#define AREA_RSP_OUT 280
#define AREA_SELECTORS 288
#define AREA_SIZE 304

#define TRAMPOLINE_PA 0x8000

#define BOOT_MULTIBOOT1 1
#define BOOT_MULTIBOOT2 2
#define BOOT_PVH 3
#define BOOT_BIOS 4
#define MAGIC_MULTIBOOT1 0x2BADB002
#define MAGIC_MULTIBOOT2 0x36D76289
#define MAGIC_BIOS 0x4D56534E

#endif
