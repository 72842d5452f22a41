/* The local APIC through its memory page, and the 8259s put out of the way. */
#include "executor.h"

#define MSR_APIC_BASE 0x1B
enum { ID = 0x20, TPR = 0x80, PPR = 0xA0, EOI = 0xB0, SPURIOUS = 0xF0, ISR = 0x100, IRR = 0x200, ICR_LOW = 0x300, ICR_HIGH = 0x310,
       LVT_TIMER = 0x320, LVT_LINT0 = 0x350, LVT_LINT1 = 0x360, TIMER_INITIAL = 0x380, TIMER_CURRENT = 0x390, TIMER_DIVIDE = 0x3E0 };

static u64 page = 0xFEE00000;

static void write(u32 reg, u32 value) { *(volatile u32 *)(page + reg) = value; }
static u32 read(u32 reg) { return *(volatile u32 *)(page + reg); }

static void mask_pics(void)
{
    static const u16 port[] = { 0x20, 0xA0, 0x21, 0xA1, 0x21, 0xA1, 0x21, 0xA1, 0x21, 0xA1 };
    static const u8 value[] = { 0x11, 0x11, 0x20, 0x28, 4, 2, 1, 1, 0xFF, 0xFF };
    for (u32 i = 0; i < COUNT(port); i++)
        out8(port[i], value[i]);
}

void apic_start(void)
{
    struct cpu *cpu = this_cpu();
    if (cpu->index == 0)
        mask_pics();
    if (!features.apic)
        return;
    u64 value;
    cpu->quiet = 1;
    if (!try_rdmsr(MSR_APIC_BASE, &value)) {
        if ((value & 0xC00) == 0xC00)               /* left in x2APIC mode: only off leads back */
            try_wrmsr(MSR_APIC_BASE, value & ~0xC00ull);
        if ((value & 0xC00) != 0x800)
            try_wrmsr(MSR_APIC_BASE, value = (value & ~0x400ull) | 0x800);
        if ((value & 0xFFFFF000) && value < 1ull << 32)
            page = value & 0xFFFFF000;
    }
    cpu->quiet = 0;
    write(SPURIOUS, 0x100 | VECTOR_SPURIOUS);
    write(TPR, 0);
    write(LVT_TIMER, 0x10000);
    write(LVT_LINT0, 0x10000);
    write(LVT_LINT1, 0x400);                        /* NMI */
    write(TIMER_DIVIDE, 3);                         /* by 16 */
}

u32 apic_id(void) { return features.apic ? read(ID) >> 24 : 0; }
void apic_eoi(void)
{
    if (features.apic)
        write(EOI, 0);
}

static int any_of(u32 reg)
{
    for (u32 i = 1; i < 8; i++)
        if (read(reg + i * 0x10))
            return 1;
    return 0;
}

/* An interrupt that L2 took through its own IDT was never ended. PPR is not below the class of what is in service: where it is 0
 * one read stands for seven, each of which may be an exit to L0. */
void apic_clear_in_service(void)
{
    if (!features.apic || !(read(PPR) & 0xF0))
        return;
    for (u32 i = 0; i < 16 && any_of(ISR); i++)
        write(EOI, 0);
}

void apic_send(u32 destination, u32 command)
{
    if (!features.apic)
        return;
    for (u32 i = 0; i < 100000 && read(ICR_LOW) & 0x1000; i++)
        PAUSE();
    write(ICR_HIGH, destination << 24);
    write(ICR_LOW, command);
}

void apic_send_self(u8 vector)
{
    if (features.apic)
        write(ICR_LOW, 0x40000 | APIC_FIXED | vector);
}

/* The vectors that wait beside this one: bit 0 is the first of its 32. */
u32 apic_requested_beside(u8 vector) { return features.apic ? read(IRR + (vector >> 5) * 0x10) : 0; }
int apic_requested(u8 vector) { return apic_requested_beside(vector) >> (vector & 31) & 1; }
int apic_anything_requested(void) { return features.apic && any_of(IRR); }

void apic_timer(u8 vector, u32 initial_count)
{
    if (!features.apic)
        return;
    write(LVT_TIMER, vector);
    write(TIMER_INITIAL, initial_count ? initial_count : 1);
}

void apic_timer_stop(void)
{
    if (!features.apic)
        return;
    write(TIMER_INITIAL, 0);                        /* stopped, it raises nothing: its LVT need not be masked */
}

u32 apic_timer_count(void) { return features.apic ? read(TIMER_CURRENT) : 0; }
