/* 16550s at ports or in memory, polled. Flow control is the protocol's stop and wait, so the FIFO is enough.

   Where there are several, the executor speaks on all of them and listens to all, until a good frame has come over one: frames begin
   with 00, and what comes on other lines is dropped. */
#include "executor.h"

enum { DATA = 0, DIVISOR_LOW = 0, INTERRUPTS = 1, DIVISOR_HIGH = 1, FIFO = 2, LINE = 3, MODEM = 4, STATUS = 5, SCRATCH = 7 };
enum { STATUS_READY = 0x01, STATUS_ERRORS = 0x1E, STATUS_EMPTY = 0x20, STATUS_IDLE = 0x40 };

#define LINES_MAX 8
#define CLOCK_BAUD 115200               /* at divisor 1 */

struct line {
    u64 base;
    u8 memory, stride, fifo_size;
    u8 stuck;                   /* the transmitter stopped: wait only shortly until it moves again */
};

static struct line lines[LINES_MAX];
static u32 count, current;
static u8 settled;                      /* the harness is at lines[current] */

/* What came while we spoke: a FIFO of 16 bytes overruns in the time that sending 16 takes. */
static u8 heard[256], heard_errors, heard_in, heard_out;

static int is_tcg(void)
{
    u32 r[4];
    cpuid(1, 0, r);
    if (!(r[2] >> 31))
        return 0;
    cpuid(0x40000000, 0, r);
    return r[1] == 0x54474354 && r[2] == 0x43544743 && r[3] == 0x47435447;    /* TCGTCGTCGTCG */
}

static void put(const struct line *line, u32 reg, u8 value)
{
    if (line->memory)
        *(volatile u8 *)(line->base + reg * line->stride) = value;
    else
        out8((u16)(line->base + reg), value);
}

static u8 get(const struct line *line, u32 reg)
{
    return line->memory ? *(volatile u8 *)(line->base + reg * line->stride) : in8((u16)(line->base + reg));
}

static int is_there(const struct line *line)
{
    put(line, SCRATCH, 0x5A);
    if (get(line, SCRATCH) != 0x5A)
        return 0;
    put(line, SCRATCH, 0xA5);
    return get(line, SCRATCH) == 0xA5;
}

/* A rate that the usual clock cannot make is the one that firmware has set. */
static void start(struct line *line, u32 baud)
{
    put(line, INTERRUPTS, 0);
    if (baud && baud <= CLOCK_BAUD) {
        u32 divisor = CLOCK_BAUD / baud;
        put(line, LINE, 0x80);
        put(line, DIVISOR_LOW, (u8)divisor);
        put(line, DIVISOR_HIGH, (u8)(divisor >> 8));
    }
    put(line, LINE, 0x03);              /* 8N1 */
    /* On, cleared. Polled, the trigger level means nothing to a real 16550; but QEMU takes bytes in up to twice as fast with a
       high one, and Bochs 2.7 repeats and loses bytes with it after a pause in the input. */
    put(line, FIFO, is_tcg() ? 0xC7 : 0x07);
    put(line, MODEM, 0x03);             /* DTR, RTS */
    line->fifo_size = (get(line, FIFO) & 0xC0) == 0xC0 ? 16 : 1;
}

static struct line *add(u64 base, u8 memory, u8 stride, u32 baud)
{
    struct line *line = &lines[count];
    *line = (struct line){ base, memory, stride, 1, 0 };
    count++;
    settled = count == 1;
    start(line, baud);
    return line;
}

/* One that is there, and not known yet. */
void uart_add(u64 base, int memory, u32 stride, u32 baud)
{
    struct line line = { base, (u8)memory, (u8)stride, 1, 0 };
    for (u32 i = 0; i < count; i++)
        if (lines[i].base == base && lines[i].memory == memory)
            return;
    if (count < LINES_MAX && is_there(&line))
        add(base, (u8)memory, (u8)stride, baud);
}

void uart_add_unseen(u16 port, u32 baud) { add(port, 0, 1, baud); }
u32 uart_count(void) { return count; }
int uart_is_there(void) { return is_there(&lines[0]); }
void uart_settle(void) { settled = 1; }

static int take(const struct line *line, u8 *errors)
{
    u8 status = get(line, STATUS);
    if (status == 0xFF || !(status & STATUS_READY))     /* FFh: there is no UART */
        return -1;
    *errors |= status & STATUS_ERRORS;
    return get(line, DATA);
}

int uart_get(u8 *errors)
{
    if (heard_out != heard_in) {
        *errors |= heard_errors;
        heard_errors = 0;
        return heard[heard_out++];
    }
    if (settled)
        return take(&lines[current], errors);
    for (u32 i = 0; i < count; i++) {
        u8 seen = 0;
        int byte = take(&lines[i], &seen);
        if (byte == 0)
            current = i;
        if (byte < 0 || i != current)
            continue;
        *errors |= seen;
        return byte;
    }
    return -1;
}

static void wait_for_room(struct line *line)
{
    u32 tries = line->stuck ? 1000 : 1000000;
    while (tries--) {
        u8 status = get(line, STATUS);
        if (settled && status != 0xFF && status & STATUS_READY && (u8)(heard_in + 1) != heard_out) {
            heard_errors |= status & STATUS_ERRORS;
            heard[heard_in++] = get(line, DATA);
        }
        if (status & STATUS_EMPTY) {
            line->stuck = 0;
            return;
        }
    }
    line->stuck = 1;
}

static void say(struct line *line, const u8 *bytes, u32 size)
{
    for (u32 done = 0; done < size;) {
        wait_for_room(line);            /* if there is none, write anyway: losing bytes is what CRCs are for */
        for (u32 i = 0; i < line->fifo_size && done < size; i++)
            put(line, DATA, bytes[done++]);
    }
}

void uart_put(const u8 *bytes, u32 size)
{
    for (u32 i = settled ? current : 0; i < (settled ? current + 1 : count); i++)
        say(&lines[i], bytes, size);
}

/* Until the last bit is on the wire, or the bound. */
void uart_flush(void)
{
    for (u32 tries = 0; tries < 1000000 && !(get(&lines[current], STATUS) & STATUS_IDLE); tries++)
        PAUSE();
}
