/* Messages over the serial line and over the memory lane, exactly once. */
#include "executor.h"


static struct decoder decoder;
static u8 message[FRAME_MAX] NOINIT, encoded[COBS_MAX + 2] NOINIT;
static int lane_on;
static u32 refused_total;

/* The last RUN or LANE, and its whole answer. */
static u8 stored[ANSWER_MAX] NOINIT PAGE_ALIGNED;
static u32 stored_size, stored_crc;
static u16 stored_seq;
static u8 stored_type;                  /* 0: nothing stored */

static void put_header(u8 *to, u8 type, u16 seq, u32 body_size)
{
    to[0] = PROTOCOL_VERSION;
    to[1] = type;
    memcpy(to + 2, &seq, 2);
    memcpy(to + 4, &body_size, 4);
}

/* The body comes in two parts, so that an answer's data need not be moved. */
static void send_serial(u8 type, u16 seq, const void *first, u32 first_size, const void *second, u32 second_size)
{
    u32 size = HEADER_SIZE + first_size + second_size;
    put_header(message, type, seq, first_size + second_size);
    memcpy(message + HEADER_SIZE, first, first_size);
    memcpy(message + HEADER_SIZE + first_size, second, second_size);
    u32 crc = crc32(message, size);
    memcpy(message + size, &crc, 4);
    encoded[0] = 0;
    u32 encoded_size = cobs_encode(encoded + 1, message, size + 4);
    encoded[1 + encoded_size] = 0;
    console_put(encoded, encoded_size + 2);
}

static void send_lane(u8 type, u16 seq, const void *first, u32 first_size, const void *second, u32 second_size)
{
    static const u8 doorbell = 1;
    u32 size = HEADER_SIZE + first_size + second_size, total = size + 4;
    u8 *to = lane_answer + 4;
    put_header(to, type, seq, first_size + second_size);
    memcpy(to + HEADER_SIZE, first, first_size);
    memcpy(to + HEADER_SIZE + first_size, second, second_size);
    u32 crc = crc32(to, size);
    memcpy(to + size, &crc, 4);
    memcpy(lane_answer, &total, 4);
    BARRIER();
    console_put(&doorbell, 1);
}

static void send_parts(u8 type, u16 seq, const void *first, u32 first_size, const void *second, u32 second_size)
{
    if (lane_on && type != MSG_NOTE)
        send_lane(type, seq, first, first_size, second, second_size);
    else
        send_serial(type, seq, first, first_size, second, second_size);
}

void send_message(u8 type, u16 seq, const void *body, u32 size) { send_parts(type, seq, body, size, body, 0); }

void send_note(const char *text)
{
    u32 size = 0;
    while (size < NOTE_MAX && text[size])
        size++;
    send_message(MSG_NOTE, 0, text, size);
}

void send_hello(u8 cause, u16 seq)
{
    static u8 bytes[1024];
    struct out out = { bytes, 0, sizeof(bytes), 0 };
    put_hello(&out, cause);
    send_message(MSG_HELLO, seq, bytes, out.size);
}

static void refuse(u8 reason, u16 seq)
{
    struct {
        u8 reason, zero;
        u16 last_seq;
        u32 total;
    } PACKED body = { reason, 0, stored_seq, ++refused_total };
    send_message(MSG_REFUSED, seq, &body, sizeof(body));
}

static u32 fragments(void) { return lane_on || !stored_size ? 1 : (stored_size + FRAGMENT_DATA_MAX - 1) / FRAGMENT_DATA_MAX; }

static void send_fragment(u32 index)
{
    u16 head[2] = { (u16)index, (u16)fragments() };
    u32 at = index * FRAGMENT_DATA_MAX, size = stored_size - at;
    if (!lane_on && size > FRAGMENT_DATA_MAX)
        size = FRAGMENT_DATA_MAX;
    send_parts(MSG_ANSWER, stored_seq, head, sizeof(head), stored + at, size);
}

static void send_answer(void)
{
    for (u32 i = 0, count = fragments(); i < count; i++)
        send_fragment(i);
}

static void store(u8 type, u16 seq, u32 crc, u32 size)
{
    stored_type = type;
    stored_seq = seq;
    stored_crc = crc;
    stored_size = size;
}

void forget_answer(void) { store(0, 0, 0, 0); }

/* Runs a list unless it is the last one again, and sends the answer either way. */
void answer_run(u16 seq, u32 crc, const u8 *list, u32 size)
{
    if (stored_type != MSG_RUN || stored_seq != seq || stored_crc != crc) {
        struct out out = { stored, 0, sizeof(stored), 0 };
        stored_type = 0;
        run_steps(list, size, &out);
        store(MSG_RUN, seq, crc, out.size);
    }
    send_answer();
}

static void take_message(u8 *bytes, u32 size)
{
    u16 seq, index;
    u32 body_size, crc;
    u8 type = bytes[1];
    memcpy(&seq, bytes + 2, 2);
    memcpy(&body_size, bytes + 4, 4);
    memcpy(&crc, bytes + size - 4, 4);
    if (crc32(bytes, size - 4) != crc)
        return refuse(REFUSED_CRC, 0);
    console_settle();
    if (bytes[0] != PROTOCOL_VERSION)
        return refuse(REFUSED_VERSION, seq);
    if (body_size != size - HEADER_SIZE - CRC_SIZE)
        return refuse(REFUSED_BODY_LEN, seq);
    const u8 *body = bytes + HEADER_SIZE;
    switch (type) {
    case MSG_HELLO_REQUEST:
        return body_size ? refuse(REFUSED_BODY_LEN, seq) : send_hello(1, seq);
    case MSG_RUN:
        return answer_run(seq, crc, body, body_size);
    case MSG_FRAGMENT_REQUEST:
        if (body_size != 2)
            return refuse(REFUSED_BODY_LEN, seq);
        memcpy(&index, body, 2);
        if (!stored_type || seq != stored_seq || index >= fragments())
            return refuse(REFUSED_FRAGMENT, seq);
        return send_fragment(index);
    case MSG_LANE:
        if (body_size != 1)
            return refuse(REFUSED_BODY_LEN, seq);
        store(MSG_LANE, seq, crc, 0);
        send_answer();
        lane_on = body[0] == 1;
        return;
    case MSG_REBOOT:
        if (body_size)
            return refuse(REFUSED_BODY_LEN, seq);
        store(MSG_REBOOT, seq, crc, 0);
        send_answer();
        console_flush();
        reset_machine();
    default:
        return refuse(REFUSED_TYPE, seq);
    }
}

static void take_frame(void)
{
    if (decoder.line_errors)
        refuse(REFUSED_UART, 0);
    else if (decoder.oversized)
        refuse(REFUSED_OVERSIZED, 0);
    else if (decoder.bad_cobs)
        refuse(REFUSED_COBS, 0);
    else if (decoder.size < HEADER_SIZE + CRC_SIZE)
        refuse(REFUSED_TRUNCATED, 0);
    else
        take_message(decoder.bytes, decoder.size);
    decode_again(&decoder);
}

static void take_lane_request(void)
{
    u32 total;
    BARRIER();
    memcpy(&total, lane_request, 4);
    if (total < HEADER_SIZE + CRC_SIZE)
        refuse(REFUSED_TRUNCATED, 0);
    else if (total > LANE_REQUEST_SIZE - 4)
        refuse(REFUSED_OVERSIZED, 0);
    else
        take_message(lane_request + 4, total);
}

static void take_byte(u8 byte, u8 errors)
{
    if (lane_on) {
        if (byte == 1)
            take_lane_request();
        else if (byte == 0)
            lane_on = 0;                /* this zero may also open the next frame */
        return;
    }
    decoder.line_errors |= errors;
    if (decode_byte(&decoder, byte))
        take_frame();
}

/* The one loop without a bound, unless the command line gives one: a line that was lost must not strand a machine. */
void serve(void)
{
    u64 quiet = boot.quiet_s ? tsc_from_us(boot.quiet_s * 1000000ull) : 0, heard = quiet ? rdtsc() : 0;
    decode_again(&decoder);
    for (;;) {
        u8 errors = 0;
        int byte = console_get(&errors);
        if (byte >= 0) {
            take_byte((u8)byte, errors);
            heard = quiet ? rdtsc() : 0;
        } else if (quiet && rdtsc() - heard > quiet) {
            send_note("nothing was heard for as long as quiet= says: the machine is reset");
            console_flush();
            reset_machine();
        } else {
            PAUSE();
        }
    }
}

/* The register that ACPI's FADT names. */
static void reset_by_acpi(void)
{
    const u8 *fadt = acpi_table(0x50434146);            /* "FACP" */
    u32 size, flags;
    u64 address;
    if (!fadt)
        return;
    memcpy(&size, fadt + 4, 4);
    memcpy(&flags, fadt + 112, 4);
    memcpy(&address, fadt + 120, 8);
    if (size < 129 || !(flags >> 10 & 1) || !address)
        return;
    if (fadt[116] == 1 && address < 0x10000)
        out8((u16)address, fadt[128]);
    else if (fadt[116] == 0 && address < 0xFFFF0000)
        *(volatile u8 *)address = fadt[128];
    for (u32 tries = 0; tries < 10000; tries++)
        in8(0x80);
}

/* What ACPI says, then the keyboard controller, then the chipset's reset port, then a triple fault. */
void reset_machine(void)
{
    static const struct {
        u16 limit;
        u64 base;
    } PACKED nothing;
    reset_by_acpi();
    for (u32 tries = 0; tries < 10000 && in8(0x64) & 2; tries++)
        PAUSE();
    out8(0x64, 0xFE);
    for (u32 tries = 0; tries < 10000; tries++)
        in8(0x80);
    out8(0xCF9, 2);
    out8(0xCF9, 6);
    for (u32 tries = 0; tries < 10000; tries++)
        in8(0x80);
    __asm__ volatile("lidt %0; int3" : : "m"(nothing));
    for (;;)                            /* nothing more can be done */
        __asm__ volatile("cli; hlt");
}
