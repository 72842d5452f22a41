/* Every exception and interrupt ends here, is recorded, and is survived if there is a way. */
#include "executor.h"

struct fixup {
    u64 from, to;
};
extern const struct fixup fixups_start[], fixups_end[];
extern u8 vmrun_insn_0[], vmrun_after_0[], vmrun_insn_1[], vmrun_after_1[];

static void fill_record(struct fault_record *record, const struct frame *frame, const struct cpu *cpu, u8 phase)
{
    u64 cr2, dr6;
    u32 vector = (u32)frame->vector;
    __asm__ volatile("movq %%cr2, %0" : "=r"(cr2));
    __asm__ volatile("movq %%dr6, %0" : "=r"(dr6));
    memset(record, 0, sizeof(*record));
    record->vector = (u8)vector;
    record->phase = phase;
    record->has_error = vector < 32 && (0x60227D00u >> vector & 1);     /* 8, 10-14, 17, 21, 29, 30 */
    record->cpu = (u8)cpu->index;
    record->error = (u32)frame->error;
    record->rip = frame->rip;
    record->cr2 = cr2;
    record->dr6 = dr6;
    record->rflags = frame->rflags;
    record->rsp = frame->rsp;
    record->cs = (u16)frame->cs;
}

/* Phase 1 covers what runs up to VMRUN; RIP tells VMRUN itself and the boundary after #VMEXIT apart from it.
 * An interrupt with RIP at VMRUN was taken before VMRUN began. */
static u8 phase_of(const struct cpu *cpu, const struct frame *frame, int asynchronous)
{
    u64 insn = (u64)(cpu->index ? vmrun_insn_1 : vmrun_insn_0), after = (u64)(cpu->index ? vmrun_after_1 : vmrun_after_0);
    if (cpu->phase != PHASE_BEFORE_VMRUN)
        return (u8)cpu->phase;
    if (frame->rip == after || (frame->rip == insn && !asynchronous))
        return PHASE_VMRUN;
    return frame->rip > after && frame->rip < after + 512 ? PHASE_GIF_PROBE : PHASE_BEFORE_VMRUN;
}

static void take_interrupt(struct cpu *cpu, struct frame *frame)
{
    u8 vector = (u8)frame->vector, phase = phase_of(cpu, frame, 1);
    cpu->interrupts++;
    cpu->own_probe += vector == VECTOR_GIF_PROBE;
    cpu->own_watchdog += vector == VECTOR_WATCHDOG;
    /* The executor's own vectors are events only where nothing at all should be taken. */
    if (vector < VECTOR_WATCHDOG || phase == PHASE_VMRUN || phase == PHASE_GIF_PROBE) {
        struct fault_record record;
        fill_record(&record, frame, cpu, phase);
        keep_event(cpu, &record);
    }
    if (vector != VECTOR_SPURIOUS)
        apic_eoi();
}

static void panic(struct cpu *cpu, const struct fault_record *record)
{
    u8 bytes[256];
    struct out text = { bytes, 0, sizeof(bytes) - 1, 0 };
    put_text(&text, "unexpected exception ");
    put_hex(&text, record->vector);
    put_text(&text, " error ");
    put_hex(&text, record->error);
    put_text(&text, " rip ");
    put_hex(&text, record->rip);
    put_text(&text, " cr2 ");
    put_hex(&text, record->cr2);
    put_text(&text, " rsp ");
    put_hex(&text, record->rsp);
    put_text(&text, " cpu ");
    put_hex(&text, record->cpu);
    put_text(&text, cpu->guard && cpu->panics < 8 && cpu->in_exception == 1 ? ": the step is given up" : ": the machine is reset");
    bytes[text.size] = 0;
    send_note((const char *)bytes);
}

static void leave_by_guard(struct cpu *cpu, struct frame *frame)
{
    frame->rip = (u64)guard_abort;
    frame->rsp = cpu->guard;
    frame->cs = SEL_CODE64;
    frame->ss = SEL_DATA;
    frame->rflags = 2;
}

void take_vector(struct frame *frame)
{
    struct cpu *cpu = this_cpu();
    u32 vector = (u32)frame->vector;
    if (vector >= 32) {
        take_interrupt(cpu, frame);
        return;
    }
    struct fault_record record;
    u8 phase = phase_of(cpu, frame, vector == 2);
    cpu->exceptions++;
    fill_record(&record, frame, cpu, phase);

    if (vector == 1 || vector == 2 || vector == 3) {    /* #DB, NMI, #BP: noted, and on */
        keep_event(cpu, &record);
        if (vector == 1) {
            cpu->tf_cleared |= frame->rflags >> 8 & 1;
            frame->rflags = (frame->rflags & ~0x100ull) | 0x10000;
            __asm__ volatile("movq %0, %%dr6" : : "r"(0xFFFF0FF0ull));  /* sticky, and told in the record */
        }
        return;
    }
    cpu->in_exception++;
    for (const struct fixup *fixup = fixups_start; fixup < fixups_end && cpu->in_exception == 1; fixup++) {
        if (fixup->from != frame->rip || frame->cs != SEL_CODE64)
            continue;
        cpu->last_fault = record;
        cpu->vmrun_faulted += phase == PHASE_VMRUN;
        if (cpu->vmrun_faulted > 16)
            break;
        if (!cpu->quiet)
            keep_event(cpu, &record);
        frame->rip = fixup->to;
        cpu->in_exception--;
        return;
    }
    if (cpu->in_blob && cpu->guard && cpu->in_exception == 1) {
        cpu->last_fault = record;
        memcpy(cpu->regs_out, frame->regs, sizeof(cpu->regs_out));
        cpu->rflags_out = frame->rflags;
        leave_by_guard(cpu, frame);
        cpu->in_exception--;
        return;
    }
    /* Not foreseen: say so, give up the step if that may help, else start afresh. */
    panic(cpu, &record);
    if (cpu->guard && cpu->panics < 8 && cpu->in_exception == 1) {
        cpu->panics++;
        cpu->last_fault = record;
        leave_by_guard(cpu, frame);
        cpu->in_exception--;
        return;
    }
    reset_machine();
}
