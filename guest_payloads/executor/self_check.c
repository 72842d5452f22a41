/* A reproducer: a bundle that brings what must come of it, and says in words what came. Nothing is heard from then on.
 *
 * The layout is in docs/link-protocol.md, *Reproducers*. A check takes one value out of a request's answer, or out of memory
 * after the request, and holds it against a set. */
#include "executor.h"

enum { CHECK_MEMORY, CHECK_VMRUN_REGISTER, CHECK_FAULT, CHECK_FAULT_ERROR, CHECK_FAULT_RIP, CHECK_HOST, CHECK_CODE_REGISTER,
       CHECK_MSR, CHECK_CPUID };
#define BEFORE_ALL 0xFFFF       /* the request number of a precondition */

struct check {
    u16 request, record;
    u8 kind, width, negated, count;
    u64 where, otherwise, mask;
    const u8 *values, *name;
    u32 name_size;
};

static u8 answer[ANSWER_MAX] NOINIT PAGE_ALIGNED;

static void say(const char *text)
{
    u32 size = 0;
    while (text[size])
        size++;
    console_put((const u8 *)text, size);
}

static void say_number(u64 value, u32 digits)
{
    u8 text[20];
    for (u32 i = 0; i < digits; i++)
        text[i] = (u8)"0123456789ABCDEF"[value >> 4 * (digits - 1 - i) & 15];
    text[digits] = 'h';
    console_put(text, digits + 1);
}

static u64 read64(const u8 *at)
{
    u64 value;
    memcpy(&value, at, 8);
    return value;
}

static int take_check(struct in *in, struct check *check)
{
    check->request = get16(in);
    check->record = get16(in);
    check->kind = get8(in);
    check->width = get8(in);
    check->negated = get8(in);
    check->count = get8(in);
    check->where = get64(in);
    check->otherwise = get64(in);
    check->mask = get64(in);
    check->values = get_bytes(in, 8 * check->count);
    check->name_size = get8(in);
    check->name = get_bytes(in, check->name_size);
    return !in->bad && check->width >= 1 && check->width <= 8;
}

/* The body of a record of the answer, and its status; 0 if there is none. */
static struct in record_body(u32 size, u16 number, u8 *op, u8 *status)
{
    struct in in = { answer, size, 0 };
    for (u32 i = 0; in.left >= 8 && !in.bad; i++) {
        *op = get8(&in);
        *status = get8(&in);
        get16(&in);
        u32 body_size = get32(&in);
        struct in body = { get_bytes(&in, body_size), body_size, 0 };
        if (i == number && !in.bad)
            return body;
    }
    return (struct in){ answer, 0, 1 };
}

static u64 register_of(struct in *in, u16 changed, u64 number, u64 otherwise)
{
    u64 found = otherwise;
    for (u32 reg = 0; reg < 16; reg++)
        if (changed >> reg & 1) {
            u64 value = get64(in);
            if (reg == number)
                found = value;
        }
    return found;
}

static u64 fault_value(const struct fault_record *fault, u8 kind)
{
    if (!fault)
        return 0;
    if (kind == CHECK_FAULT)
        return 0x100 | fault->vector;
    if (kind == CHECK_FAULT_ERROR)
        return fault->has_error ? 1ull << 32 | fault->error : 0;
    return fault->rip;
}

static u64 from_vmrun(struct in *in, const struct check *check)
{
    const struct fault_record *fault = 0;
    u32 result = get32(in);
    get64(in);
    u16 changed = get16(in), events = get16(in), differences = get16(in), host = get16(in);
    u64 value = register_of(in, changed, check->where, check->otherwise);
    if (check->kind == CHECK_VMRUN_REGISTER)
        return value;
    for (u32 i = 0; i < events && !in->bad; i++) {
        const struct fault_record *event = (const void *)get_bytes(in, sizeof(*event));
        if (!in->bad && event->phase == PHASE_VMRUN && !fault && result & RESULT_VMRUN_FAULTED)
            fault = event;
    }
    if (check->kind != CHECK_HOST)
        return fault_value(fault, check->kind);
    for (u32 i = 0; i < differences && !in->bad; i++) {
        get16(in);
        get_bytes(in, get16(in));
    }
    value = check->otherwise;
    for (u32 i = 0; i < host && !in->bad; i++) {
        u64 kind = get16(in);
        get16(in);
        u64 number = get32(in);
        get64(in);
        u64 after = get64(in);
        if ((kind << 32 | number) == check->where)
            value = after;
    }
    return value;
}

static u64 from_code_or_msr(struct in *in, u8 op, u8 status, const struct check *check)
{
    const struct fault_record *fault = status == STATUS_FAULT ? (const void *)get_bytes(in, sizeof(*fault)) : 0;
    if (check->kind == CHECK_MSR)
        return op == STEP_RDMSR && !fault ? get64(in) : check->otherwise;
    if (check->kind != CHECK_CODE_REGISTER)
        return fault_value(in->bad ? 0 : fault, check->kind);
    u16 changed = get16(in);
    get16(in);
    get32(in);
    get64(in);
    return register_of(in, changed, check->where, check->otherwise);
}

static u64 value_of(const struct check *check, u32 size)
{
    u8 op = 0, status = 0;
    u32 registers[4];
    u64 value = 0;
    if (check->kind == CHECK_MEMORY) {
        memcpy(&value, (const void *)check->where, check->width);
        return value;
    }
    if (check->kind == CHECK_CPUID) {   /* leaf, subleaf in 16 bits, register in 16 bits */
        cpuid((u32)check->where, (u32)(check->where >> 32 & 0xFFFF), registers);
        return registers[check->where >> 48 & 3];
    }
    struct in in = record_body(size, check->record, &op, &status);
    return op == STEP_VMRUN ? from_vmrun(&in, check) : from_code_or_msr(&in, op, status, check);
}

static int holds(const struct check *check, u64 value)
{
    for (u32 i = 0; i < check->count; i++)
        if (((value ^ read64(check->values + 8 * i)) & check->mask) == 0)
            return !check->negated;
    return check->negated;
}

static void say_check(const struct check *check, u64 value, int held)
{
    u32 digits = 2 * check->width;
    say(held ? "  ok   " : "  FAIL ");
    console_put(check->name, check->name_size);
    if (!held) {
        say(check->negated ? ": expected anything but " : check->count > 1 ? ": expected any of " : ": expected ");
        for (u32 i = 0; i < check->count; i++) {
            say(i ? ", " : "");
            say_number(read64(check->values + 8 * i), digits);
        }
        say(", got ");
        say_number(value, digits);
        if (check->mask != (check->width == 8 ? ~0ull : (1ull << 8 * check->width) - 1)) {
            say(", in the bits of ");
            say_number(check->mask, digits);
        }
    }
    say("\r\n");
}

/* The checks of one request; how many do not hold. `tell` is 0 for preconditions that hold. */
static u32 run_checks(struct in in, u32 count, u16 request, u32 size)
{
    u32 failed = 0;
    for (u32 i = 0; i < count; i++) {
        struct check check;
        if (!take_check(&in, &check))
            return failed + 1;
        if (check.request != request)
            continue;
        u64 value = value_of(&check, size) & (check.width == 8 ? ~0ull : (1ull << 8 * check.width) - 1);
        int held = holds(&check, value);
        failed += !held;
        if (request != BEFORE_ALL || !held)
            say_check(&check, value, held);
    }
    return failed;
}

static int refused(u32 size)
{
    struct in in = { answer, size, 0 };
    while (in.left >= 8 && !in.bad) {
        get8(&in);
        if (get8(&in) > STATUS_FAULT)
            return 1;
        get16(&in);
        get_bytes(&in, get32(&in));
    }
    return in.bad;
}

static const char *run_requests(struct in in)
{
    u32 text_size = get32(&in);
    const u8 *text = get_bytes(&in, text_size);
    u32 requests = get32(&in);
    struct in first = in, checks;
    u32 failed = 0, count;
    for (u32 i = 0; i < requests; i++)
        get_bytes(&in, get32(&in));
    count = get32(&in);
    checks = in;
    if (in.bad)
        return "ERROR";
    console_put(text, text_size);
    if (run_checks(checks, count, BEFORE_ALL, 0))
        return "SKIP";
    for (u32 i = 0; i < requests; i++) {
        u32 list_size = get32(&first);
        const u8 *list = get_bytes(&first, list_size);
        struct out out = { answer, 0, sizeof(answer), 0 };
        run_steps(list, list_size, &out);
        if (refused(out.size)) {
            say("a step was refused\r\n");
            return "ERROR";
        }
        failed += run_checks(checks, count, (u16)i, out.size);
    }
    return failed ? "FAILURE" : "SUCCESS";
}

int is_reproducer(void)
{
    static const u8 magic[8] = { 'N', 'S', 'V', 'M', 'S', 'E', 'L', 'F' };
    return boot.bundle_size > 12 && memcmp((const void *)boot.bundle, magic, 8) == 0;
}

void run_reproducer(void)
{
    struct in in = { (const u8 *)boot.bundle, (u32)boot.bundle_size, 0 };
    get_bytes(&in, 8);
    say("\r\n");
    const char *verdict = get32(&in) == 1 ? run_requests(in) : "ERROR";
    say("Test result: ");
    say(verdict);
    say("\r\n");
    console_flush();
    for (;;)                            /* the verdict is the last line */
        __asm__ volatile("cli; hlt");
}
