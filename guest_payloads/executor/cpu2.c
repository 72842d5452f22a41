/* The second CPU: woken at boot, asleep until it is handed a list of steps. */
#include "executor.h"

enum { ABSENT, IDLE, READY, RUNNING, DONE };

u32 cpu_count = 1;
u32 cpu_apic_ids[CPUS_MAX];

static volatile u32 state;
static u8 list[CPU2_LIST_MAX] NOINIT, answer[CPU2_LIST_MAX] NOINIT;
static u32 list_size, answer_size;
static run_steps_t *run_list;    /* the interpreter, which knows this file */
extern u8 trampoline_start[], trampoline_end[];
void cpu2_main(void);

void start_cpu2(run_steps_t *run)
{
    run_list = run;
    cpu_apic_ids[0] = apic_id();
    if (!features.apic || !find_other_cpu(cpu_apic_ids[0], &cpu_apic_ids[1]))
        return;
    memset(cpu_at(1), 0, sizeof(struct cpu));
    cpu_at(1)->index = 1;
    memcpy((void *)TRAMPOLINE_PA, trampoline_start, (unsigned long)(trampoline_end - trampoline_start));
    apic_send(cpu_apic_ids[1], APIC_INIT);
    wait_us(200);
    /* The MADT says that it is there. On a busy host the thread that plays it may come late: the second wait is a second. */
    for (u32 attempt = 0; attempt < 2 && state == ABSENT; attempt++) {
        apic_send(cpu_apic_ids[1], APIC_STARTUP | TRAMPOLINE_PA >> 12);
        for (u32 tries = 0; tries < (attempt ? 10000 : 200) && state == ABSENT; tries++)
            wait_us(100);
    }
    if (state != ABSENT)
        cpu_count = 2;
}

/* Never returns: waits for lists for ever by nature, asleep in HLT until CPU 0 wakes it. */
void cpu2_main(void)
{
    struct cpu *cpu = this_cpu();
    load_descriptors(1);
    enable_features();
    apic_start();
    state = IDLE;
    for (;;) {
        cpu->quiet = 1;
        if (svme_is_set())
            try_stgi();
        cpu->quiet = 0;
        __asm__ volatile("movq %0, %%cr8" : : "r"(0ull));
        while (state != READY)
            __asm__ volatile("sti; hlt; cli" : : : "memory");
        state = RUNNING;
        struct out out = { answer, 0, sizeof(answer), 0 };
        run_list(list, list_size, &out);
        answer_size = out.size;
        BARRIER();
        state = DONE;
    }
}

u8 cpu2_run(const u8 *steps, u32 size)
{
    if (size > sizeof(list))
        return STATUS_NO_ROOM;
    if (state != IDLE)                  /* still at the last list, or not joined */
        return STATUS_BAD_STEP;
    memcpy(list, steps, size);
    list_size = size;
    BARRIER();
    state = READY;
    apic_send(cpu_apic_ids[1], APIC_FIXED | VECTOR_WAKE);
    /* It is awake when this step ends: an interrupt sent to it next is not taken in its sleep. */
    for (u32 tries = 0; tries < 1000 && state == READY; tries++)
        wait_us(100);
    return state == READY ? STATUS_TIMEOUT : STATUS_OK;
}

u8 cpu2_join(u32 timeout_us, struct out *out)
{
    if (state == IDLE)
        return STATUS_BAD_STEP;
    u64 start = rdtsc(), span = tsc_from_us(timeout_us);
    for (u64 tries = 0; state != DONE && tries < 1000ull * timeout_us && rdtsc() - start < span; tries++)
        PAUSE();
    if (state != DONE)
        return STATUS_TIMEOUT;
    put_bytes(out, answer, answer_size);
    state = IDLE;
    return STATUS_OK;
}
