/* What a CPU took, kept until a step reports it. */
#include "executor.h"

void keep_event(struct cpu *cpu, const struct fault_record *record)
{
    if (cpu->event_count < EVENTS_MAX)
        cpu->events[cpu->event_count++] = *record;
    else if (record->phase == PHASE_VMRUN && record->vector < 32)
        cpu->events[EVENTS_MAX - 1] = *record;  /* a flood must not hide that VMRUN faulted: the step's result says so */
}

/* Events wait from the list's start until a step reports them, so that an NMI taken between two steps is not lost. */
void put_events(struct out *out, struct cpu *cpu)
{
    put_bytes(out, cpu->events, cpu->event_count * (u32)sizeof(struct fault_record));
    cpu->event_count = 0;
}
