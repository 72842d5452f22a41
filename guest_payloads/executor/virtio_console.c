/* A virtio console (legacy PCI): under QEMU with KVM, whole blocks cost one exit, where the UART takes several for each byte.
   Polled: what the device did is read from memory, and it is asked for no interrupts. */
#include "executor.h"

enum { PCI_ADDRESS = 0xCF8, PCI_DATA = 0xCFC, PCI_COMMAND = 4, PCI_BAR0 = 0x10, PCI_CONSOLE = 0x10031AF4 };
enum { FEATURES = 4, QUEUE_PAGE = 8, QUEUE_SIZE = 12, QUEUE_SELECT = 14, QUEUE_NOTIFY = 16, STATUS = 18 };
enum { SEEN = 1, DRIVER = 2, DRIVER_OK = 4 };
enum { RECEIVE, TRANSMIT, QUEUES };
enum { DEVICE_WRITES = 2, NO_INTERRUPT = 1 };

#define ENTRIES_MAX 128
#define IN_SIZE 4096
#define OUT_SIZE 8192
#define SENT_TRIES 50000000             /* a second or so */

struct descriptor {
    u64 address;
    u32 size;
    u16 flags, next;
};
struct used {
    u16 flags, index;
    struct {
        u32 id, size;
    } ring[ENTRIES_MAX];
};
/* One entry is in use at a time, number 0; the device's layout needs room for all. */
struct queue {
    volatile u16 *available;            /* flags, index, ring */
    volatile struct used *used;
    u16 entries, posted;
};

static u8 pages[QUEUES][2 * 4096] NOINIT PAGE_ALIGNED;
static u8 in[IN_SIZE] NOINIT, out[OUT_SIZE] NOINIT;
static struct queue queues[QUEUES];
static u32 in_size, in_taken;
static u16 base;

static u32 pci_read(u32 device, u32 reg)
{
    out32(PCI_ADDRESS, 0x80000000 | device << 11 | reg);
    return in32(PCI_DATA);
}
static void pci_write(u32 device, u32 reg, u32 value)
{
    out32(PCI_ADDRESS, 0x80000000 | device << 11 | reg);
    out32(PCI_DATA, value);
}

static int start_queue(u16 number, const u8 *buffer, u32 size, u16 flags)
{
    struct queue *queue = &queues[number];
    out16(base + QUEUE_SELECT, number);
    u32 entries = in16(base + QUEUE_SIZE);
    if (!entries || entries > ENTRIES_MAX)
        return 0;
    memset(pages[number], 0, sizeof(pages[number]));
    struct descriptor *descriptor = (struct descriptor *)pages[number];
    descriptor->address = (u64)buffer;
    descriptor->size = size;
    descriptor->flags = flags;
    queue->available = (volatile u16 *)(pages[number] + entries * sizeof(struct descriptor));
    queue->available[0] = NO_INTERRUPT;
    queue->used = (volatile struct used *)(pages[number] + 4096);
    queue->entries = (u16)entries;
    queue->posted = 0;
    out32(base + QUEUE_PAGE, (u32)((u64)pages[number] >> 12));
    return 1;
}

/* Hands entry 0 to the device. */
static void post(u16 number)
{
    struct queue *queue = &queues[number];
    queue->available[2 + queue->posted % queue->entries] = 0;
    BARRIER();
    queue->available[1] = ++queue->posted;
    BARRIER();
    out16(base + QUEUE_NOTIFY, number);
}

static int is_done(u16 number) { return queues[number].used->index == queues[number].posted; }

int virtio_console_start(void)
{
    u32 device = 0;
    while (device < 32 && pci_read(device, 0) != PCI_CONSOLE)
        device++;
    if (device == 32 || !(pci_read(device, PCI_BAR0) & 1))
        return 0;
    base = (u16)(pci_read(device, PCI_BAR0) & ~3u);
    pci_write(device, PCI_COMMAND, 5);                  /* I/O ports, bus master; what is above are status bits to clear */
    out8(base + STATUS, 0);                             /* reset */
    out8(base + STATUS, SEEN | DRIVER);
    out32(base + FEATURES, 0);
    if (!start_queue(RECEIVE, in, sizeof(in), DEVICE_WRITES) || !start_queue(TRANSMIT, out, 0, 0)) {
        out8(base + STATUS, 0);
        return 0;
    }
    out8(base + STATUS, SEEN | DRIVER | DRIVER_OK);
    post(RECEIVE);
    return 1;
}

int virtio_console_get(void)
{
    if (in_taken == in_size) {
        if (!is_done(RECEIVE))
            return -1;
        BARRIER();
        in_size = queues[RECEIVE].used->ring[(queues[RECEIVE].posted - 1) % queues[RECEIVE].entries].size;
        if (in_size > sizeof(in))
            in_size = 0;
        in_taken = 0;
        if (!in_size) {
            post(RECEIVE);
            return -1;
        }
    }
    u8 byte = in[in_taken++];
    if (in_taken == in_size)
        post(RECEIVE);
    return byte;
}

void virtio_console_put(const u8 *bytes, u32 size)
{
    struct descriptor *descriptor = (struct descriptor *)pages[TRANSMIT];
    for (u32 tries = 0; tries < SENT_TRIES && !is_done(TRANSMIT); tries++)
        PAUSE();
    if (size > sizeof(out))
        size = sizeof(out);             /* no frame is as large */
    memcpy(out, bytes, size);
    descriptor->size = size;
    post(TRANSMIT);
}
