/* CODE: run a scenario's bytes in L1. */
#include "executor.h"

#define RFLAGS_IF 0x200

static void call(void *argument) { call_blob(argument); }

static void restore_after_blob(struct cpu *cpu, u32 flags)
{
    restore_descriptors(cpu->index);
    set_data_segments();
    if (flags & CODE_LEAVE_STATE) {
        struct sane_state state;        /* all stays, but CR3: the executor must find its memory */
        read_sane_state(&state);
        state.cr3 = boot_state.cr3;
        restore_sane_state(&state);
        return;
    }
    restore_sane_state(&boot_state);
    cpu->quiet = 1;
    u64 efer, dr6;
    __asm__ volatile("movq %%dr6, %0" : "=r"(dr6));
    if (dr6 != 0xFFFF0FF0)
        __asm__ volatile("movq %0, %%dr6" : : "r"(0xFFFF0FF0ull));
    if (features.svm && !try_rdmsr(0xC0000080, &efer)) {
        if (!(efer >> 12 & 1))
            try_wrmsr(0xC0000080, efer | 0x1000);
        try_stgi();
    }
    cpu->quiet = 0;
    apic_clear_in_service();
}

/* The watchdog is for a guest that the blob enters: it ends an endless L2, as VMRUN's does. */
struct watchdog {
    u32 ticks, seen;
};

static void start_watchdog(struct watchdog *watchdog, const struct cpu *cpu, u32 milliseconds)
{
    watchdog->ticks = milliseconds ? apic_ticks_from_us(1000 * milliseconds) : 0;
    watchdog->seen = cpu->own_watchdog;
    if (watchdog->ticks)
        apic_timer(VECTOR_WATCHDOG, watchdog->ticks);
}

/* Whether it fired. What waits is taken now, so that it does not end the next L2. */
static u32 stop_watchdog(const struct watchdog *watchdog, struct cpu *cpu)
{
    if (!watchdog->ticks)
        return 0;
    apic_timer_stop();
    int waits = apic_requested(VECTOR_WATCHDOG);
    cpu->phase = PHASE_DRAIN;
    drain_interrupts();
    cpu->phase = PHASE_NONE;
    return waits || cpu->own_watchdog != watchdog->seen ? CODE_RESULT_WATCHDOG : 0;
}

u8 step_code(struct in *in, struct out *out)
{
    struct cpu *cpu = this_cpu();
    struct watchdog watchdog;
    u64 address = get64(in);
    u32 flags = get32(in);
    u16 mask = get16(in), changed = 0;
    memset(cpu->regs_in, 0, sizeof(cpu->regs_in));
    for (u32 reg = 0; reg < 16; reg++)
        if (mask >> reg & 1)
            cpu->regs_in[reg] = get64(in);
    if (in->bad || in->left || mask & 1 << 4 || (flags & 0xFFFF) > CODE_FLAGS)
        return STATUS_BAD_STEP;
    if (!in_scenario_memory(address, 1))
        return STATUS_BAD_ADDRESS;

    cpu->blob_address = address;
    cpu->blob_rflags = 2 | (flags & CODE_IF ? RFLAGS_IF : 0);
    cpu->in_blob = 1;
    start_watchdog(&watchdog, cpu, flags >> CODE_WATCHDOG_SHIFT);
    int faulted = guarded(call, cpu);
    cpu->in_blob = 0;
    restore_after_blob(cpu, flags);
    u32 result = stop_watchdog(&watchdog, cpu);

    if (faulted)
        put_bytes(out, &cpu->last_fault, sizeof(cpu->last_fault));
    for (u32 reg = 0; reg < 16; reg++)
        if (reg != 4 && cpu->regs_out[reg] != cpu->regs_in[reg])
            changed |= (u16)(1 << reg);
    put16(out, changed);
    put16(out, (u16)cpu->event_count);
    put32(out, result);
    put64(out, cpu->rflags_out);
    for (u32 reg = 0; reg < 16; reg++)
        if (changed >> reg & 1)
            put64(out, cpu->regs_out[reg]);
    put_events(out, cpu);
    return faulted ? STATUS_FAULT : STATUS_OK;
}
