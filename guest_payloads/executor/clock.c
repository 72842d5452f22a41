/* How fast the TSC and the APIC timer run. Found out when first needed, so that booting does not wait for it. */
#include "executor.h"

#define PIT_HZ 1193182
#define PIT_COUNT 3000                  /* 2.5 ms */

static u32 tsc_khz, apic_khz;           /* the APIC timer's after its division by 16 */

/* Some hypervisors just say it. */
static int ask_hypervisor(void)
{
    u32 r[4], maximum;
    cpuid(1, 0, r);
    if (!(r[2] >> 31))
        return 0;
    cpuid(0x40000000, 0, r);
    maximum = r[0];
    if (r[1] == 0x566E6558 && maximum >= 0x40000003) {          /* Xen: its virtual APIC bus runs at 100 MHz */
        cpuid(0x40000003, 0, r);
        tsc_khz = r[2];
        apic_khz = 100000 / 16;
    } else if (maximum >= 0x40000010 && maximum < 0x40000100) {
        cpuid(0x40000010, 0, r);
        tsc_khz = r[0];
        apic_khz = r[1] / 16;
    }
    return tsc_khz > 1000 && apic_khz > 100;
}

/* PIT channel 2 counts on after its end, so reading it back tells how long we really waited, even if we were held up. */
static int measure(void)
{
    u8 gate = in8(0x61);
    if (gate == 0xFF)
        return 0;
    out8(0x61, (u8)((gate & ~2) | 1));
    out8(0x43, 0xB0);
    out8(0x42, PIT_COUNT & 0xFF);
    out8(0x42, PIT_COUNT >> 8);
    apic_timer(VECTOR_WATCHDOG, 0xFFFFFFFF);
    u64 start = rdtsc();
    u32 tries = 200000, apic_start_count = apic_timer_count();
    while (tries && !(in8(0x61) & 0x20))
        tries--;
    out8(0x43, 0x80);                   /* latch */
    u64 tsc = rdtsc() - start;
    u32 apic = apic_start_count - apic_timer_count();
    u32 count = in8(0x42);
    count |= (u32)in8(0x42) << 8;
    apic_timer_stop();
    out8(0x61, gate);
    u32 elapsed = PIT_COUNT + (0x10000 - count) % 0x10000;
    if (!tries)
        return 0;
    tsc_khz = (u32)(tsc * PIT_HZ / 1000 / elapsed);
    apic_khz = (u32)((u64)apic * PIT_HZ / 1000 / elapsed);
    return tsc_khz > 1000 && apic_khz > 100;
}

static void calibrate(void)
{
    if (tsc_khz || ask_hypervisor() || measure())
        return;
    tsc_khz = 2000000;                  /* a guess, for want of anything to measure by */
    apic_khz = 1000000 / 16;
}

u64 tsc_from_us(u64 us)
{
    calibrate();
    return us * tsc_khz / 1000;
}

u32 apic_ticks_from_us(u64 us)
{
    calibrate();
    u64 ticks = us * apic_khz / 1000;
    return ticks > 0xFFFFFFFF ? 0xFFFFFFFF : (u32)ticks;
}

/* The tries are a second bound, for a TSC that does not run. */
void wait_us(u32 us)
{
    u64 start = rdtsc(), span = tsc_from_us(us);
    for (u64 tries = 0; tries < (u64)us * 1000 && rdtsc() - start < span; tries++)
        PAUSE();
}
