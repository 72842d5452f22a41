/* VMRUN: enter L2 once, and say all that came of it. The order of things is the protocol's (docs/link-protocol.md, VMRUN). */
#include "executor.h"

#define RFLAGS_TF 0x100
#define RFLAGS_IF 0x200
#define MSR_EFER 0xC0000080
#define EFER_SVME 0x1000

struct vmrun_area {
    u64 in[16], out[16], rflags_in, rflags_out, rsp_kept, rsp_out;
    u16 selectors[8];           /* CS SS DS ES */
};
_Static_assert(sizeof(struct vmrun_area) == AREA_SIZE, "layout.h");
_Static_assert(__builtin_offsetof(struct vmrun_area, out) == AREA_OUT, "layout.h");
_Static_assert(__builtin_offsetof(struct vmrun_area, rflags_in) == AREA_RFLAGS_IN, "layout.h");
_Static_assert(__builtin_offsetof(struct vmrun_area, rflags_out) == AREA_RFLAGS_OUT, "layout.h");
_Static_assert(__builtin_offsetof(struct vmrun_area, rsp_kept) == AREA_RSP_KEPT, "layout.h");
_Static_assert(__builtin_offsetof(struct vmrun_area, rsp_out) == AREA_RSP_OUT, "layout.h");
_Static_assert(__builtin_offsetof(struct vmrun_area, selectors) == AREA_SELECTORS, "layout.h");

extern struct vmrun_area vmrun_area_0, vmrun_area_1;
void enter_guest_0(void);
void enter_guest_1(void);

static u8 vmcb_before[CPUS_MAX][4096] NOINIT PAGE_ALIGNED;
static u8 own_state[CPUS_MAX][4096] NOINIT PAGE_ALIGNED;       /* L1's own FS, GS, TR, LDTR and MSRs */

struct run {
    struct cpu *cpu;
    struct vmrun_area *area;
    u64 rax, efer, cycles;
    u32 flags, watchdog_us, watchdog_ticks, watchdogs_before, result;
    u8 entered;                 /* VMRUN was reached */
    u8 probe_waits;
    u16 serial;                 /* of the state kept */
    struct host_state *before, after;
};

static void note_watchdog(struct run *run, u32 requested)
{
    if (run->watchdog_ticks && (run->cpu->own_watchdog != run->watchdogs_before || requested >> (VECTOR_WATCHDOG & 31) & 1))
        run->result |= RESULT_WATCHDOG;
}

/* An IPI to ourselves must stay pending while GIF is 0, whatever RFLAGS.IF says. */
static void probe_gif(struct run *run)
{
    struct cpu *cpu = run->cpu;
    u32 taken = cpu->own_probe, tries = 0, requested = 0;
    apic_send_self(VECTOR_GIF_PROBE);
    while (tries < 10000 && !run->probe_waits && cpu->own_probe == taken) {
        requested = apic_requested_beside(VECTOR_GIF_PROBE);
        run->probe_waits = requested >> (VECTOR_GIF_PROBE & 31) & 1;
        tries++;
    }
    note_watchdog(run, requested);      /* its vector is next to the probe's: one read of the APIC less */
    open_window();
    run->result |= RESULT_PROBED;
    if (cpu->own_probe != taken)
        run->result |= RESULT_PROBE_TAKEN;
    else if (!run->probe_waits)
        run->result |= RESULT_PROBE_NOT_SEEN;
}

/* The probe has the highest priority: what else waits is taken after it, in the same window. Where it came alone nothing waits any
 * more, and to look would be seven exits to L0. */
static int only_probe_came(const struct cpu *cpu)
{
    u32 probes = cpu->own_probe, interrupts = cpu->interrupts;
    open_window();
    return cpu->own_probe == probes + 1 && cpu->interrupts == interrupts + 1;
}

static void enter(struct run *run)
{
    struct cpu *cpu = run->cpu;
    struct vmrun_area *area = run->area;
    run->watchdogs_before = cpu->own_watchdog;
    if (!(run->flags & VMRUN_NO_WATCHDOG))
        run->watchdog_ticks = apic_ticks_from_us(run->watchdog_us ? run->watchdog_us : WATCHDOG_DEFAULT_US);
    area->in[0] = run->rax;
    area->rflags_in = 2 | (run->flags & VMRUN_IF ? RFLAGS_IF : 0) | (run->flags & VMRUN_TF ? RFLAGS_TF : 0);
    cpu->tf_cleared = 0;
    if (run->watchdog_ticks)
        apic_timer(VECTOR_WATCHDOG, run->watchdog_ticks);

    u64 start = rdtsc();
    if (cpu->index)
        enter_guest_1();
    else
        enter_guest_0();
    run->cycles = rdtsc() - start;
    cpu->phase = PHASE_GIF_PROBE;
    cpu->quiet = 1;
    if (!(run->flags & VMRUN_NO_HOST_STATE)) {
        read_host_state(&run->after, read_efer());
        for (u32 i = 0; i < 4; i++)
            run->after.value[ITEM_CS - 1 + i] = area->selectors[i];
        run->after.value[ITEM_RFLAGS - 1] = area->rflags_out | (run->flags & VMRUN_TF && cpu->tf_cleared ? RFLAGS_TF : 0);
        run->after.value[ITEM_RSP - 1] = area->rsp_out;
        run->after.value[ITEM_RAX - 1] = area->out[0];
        run->before->value[ITEM_RFLAGS - 1] = area->rflags_in;
        run->before->value[ITEM_RSP - 1] = area->rsp_kept;
        run->before->value[ITEM_RAX - 1] = run->rax;
    }
    cpu->quiet = 0;
    if (run->watchdog_ticks)
        apic_timer_stop();
    if (cpu->vmrun_faulted)
        run->result |= RESULT_VMRUN_FAULTED;
}

/* Reading it again would be four more exits to L0. */
static struct sane_state sane_part(const struct host_state *state)
{
    const u64 *v = state->value;
    return (struct sane_state){ v[ITEM_CR0 - 1], v[ITEM_CR3 - 1], v[ITEM_CR4 - 1], v[ITEM_DR7 - 1] };
}

/* Everything between VMSAVE and VMLOAD of L1's own state. */
static int enter_with_hidden_state(struct run *run)
{
    struct cpu *cpu = run->cpu;
    struct sane_state sane;
    cpu->phase = PHASE_BEFORE_VMRUN;
    if (run->flags & VMRUN_VMLOAD && try_vmload(run->rax))
        return 0;
    u64 page = run->rax & ~0xFFFull;
    if (page >= ARENA_BASE && page < ARENA_BASE + ARENA_SIZE)
        memcpy(vmcb_before[cpu->index], (const void *)page, 4096);
    else
        run->result |= RESULT_NOT_COMPARED;
    if (!(run->flags & VMRUN_NO_HOST_STATE))
        read_host_state(run->before = keep_state(cpu->index, &run->serial), run->efer);
    else
        read_sane_state(&sane);
    if (run->efer & EFER_SVME && !(run->flags & VMRUN_NO_CLGI))
        try_clgi();
    enter(run);

    /* An L0 that lost host state has been told on by now; what the executor needs is put back. */
    if (run->flags & VMRUN_NO_HOST_STATE) {
        restore_sane_state(&sane);
    } else {
        struct sane_state now = sane_part(&run->after);
        sane = sane_part(run->before);
        restore_from(&now, &sane);
        cpu->quiet = 1;
        if (run->after.value[ITEM_EFER - 1] != run->before->value[ITEM_EFER - 1])
            try_wrmsr(MSR_EFER, run->before->value[ITEM_EFER - 1]);
        cpu->quiet = 0;
        if (run->after.value[ITEM_CR8 - 1] != run->before->value[ITEM_CR8 - 1])
            __asm__ volatile("movq %0, %%cr8" : : "r"(run->before->value[ITEM_CR8 - 1]));
    }
    if (!cpu->vmrun_faulted && !(run->flags & VMRUN_NO_GIF_PROBE))
        probe_gif(run);
    else
        note_watchdog(run, run->watchdog_ticks ? apic_requested_beside(VECTOR_WATCHDOG) : 0);
    if (run->flags & VMRUN_VMSAVE)
        return !try_vmsave(run->rax);
    return 1;
}

static void put_differences(struct out *out, const u8 *before, const u8 *now, u16 *count)
{
    u32 at = 0;
    while (at < 4096) {
        u64 left, right;
        memcpy(&left, before + (at & ~7u), 8);
        memcpy(&right, now + (at & ~7u), 8);
        if (left == right) {
            at = (at & ~7u) + 8;
            continue;
        }
        if (before[at] == now[at]) {
            at++;
            continue;
        }
        u32 start = at, end = at + 1;           /* a run ends where 4 bytes in a row are the same */
        for (at = end; at < 4096 && at - end < 4; at++)
            if (before[at] != now[at])
                end = at + 1;
        put16(out, (u16)start);
        put16(out, (u16)(end - start));
        put_bytes(out, now + start, end - start);
        (*count)++;
    }
}

static void put_run(struct run *run, struct out *out)
{
    struct cpu *cpu = run->cpu;
    u16 changed = 0, differences = 0, host_differences = 0;
    if (run->entered)
        for (u32 reg = 1; reg < 16; reg++)
            if (reg != 4 && run->area->out[reg] != run->area->in[reg])
                changed |= (u16)(1 << reg);
    u32 counts_at = out->size + 16;
    put32(out, run->result | (run->entered ? (u32)run->serial << 16 : 0));
    put64(out, run->cycles);
    put16(out, changed);
    put16(out, (u16)cpu->event_count);
    put32(out, 0);
    for (u32 reg = 1; reg < 16; reg++)
        if (changed >> reg & 1)
            put64(out, run->area->out[reg]);
    put_events(out, cpu);
    if (run->entered && !(run->result & RESULT_NOT_COMPARED))
        put_differences(out, vmcb_before[cpu->index], (const u8 *)(run->rax & ~0xFFFull), &differences);
    if (run->entered && !(run->flags & VMRUN_NO_HOST_STATE))
        host_differences = (u16)put_host_differences(out, run->before, &run->after);
    if (!out->full) {
        memcpy(out->base + counts_at, &differences, 2);
        memcpy(out->base + counts_at + 2, &host_differences, 2);
    }
}

u8 step_vmrun(struct in *in, struct out *out)
{
    struct cpu *cpu = this_cpu();
    struct run run;
    memset(&run, 0, __builtin_offsetof(struct run, after));
    run.cpu = cpu;
    run.area = cpu->index ? &vmrun_area_1 : &vmrun_area_0;
    run.rax = get64(in);
    run.flags = get32(in);
    run.watchdog_us = get32(in);
    u16 mask = get16(in);
    get16(in);
    for (u32 reg = 0; reg < 16; reg++)
        run.area->in[reg] = mask >> reg & 1 ? get64(in) : 0x5A5A000000000000ull + reg;
    if (in->bad || in->left || mask & 0x11 || run.flags > 0x7FF)
        return STATUS_BAD_STEP;

    run.efer = read_efer();
    int svme = (run.efer & EFER_SVME) != 0;
    cpu->quiet = 1;
    cpu->vmrun_faulted = 0;
    int saved = svme && !try_vmsave((u64)own_state[cpu->index]);
    cpu->quiet = 0;
    load_idt(0);
    int ok = enter_with_hidden_state(&run);
    run.entered = cpu->phase != PHASE_BEFORE_VMRUN;
    cpu->quiet = 1;
    if (run.flags & VMRUN_KEEP_HIDDEN)
        reload_tr(cpu->index);
    else if (saved)
        try_vmload((u64)own_state[cpu->index]);
    load_idt(1);
    cpu->phase = PHASE_DRAIN;
    if (svme && !(run.flags & VMRUN_NO_STGI)) {
        try_stgi();
        if (!(run.flags & VMRUN_NO_DRAIN) && !(run.probe_waits && only_probe_came(cpu)))
            drain_interrupts();
    }
    cpu->quiet = 0;
    cpu->phase = PHASE_NONE;
    apic_clear_in_service();
    put_run(&run, out);
    return ok && !cpu->vmrun_faulted ? STATUS_OK : STATUS_FAULT;
}
