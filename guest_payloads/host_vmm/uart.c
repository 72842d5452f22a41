/* COM1: a 16550 as far as a polling driver sees it. No interrupts; its receive FIFO is as large as our block. */
#include "console.h"
#include "vm.h"

enum { DATA, INTERRUPTS, FIFO, LINE, MODEM, STATUS, MODEM_STATUS, SCRATCH };
#define DIVISOR_ACCESS 0x80
#define TRANSMITTER_EMPTY 0x60
#define FLUSH_AFTER 2                   /* looks at the status register, in a row, that neither wrote nor found anything */
#define WAIT_AFTER 8
#define WAIT_MS 20

static uint8_t divisor[2], interrupts, fifo, line, modem, scratch;
static uint8_t next;
static int has_next;
static uint32_t idle;

void uart_out(uint8_t reg, uint8_t value)
{
    switch (reg) {
    case DATA:
        if (line & DIVISOR_ACCESS) {
            divisor[0] = value;
        } else {
            console_put(&value, 1);
            idle = 0;
        }
        break;
    case INTERRUPTS:
        if (line & DIVISOR_ACCESS)
            divisor[1] = value;
        else
            interrupts = value & 0x0F;
        break;
    case FIFO:
        fifo = value;
        break;
    case LINE:
        line = value;
        break;
    case MODEM:
        modem = value & 0x1F;
        break;
    case SCRATCH:
        scratch = value;
        break;
    }
}

/* A guest that looks again and again waits for input: time to send what it wrote, and then to wait for it with the CPU free. */
static uint8_t status(void)
{
    if (!has_next)
        has_next = console_get(&next, 1) == 1;
    if (has_next) {
        idle = 0;
        return TRANSMITTER_EMPTY | 1;
    }
    if (++idle == FLUSH_AFTER)
        console_flush();
    if (idle >= WAIT_AFTER) {
        console_wait(WAIT_MS);
        has_next = console_get(&next, 1) == 1;
    }
    return (uint8_t)(TRANSMITTER_EMPTY | has_next);
}

uint8_t uart_in(uint8_t reg)
{
    switch (reg) {
    case DATA:
        if (line & DIVISOR_ACCESS)
            return divisor[0];
        if (!has_next)
            has_next = console_get(&next, 1) == 1;
        if (!has_next)
            return 0;
        has_next = 0;
        return next;
    case INTERRUPTS:
        return line & DIVISOR_ACCESS ? divisor[1] : interrupts;
    case FIFO:
        return fifo & 1 ? 0xC1 : 0x01;  /* no interrupt pending */
    case LINE:
        return line;
    case MODEM:
        return modem;
    case STATUS:
        return status();
    case MODEM_STATUS:
        return 0xB0;                    /* DCD DSR CTS */
    default:
        return scratch;
    }
}
