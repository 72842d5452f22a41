/* The steps that raise and observe interrupts. */
#include "executor.h"

/* Takes all that is pending; each round of the window is a few instructions. */
void drain_interrupts(void)
{
    for (u32 round = 0; round < 64; round++) {
        open_window();
        if (!apic_anything_requested())
            break;
    }
}

u8 step_raise(struct in *in, struct out *out)
{
    u8 kind = get8(in), vector = get8(in), target = get8(in);
    get8(in);
    u32 delay_us = get32(in);
    if (in->bad || in->left || kind > 5)
        return STATUS_BAD_STEP;
    int has_vector = kind == 0 || kind == 3 || kind == 4;
    if (has_vector && (vector < VECTOR_SCENARIO_FIRST || vector > VECTOR_SCENARIO_LAST))
        return STATUS_BAD_STEP;
    if (kind >= 4 && target >= cpu_count)
        return STATUS_NO_CPU;
    u8 pending = 0;
    u32 own = cpu_apic_ids[this_cpu()->index];
    switch (kind) {
    case 0:
        apic_send_self(vector);
        for (u32 tries = 0; tries < 10000 && !pending; tries++)
            pending = (u8)apic_requested(vector);
        break;
    case 1:                                         /* the "self" shorthand is for fixed interrupts alone */
        apic_send(own, APIC_NMI);
        wait_us(10);                                /* it is in no register: by then it has arrived */
        break;
    case 2: apic_send(own, APIC_INIT); break;
    case 3: apic_timer(vector, apic_ticks_from_us(delay_us)); break;
    case 4: apic_send(cpu_apic_ids[target], APIC_FIXED | vector); break;
    case 5: apic_send(cpu_apic_ids[target], APIC_NMI); break;
    }
    put8(out, pending);
    return STATUS_OK;
}

u8 step_window(struct in *in, struct out *out)
{
    struct cpu *cpu = this_cpu();
    u32 duration_us = get32(in), flags = get32(in);
    if (in->bad || in->left || duration_us > WINDOW_MAX_US || flags > 7)
        return STATUS_BAD_STEP;
    u64 span = tsc_from_us(duration_us);
    cpu->phase = PHASE_WINDOW;
    cpu->quiet = 1;
    if (flags & WINDOW_STGI)
        try_stgi();
    u64 start = rdtsc();
    if (!(flags & WINDOW_NO_IF))
        __asm__ volatile("sti" : : : "memory");
    for (u64 tries = 0; tries < 1000ull * WINDOW_MAX_US && rdtsc() - start < span; tries++)
        PAUSE();
    if (!(flags & WINDOW_NO_IF)) {
        __asm__ volatile("cli" : : : "memory");
        drain_interrupts();
    }
    if (flags & WINDOW_CLGI)
        try_clgi();
    cpu->quiet = 0;
    cpu->phase = PHASE_NONE;
    apic_clear_in_service();
    put16(out, (u16)cpu->event_count);
    put16(out, 0);
    put_events(out, cpu);
    return STATUS_OK;
}
