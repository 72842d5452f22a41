/* The Xen PV console: a ring of bytes in a page shared with the control domain. A PVH guest has no UART, and an HVM guest's is slow. */
#include "executor.h"

enum { SCHED_OP = 29, EVENT_CHANNEL_OP = 32, HVM_OP = 34 };
enum { SCHED_YIELD = 0, EVENT_SEND = 4, HVM_GET_PARAM = 1, PARAM_CONSOLE_PAGE = 17, PARAM_CONSOLE_EVENT = 18, DOMAIN_SELF = 0x7FF0 };

struct ring {
    u8 in[1024], out[2048];
    u32 in_taken, in_put, out_taken, out_put;
};

static u8 hypercall_page[4096] NOINIT PAGE_ALIGNED;
static volatile struct ring *ring;
static u32 event;
static u8 was_full;

static u64 hypercall(u32 number, u64 command, void *argument)
{
    u64 result;
    __asm__ volatile("call *%[entry]"
                     : "=a"(result), "+D"(command), "+S"(argument)
                     : [entry] "r"(hypercall_page + number * 32)
                     : "rcx", "rdx", "r8", "r9", "r10", "r11", "memory");
    return result;
}

static u64 get_param(u32 index)
{
    struct {
        u16 domain, pad;
        u32 index;
        u64 value;
    } argument = { DOMAIN_SELF, 0, index, 0 };
    return hypercall(HVM_OP, HVM_GET_PARAM, &argument) ? 0 : argument.value;
}

int xen_console_start(void)
{
    u32 r[4], base;
    for (base = 0x40000000; base < 0x40000300; base += 0x100) {     /* Viridian leaves may come first */
        cpuid(base, 0, r);
        if (r[1] == 0x566E6558 && r[2] == 0x65584D4D && r[3] == 0x4D4D566E)
            break;
    }
    if (base == 0x40000300)
        return 0;
    cpuid(base + 2, 0, r);
    this_cpu()->quiet = 1;
    int failed = try_wrmsr(r[1], (u64)hypercall_page);
    this_cpu()->quiet = 0;
    if (failed)
        return 0;
    u64 page = get_param(PARAM_CONSOLE_PAGE) << 12;
    event = (u32)get_param(PARAM_CONSOLE_EVENT);
    if (!page || page >= 1ull << 32)
        return 0;
    ring = (volatile struct ring *)page;
    return 1;
}

static void notify(void)
{
    u32 port = event;
    hypercall(EVENT_CHANNEL_OP, EVENT_SEND, &port);
}

/* The control domain may share our CPU: whenever we would wait, it should run. */
static void yield(void) { hypercall(SCHED_OP, SCHED_YIELD, 0); }

/* The other side stops when the ring is full, and only then wants to hear that there is room. It must not hear it for every few
   bytes: xenconsoled takes 30 events in 200 ms, and then lets the guest wait until they are over. */
int xen_console_get(void)
{
    u32 taken = ring->in_taken, here = ring->in_put - taken;
    if (!here) {
        yield();
        return -1;
    }
    if (here >= sizeof(ring->in))
        was_full = 1;
    BARRIER();
    u8 byte = ring->in[taken % sizeof(ring->in)];
    BARRIER();
    ring->in_taken = taken + 1;
    if (was_full && here <= sizeof(ring->in) / 2) {
        was_full = 0;
        notify();
    }
    return byte;
}

void xen_console_put(const u8 *bytes, u32 size)
{
    u32 put = ring->out_put;
    for (u32 tries = 0; size && tries < 100000;) {
        if (put - ring->out_taken >= sizeof(ring->out)) {
            notify();
            yield();
            tries++;
            continue;
        }
        ring->out[put % sizeof(ring->out)] = *bytes++;
        BARRIER();
        ring->out_put = ++put;
        size--;
    }
    notify();
}
