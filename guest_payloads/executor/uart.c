/* A 16550 at any port, polled. Flow control is the protocol's stop and wait, so the FIFO is enough. */
#include "executor.h"

enum { DATA = 0, DIVISOR_LOW = 0, INTERRUPTS = 1, DIVISOR_HIGH = 1, FIFO = 2, LINE = 3, MODEM = 4, STATUS = 5, SCRATCH = 7 };
enum { STATUS_READY = 0x01, STATUS_ERRORS = 0x1E, STATUS_EMPTY = 0x20 };

static u16 base;
static u8 fifo_size;
static u8 stuck;                /* the transmitter stopped: wait only shortly until it moves again */

static int is_tcg(void)
{
    u32 r[4];
    cpuid(1, 0, r);
    if (!(r[2] >> 31))
        return 0;
    cpuid(0x40000000, 0, r);
    return r[1] == 0x54474354 && r[2] == 0x43544743 && r[3] == 0x47435447;    /* TCGTCGTCGTCG */
}

void uart_start(u16 port)
{
    base = port;
    out8(base + INTERRUPTS, 0);
    out8(base + LINE, 0x80);
    out8(base + DIVISOR_LOW, 1);        /* 115200 */
    out8(base + DIVISOR_HIGH, 0);
    out8(base + LINE, 0x03);            /* 8N1 */
    /* On, cleared. Polled, the trigger level means nothing to a real 16550; but QEMU takes bytes in up to twice as fast with a
       high one, and Bochs 2.7 repeats and loses bytes with it after a pause in the input. */
    out8(base + FIFO, is_tcg() ? 0xC7 : 0x07);
    out8(base + MODEM, 0x03);           /* DTR, RTS */
    fifo_size = (in8(base + FIFO) & 0xC0) == 0xC0 ? 16 : 1;
}

int uart_is_there(void)
{
    out8(base + SCRATCH, 0x5A);
    return in8(base + SCRATCH) == 0x5A;
}

int uart_get(u8 *errors)
{
    u8 status = in8(base + STATUS);
    if (status == 0xFF || !(status & STATUS_READY))     /* FFh: there is no UART */
        return -1;
    *errors |= status & STATUS_ERRORS;
    return in8(base + DATA);
}

static int wait_for_room(void)
{
    u32 tries = stuck ? 1000 : 1000000;
    while (tries--)
        if (in8(base + STATUS) & STATUS_EMPTY) {
            stuck = 0;
            return 1;
        }
    stuck = 1;
    return 0;
}

void uart_put(const u8 *bytes, u32 size)
{
    for (u32 done = 0; done < size;) {
        wait_for_room();                /* if there is none, write anyway: losing bytes is what CRCs are for */
        for (u32 i = 0; i < fifo_size && done < size; i++)
            out8(base + DATA, bytes[done++]);
    }
}

/* Until the last bit is on the wire, or the bound. */
void uart_flush(void)
{
    for (u32 tries = 0; tries < 1000000 && !(in8(base + STATUS) & 0x40); tries++)
        PAUSE();
}
