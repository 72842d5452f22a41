/* @head@
 *
 * A stand-alone multiboot kernel: an L1 hypervisor that does the steps in scenario() below, once, and prints on COM1
 * (115200 baud) what came. Its last line is "Test result: SUCCESS", "FAILURE" or "SKIP". If none comes, the machine hangs or died.
 *
 * To build and run it:
 *
 *   gcc -O1 -ffreestanding -fno-pic -no-pie -mno-red-zone -mgeneral-regs-only -fno-stack-protector -fcf-protection=none \
 *       -fno-asynchronous-unwind-tables -nostdlib -static -Wl,--section-start=.multiboot=0x100000 -Wl,-Ttext=0x101000 \
 *       -Wl,-z,max-page-size=4096 -Wl,-z,noexecstack -Wl,--build-id=none -o reproducer64.elf reproducer.c
 *   objcopy -I elf64-x86-64 -O elf32-i386 reproducer64.elf reproducer.elf
 *   qemu-system-x86_64 -cpu max -m 64 -display none -no-reboot -serial stdio -kernel reproducer.elf
 */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

/* Multiboot header; 32-bit entry; long mode with 4 GiB mapped one to one by 2 MiB pages; a stub for each exception. */
__asm__(".section .multiboot, \"ax\"\n"
        "    .long 0x1BADB002, 0, -0x1BADB002\n"
        "    .code32\n"
        "    .global _start\n"
        "_start:\n"
        "    cli\n"
        "    movl $stack_top, %esp\n"
        "    movl $tables + 0x1007, tables\n"
        "    xorl %ecx, %ecx\n"
        "    movl $tables + 0x2007, %eax\n"
        "1:  movl %eax, tables + 0x1000(,%ecx,8)\n"
        "    addl $0x1000, %eax\n"
        "    incl %ecx\n"
        "    cmpl $4, %ecx\n"
        "    jne 1b\n"
        "    xorl %ecx, %ecx\n"
        "    movl $0x87, %eax\n"
        "2:  movl %eax, tables + 0x2000(,%ecx,8)\n"
        "    addl $0x200000, %eax\n"
        "    incl %ecx\n"
        "    cmpl $2048, %ecx\n"
        "    jne 2b\n"
        "    movl $0x620, %eax\n"                       /* CR4: PAE, OSFXSR, OSXMMEXCPT */
        "    movl %eax, %cr4\n"
        "    movl $tables, %eax\n"
        "    movl %eax, %cr3\n"
        "    movl $0xC0000080, %ecx\n"
        "    rdmsr\n"
        "    orl $0x900, %eax\n"                        /* EFER: LME, NXE */
        "    wrmsr\n"
        "    movl $0x80010033, %eax\n"
        "    movl %eax, %cr0\n"
        "    lgdt gdt_pointer\n"
        "    ljmp $8, $3f\n"
        "    .code64\n"
        "3:  movl $0x10, %eax\n"
        "    movl %eax, %ds\n"
        "    movl %eax, %es\n"
        "    movl %eax, %ss\n"
        "    xorl %eax, %eax\n"
        "    movl %eax, %fs\n"
        "    movl %eax, %gs\n"
        "    call kernel_main\n"
        "4:  cli; hlt; jmp 4b\n"
        "    .balign 8\n"
        "gdt: .quad 0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF, 0x00CF9B000000FFFF\n"
        "gdt_pointer: .word 31; .long gdt, 0\n"
        "    .section .text\n"
        "    .global stubs\n"
        "stubs:\n"
        "    .set n, 0\n"
        "    .rept 32\n"
        "    .balign 16\n"
        "    .if n != 8 && n != 10 && n != 11 && n != 12 && n != 13 && n != 14 && n != 17 && n != 21 && n != 29 && n != 30\n"
        "    pushq $-1\n"                               /* no error code */
        "    .endif\n"
        "    pushq $n\n"
        "    jmp exception\n"
        "    .set n, n + 1\n"
        "    .endr\n"
        "exception:\n"                                  /* noted, and on where the step under way ends */
        "    movq %rax, caught_rax(%rip)\n"
        "    popq %rax\n"
        "    addq $0x100, %rax\n"
        "    movq %rax, fault_vector(%rip)\n"
        "    popq %rax\n"
        "    movq %rax, fault_error(%rip)\n"
        "    movq (%rsp), %rax\n"
        "    movq %rax, fault_rip(%rip)\n"
        "    movq resume_rsp(%rip), %rsp\n"
        "    movq caught_rax(%rip), %rax\n"
        "    jmp *resume_rip(%rip)\n"
        /* VMRUN with the registers of `regs`, which it gets back; RAX is the operand. */
        "    .global enter_guest\n"
        "enter_guest:\n"
        "    pushq %rbx; pushq %rbp; pushq %r12; pushq %r13; pushq %r14; pushq %r15\n"
        "    movq %rsp, resume_rsp(%rip)\n"
        "    leaq 5f(%rip), %rax\n"
        "    movq %rax, resume_rip(%rip)\n"
        "    pushq %rsi\n"                              /* RFLAGS at VMRUN */
        "    movq %rdi, %rax\n"
        "    movq regs+8(%rip), %rcx; movq regs+16(%rip), %rdx; movq regs+24(%rip), %rbx; movq regs+40(%rip), %rbp\n"
        "    movq regs+48(%rip), %rsi; movq regs+56(%rip), %rdi; movq regs+64(%rip), %r8; movq regs+72(%rip), %r9\n"
        "    movq regs+80(%rip), %r10; movq regs+88(%rip), %r11; movq regs+96(%rip), %r12; movq regs+104(%rip), %r13\n"
        "    movq regs+112(%rip), %r14; movq regs+120(%rip), %r15\n"
        "    popfq\n"
        "    vmrun %rax\n"
        "5:  movq %rcx, regs+8(%rip); movq %rdx, regs+16(%rip); movq %rbx, regs+24(%rip); movq %rbp, regs+40(%rip)\n"
        "    movq %rsi, regs+48(%rip); movq %rdi, regs+56(%rip); movq %r8, regs+64(%rip); movq %r9, regs+72(%rip)\n"
        "    movq %r10, regs+80(%rip); movq %r11, regs+88(%rip); movq %r12, regs+96(%rip); movq %r13, regs+104(%rip)\n"
        "    movq %r14, regs+112(%rip); movq %r15, regs+120(%rip)\n"
        "    movq resume_rsp(%rip), %rsp\n"
        "    pushq $2; popfq\n"
        "    popq %r15; popq %r14; popq %r13; popq %r12; popq %rbp; popq %rbx\n"
        "    ret\n"
        /* Calls the code at RDI, which L1 itself runs, with the registers of `regs`. */
        "    .global call_code\n"
        "call_code:\n"
        "    pushq %rbx; pushq %rbp; pushq %r12; pushq %r13; pushq %r14; pushq %r15\n"
        "    movq %rsp, resume_rsp(%rip)\n"
        "    leaq 6f(%rip), %rax\n"
        "    movq %rax, resume_rip(%rip)\n"
        "    pushq %rax\n"                              /* where its RET goes */
        "    pushq %rdi\n"
        "    movq regs(%rip), %rax\n"
        "    movq regs+8(%rip), %rcx; movq regs+16(%rip), %rdx; movq regs+24(%rip), %rbx; movq regs+40(%rip), %rbp\n"
        "    movq regs+48(%rip), %rsi; movq regs+56(%rip), %rdi; movq regs+64(%rip), %r8; movq regs+72(%rip), %r9\n"
        "    movq regs+80(%rip), %r10; movq regs+88(%rip), %r11; movq regs+96(%rip), %r12; movq regs+104(%rip), %r13\n"
        "    movq regs+112(%rip), %r14; movq regs+120(%rip), %r15\n"
        "    ret\n"
        "6:  movq resume_rsp(%rip), %rsp\n"
        "    cld\n"
        "    popq %r15; popq %r14; popq %r13; popq %r12; popq %rbp; popq %rbx\n"
        "    ret\n");

u8 tables[6 * 4096] __attribute__((aligned(4096)));
static u8 host_save[4096] __attribute__((aligned(4096))), own_state[4096] __attribute__((aligned(4096)));
static u8 stack[16384] __attribute__((aligned(16), used));
__asm__(".set stack_top, stack + 16384");
u64 regs[16], resume_rip, resume_rsp, caught_rax;
u64 fault_vector, fault_error, fault_rip;       /* of the last step: 0, or 100h + vector; -1 where there is no error code */
static u32 failed;

void enter_guest(u64 vmcb, u64 rflags);
void call_code(u64 address);
extern u8 stubs[];

static void out8(u16 port, u8 value) { __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port)); }
static u8 in8(u16 port)
{
    u8 value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static void say(const char *text)
{
    for (; *text; text++) {
        for (u32 tries = 0; tries < 1000000 && !(in8(0x3FD) & 0x20); tries++)
            ;
        out8(0x3F8, (u8)*text);
    }
}
static void say_number(u64 value)
{
    char text[18];
    for (u32 i = 0; i < 16; i++)
        text[i] = "0123456789ABCDEF"[value >> (60 - 4 * i) & 15];
    text[16] = 'h';
    text[17] = 0;
    say(text);
}

/* Resume points for instructions that may fault. */
#define GUARDED(instruction, ...)                                                                                                \
    do {                                                                                                                         \
        fault_vector = fault_error = fault_rip = 0;                                                                              \
        __asm__ volatile("movq %%rsp, resume_rsp(%%rip)\n    leaq 1f(%%rip), %%r11\n    movq %%r11, resume_rip(%%rip)\n    "      \
                         instruction "\n1:" __VA_ARGS__);                                                                        \
    } while (0)

static __attribute__((unused)) u64 rdmsr(u32 msr)
{
    u32 low = 0, high = 0;
    GUARDED("rdmsr", : "+a"(low), "+d"(high) : "c"(msr) : "r11", "memory");
    return low | (u64)high << 32;
}
static void wrmsr(u32 msr, u64 value)
{
    GUARDED("wrmsr", : : "a"((u32)value), "d"((u32)(value >> 32)), "c"(msr) : "r11", "memory");
}
static __attribute__((unused)) u32 cpuid(u32 leaf, u32 subleaf, u32 number)
{
    u32 r[4];
    __asm__ volatile("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "a"(leaf), "c"(subleaf));
    return r[number];
}

static __attribute__((unused)) void set(u64 address, u32 size, u64 value)
{
    for (u32 i = 0; i < size; i++)
        ((volatile u8 *)address)[i] = (u8)(value >> 8 * i);
}
static __attribute__((unused)) u64 get(u64 address, u32 size)
{
    u64 value = 0;
    for (u32 i = 0; i < size; i++)
        value |= (u64)((volatile u8 *)address)[i] << 8 * i;
    return value;
}
static __attribute__((unused)) void fill(u64 address, u32 size, u8 byte)
{
    while (size--)
        *(volatile u8 *)address++ = byte;
}
static __attribute__((unused)) void write(u64 address, const u8 *data, u32 size)
{
    while (size--)
        *(volatile u8 *)address++ = *data++;
}
static __attribute__((unused)) void copy(u64 to, u64 from, u32 size) { write(to, (const u8 *)from, size); }

/* Identity maps of 4 GiB: 0 long mode, 1 PAE, 2 two levels with 4 MiB pages, 3 long mode with 4 KiB pages for the first 32 MiB. */
static __attribute__((unused)) void identity_map(u64 address, u32 kind)
{
    u64 *at = (u64 *)address, flags = kind == 1 ? 1 : 7;
    if (kind == 2) {
        for (u32 i = 0; i < 1024; i++)
            ((u32 *)at)[i] = i << 22 | 0x87;
        return;
    }
    if (kind != 1) {
        fill(address, 4096, 0);
        at[0] = (address + 0x1000) | 7;
        at += 512;
    }
    fill((u64)at, 4096, 0);
    for (u32 i = 0; i < 4; i++)
        at[i] = ((u64)at + 0x1000 + i * 0x1000) | flags;
    u64 *directory = at + 512, *table = directory + 2048;
    for (u64 i = 0; i < 2048; i++)
        directory[i] = i << 21 | 0x87;
    for (u64 i = 0; kind == 3 && i < 16 * 512; i++) {
        table[i] = i << 12 | 7;
        directory[i / 512] = ((u64)table + i / 512 * 0x1000) | 7;
    }
}

/* Flags of vmrun(); RFLAGS.IF and TF are those of the host at VMRUN. */
enum { VMLOAD = 1, VMSAVE = 2, NO_CLGI = 4, IF = 8, NO_STGI = 16, TF = 256 };

/* Registers that the scenario does not set hold 5A5A_0000_0000_0000h and their number. */
static __attribute__((unused)) void default_registers(void)
{
    for (u32 i = 0; i < 16; i++)
        regs[i] = 0x5A5A000000000000ull + i;
}

static __attribute__((unused)) void vmrun(u64 vmcb, u32 flags)
{
    fault_vector = fault_error = fault_rip = 0;
    __asm__ volatile("vmsave %%rax" : : "a"(own_state) : "memory");
    if (flags & VMLOAD)
        __asm__ volatile("vmload %%rax" : : "a"(vmcb) : "memory");
    if (!(flags & NO_CLGI))
        __asm__ volatile("clgi");
    enter_guest(vmcb, 2 | (flags & IF ? 0x200 : 0) | (flags & TF ? 0x100 : 0));
    if (flags & VMSAVE && !fault_vector)
        __asm__ volatile("vmsave %%rax" : : "a"(vmcb) : "memory");
    __asm__ volatile("vmload %%rax" : : "a"(own_state) : "memory");
    if (!(flags & NO_STGI))
        __asm__ volatile("stgi");
}

/* EFER.SVME off and on again: an L0 may keep what it made of nested tables until then. */
static __attribute__((unused)) void svm_off_and_on(void)
{
    u64 efer = rdmsr(0xC0000080);
    wrmsr(0xC0000080, efer & ~0x1000ull);
    wrmsr(0xC0000080, efer | 0x1000);
    wrmsr(0xC0010117, (u64)host_save);
}

/* L1's control registers, DR6 and DR7 as they were, after code that may have changed them. */
static u64 own_cr0, own_cr4;
static __attribute__((unused)) void put_back(void)
{
    __asm__ volatile("movq %0, %%cr0; movq %1, %%cr4; movq %2, %%cr3" : : "r"(own_cr0), "r"(own_cr4), "r"(tables) : "memory");
    __asm__ volatile("movq %0, %%dr7; movq %1, %%dr6" : : "r"(0x400ull), "r"(0xFFFF0FF0ull));
    u64 efer = rdmsr(0xC0000080);
    if (!(efer & 0x1000))
        wrmsr(0xC0000080, efer | 0x1000);
    __asm__ volatile("stgi");
}

/* In the bits of `mask` the value must be (not, if `negated`) one of the set. */
static void expect(const char *name, u64 value, u64 mask, u32 negated, const u64 *set_of, u32 count)
{
    u32 found = 0;
    for (u32 i = 0; i < count; i++)
        found |= ((value ^ set_of[i]) & mask) == 0;
    if (found != negated) {
        say("  ok   ");
        say(name);
        say("\r\n");
        return;
    }
    failed++;
    say("  FAIL ");
    say(name);
    say(negated ? ": expected anything but" : ": expected");
    for (u32 i = 0; i < count; i++) {
        say(i ? " or " : " ");
        say_number(set_of[i]);
    }
    say(", got ");
    say_number(value & mask);
    if (mask != ~0ull) {
        say(", in the bits of ");
        say_number(mask);
    }
    say("\r\n");
}
#define EXPECT(name, value, mask, ...) \
    expect(name, value, mask, 0, (const u64[]){ __VA_ARGS__ }, sizeof((const u64[]){ __VA_ARGS__ }) / 8)
#define EXPECT_NOT(name, value, mask, ...) \
    expect(name, value, mask, 1, (const u64[]){ __VA_ARGS__ }, sizeof((const u64[]){ __VA_ARGS__ }) / 8)

/* @scenario@ */

static const char *run(void)
{
    if (!(cpuid(0x80000001, 0, 2) >> 2 & 1)) {
        say("this CPU has no SVM\r\n");
        return "SKIP";
    }
    wrmsr(0xC0000080, rdmsr(0xC0000080) | 0x1000);
    wrmsr(0xC0010117, (u64)host_save);
    __asm__ volatile("movq %%cr0, %0; movq %%cr4, %1" : "=r"(own_cr0), "=r"(own_cr4));
    put_back();
    if (!offered())
        return "SKIP";
    scenario();
    return failed ? "FAILURE" : "SUCCESS";
}

void kernel_main(void)
{
    static u64 idt[64] __attribute__((aligned(16)));
    struct {
        u16 limit;
        u64 base;
    } __attribute__((packed)) pointer = { sizeof(idt) - 1, (u64)idt };
    for (u64 i = 0; i < 32; i++) {
        u64 at = (u64)stubs + 16 * i;
        idt[2 * i] = (at & 0xFFFF) | 0x8E0000080000 | (at >> 16 & 0xFFFF) << 48;
        idt[2 * i + 1] = at >> 32;
    }
    __asm__ volatile("lidt %0" : : "m"(pointer));
    out8(0x21, 0xFF);                   /* no interrupts of the old controllers */
    out8(0xA1, 0xFF);
    out8(0x3FB, 0x80);                  /* 115200 8N1 */
    out8(0x3F8, 1);
    out8(0x3F9, 0);
    out8(0x3FB, 3);
    out8(0x3FA, 7);
    out8(0x3FC, 3);
    say("\r\n");
    say(title);
    const char *verdict = run();
    say("Test result: ");
    say(verdict);
    say("\r\n");
}
