/* The block console: the guest hands over a descriptor's address, and whole blocks go both ways in one exit.
 * The contract is in docs/link-protocol.md. */
#include <string.h>

#include "console.h"
#include "vm.h"

#define WAIT_MS 20
#define BLOCK_MAX 65536u

struct descriptor {
    uint32_t out, out_size, in, in_room, in_size;
};

void block_exchange(struct vm *vm, uint32_t address)
{
    struct descriptor descriptor;
    uint8_t *place = guest_memory(vm, address, sizeof(descriptor));
    if (!place)
        return;
    memcpy(&descriptor, place, sizeof(descriptor));
    uint8_t *out = guest_memory(vm, descriptor.out, descriptor.out_size);
    uint8_t *in = guest_memory(vm, descriptor.in, descriptor.in_room);
    uint32_t got = 0;
    if (out && descriptor.out_size && descriptor.out_size <= BLOCK_MAX)
        console_put(out, descriptor.out_size);
    if (in && descriptor.in_room && descriptor.in_room <= BLOCK_MAX) {
        got = (uint32_t)console_get(in, descriptor.in_room);
        if (!got) {                     /* it waits: send all, and wait with the CPU free */
            console_flush();
            console_wait(WAIT_MS);
            got = (uint32_t)console_get(in, descriptor.in_room);
        }
    }
    memcpy(place + offsetof(struct descriptor, in_size), &got, 4);
}
