/* The block console (docs/link-protocol.md): one port access hands whole blocks over, both ways. Under KVM each access is dear. */
#include "executor.h"

#define PORT 0x4E50
#define MAGIC 0x4D56534E                /* "NSVM" */

static struct {
    u32 out, out_size, in, in_room, in_size;
} descriptor;
static u8 in[8192] NOINIT;
static u32 taken;

static void exchange(const u8 *bytes, u32 size, u32 room)
{
    descriptor.out = (u32)(u64)bytes;
    descriptor.out_size = size;
    descriptor.in = (u32)(u64)in;
    descriptor.in_room = room;
    descriptor.in_size = 0;
    out32(PORT, (u32)(u64)&descriptor);
}

int block_console_start(void) { return in32(PORT) == MAGIC; }

int block_console_get(void)
{
    if (taken == descriptor.in_size) {
        taken = 0;
        exchange(0, 0, sizeof(in));     /* waits for a while if there is nothing */
        if (descriptor.in_size > sizeof(in))
            descriptor.in_size = 0;
        if (!descriptor.in_size)
            return -1;
    }
    return in[taken++];
}

void block_console_put(const u8 *bytes, u32 size)
{
    u32 left = descriptor.in_size;      /* what came in and is not yet taken stays */
    exchange(bytes, size, 0);
    descriptor.in_size = left;
}
