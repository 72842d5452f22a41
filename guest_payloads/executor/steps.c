/* The one interpreter of steps: served requests, the memory lane, bundles and the second CPU all come through here. It knows
 * every step, and no step knows it: what a step needs lies in the files below (memory.c, events.c). */
#include "executor.h"

static u8 step_cpuid(struct in *in, struct out *out)
{
    u32 leaf = get32(in), subleaf = get32(in), result[4];
    if (in->bad || in->left)
        return STATUS_BAD_STEP;
    cpuid(leaf, subleaf, result);
    put_bytes(out, result, sizeof(result));
    return STATUS_OK;
}

static u8 step_rdmsr(struct in *in, struct out *out)
{
    u32 msr = get32(in);
    u64 value;
    if (in->bad || in->left)
        return STATUS_BAD_STEP;
    this_cpu()->quiet = 1;              /* a fault is the answer here, not an event */
    int faulted = try_rdmsr(msr, &value);
    this_cpu()->quiet = 0;
    if (faulted) {
        put_bytes(out, &this_cpu()->last_fault, sizeof(struct fault_record));
        return STATUS_FAULT;
    }
    put64(out, value);
    return STATUS_OK;
}

static u8 step_wrmsr(struct in *in, struct out *out)
{
    u32 msr = get32(in);
    u64 value = get64(in);
    if (in->bad || in->left)
        return STATUS_BAD_STEP;
    this_cpu()->quiet = 1;
    int faulted = try_wrmsr(msr, value);
    this_cpu()->quiet = 0;
    if (faulted) {
        put_bytes(out, &this_cpu()->last_fault, sizeof(struct fault_record));
        return STATUS_FAULT;
    }
    return STATUS_OK;
}

static u8 step_host_state(struct in *in, struct out *out)
{
    struct host_state state;
    if (in->left) {             /* as it was at a VMRUN */
        u16 cpu = get16(in), serial = get16(in);
        const struct host_state *kept = in->bad || in->left ? 0 : kept_state(cpu, serial);
        if (!kept)
            return STATUS_BAD_STEP;
        put_host_state(out, kept);
        return STATUS_OK;
    }
    this_cpu()->quiet = 1;
    read_host_state(&state, read_efer());
    this_cpu()->quiet = 0;
    put_host_state(out, &state);
    return STATUS_OK;
}

static u8 step_cpu_start(struct in *in)
{
    u8 target = get8(in);
    get8(in);
    get16(in);
    if (in->bad || target == 0 || this_cpu()->index != 0)
        return STATUS_BAD_STEP;
    if (target >= cpu_count)
        return STATUS_NO_CPU;
    return cpu2_run(in->at, in->left);
}

static u8 step_cpu_join(struct in *in, struct out *out)
{
    u8 target = get8(in);
    get8(in);
    get16(in);
    u32 timeout_us = get32(in);
    if (in->bad || in->left || target == 0 || this_cpu()->index != 0)
        return STATUS_BAD_STEP;
    if (target >= cpu_count)
        return STATUS_NO_CPU;
    return cpu2_join(timeout_us, out);
}

static u8 step_faults(struct in *in, struct out *out)
{
    u32 exceptions = 0, interrupts = 0;
    if (in->left)
        return STATUS_BAD_STEP;
    for (u32 i = 0; i < cpu_count; i++) {
        exceptions += cpu_at(i)->exceptions;
        interrupts += cpu_at(i)->interrupts;
    }
    put32(out, exceptions);
    put32(out, interrupts);
    return STATUS_OK;
}

static u8 do_step(u8 op, struct in *in, struct out *out)
{
    switch (op) {
    case STEP_MEM_WRITE: return step_mem_write(in);
    case STEP_MEM_FILL: return step_mem_fill(in);
    case STEP_MEM_READ: return step_mem_read(in, out);
    case STEP_MEM_COPY: return step_mem_copy(in);
    case STEP_TABLES: return step_tables(in, out);
    case STEP_CPUID: return step_cpuid(in, out);
    case STEP_RDMSR: return step_rdmsr(in, out);
    case STEP_WRMSR: return step_wrmsr(in, out);
    case STEP_CODE: return step_code(in, out);
    case STEP_VMRUN: return step_vmrun(in, out);
    case STEP_RAISE: return step_raise(in, out);
    case STEP_WINDOW: return step_window(in, out);
    case STEP_HOST_STATE: return step_host_state(in, out);
    case STEP_CPU_START: return step_cpu_start(in);
    case STEP_CPU_JOIN: return step_cpu_join(in, out);
    case STEP_FAULTS: return step_faults(in, out);
    default: return STATUS_BAD_STEP;
    }
}

struct step {
    u8 op, status;
    struct in in;
    struct out *out;
};

static void do_guarded_step(void *argument)
{
    struct step *step = argument;
    step->status = do_step(step->op, &step->in, step->out);
}

/* An exception nobody foresaw ended the step: back to a state the next step can stand on. */
static void recover(struct cpu *cpu)
{
    cpu->phase = PHASE_NONE;
    cpu->quiet = cpu->in_blob = 0;
    set_data_segments();
    load_idt(1);
    reload_tr(cpu->index);
    restore_sane_state(&boot_state);
    if (svme_is_set())
        try_stgi();
}

static void put_record(struct out *out, u32 at, u8 op, u8 status, u16 tag)
{
    u32 header[2] = { op | (u32)status << 8 | (u32)tag << 16, out->size - at - 8 };
    memcpy(out->base + at, header, 8);
}

/* Each step leaves 8 bytes free, so that a NO_ROOM or BAD_STEP record always fits after it. */
void run_steps(const u8 *list, u32 size, struct out *out)
{
    struct in in = { list, size, 0 };
    u32 max = out->max;
    u8 status = STATUS_OK;
    this_cpu()->event_count = 0;
    while (in.left && (status == STATUS_OK || status == STATUS_FAULT)) {
        struct step step = { .out = out };
        step.op = get8(&in);
        get8(&in);
        u16 tag = get16(&in);
        u32 body_size = get32(&in), at = out->size;
        step.in.at = get_bytes(&in, body_size);
        step.in.left = body_size;
        out->size += 8;
        out->max = max - 8;
        out->full = out->size > out->max;
        if (in.bad) {
            out->full = 0;
            status = STATUS_BAD_STEP;
        } else if (!out->full) {
            step.status = STATUS_BAD_STEP;
            if (guarded(do_guarded_step, &step)) {
                recover(this_cpu());
                step.status = STATUS_FAULT;
                out->size = at + 8;
                put_bytes(out, &this_cpu()->last_fault, sizeof(struct fault_record));
            }
            status = step.status;
        }
        out->max = max;
        if (out->full)
            status = STATUS_NO_ROOM;
        if (status != STATUS_OK && status != STATUS_FAULT)
            out->size = at + 8;
        out->full = 0;
        put_record(out, at, step.op, status, tag);
    }
}
