/* A bundle: requests that came along with the executor, for consoles that only print. */
#include "executor.h"

void run_bundle(void)
{
    static const u8 magic[8] = { 'N', 'S', 'V', 'M', 'B', 'N', 'D', 'L' };
    u32 end[2] = { 0, 0 };              /* ran, stopped early */
    if (!boot.bundle_size)
        return;
    struct in in = { (const u8 *)boot.bundle, (u32)boot.bundle_size, 0 };
    if (in.left < 16 || memcmp(get_bytes(&in, 8), magic, 8) || get32(&in) != 1) {
        send_note("the boot module is not a bundle of version 1");
        return;
    }
    u32 count = get32(&in);
    for (u32 i = 0; i < count && !end[1]; i++) {
        u32 size = get32(&in), body_size, crc;
        u16 seq;
        const u8 *bytes = get_bytes(&in, size);
        if (in.bad || size < HEADER_SIZE + CRC_SIZE) {
            end[1] = 1;
            break;
        }
        memcpy(&seq, bytes + 2, 2);
        memcpy(&body_size, bytes + 4, 4);
        memcpy(&crc, bytes + size - 4, 4);
        if (crc32(bytes, size - 4) != crc || bytes[0] != PROTOCOL_VERSION || bytes[1] != MSG_RUN
            || body_size != size - HEADER_SIZE - CRC_SIZE) {
            end[1] = 1;
            break;
        }
        forget_answer();                /* two equal messages of a bundle are two runs */
        answer_run(seq, crc, bytes + HEADER_SIZE, body_size);
        end[0]++;
    }
    forget_answer();
    if (end[1])
        send_note("the bundle is damaged");
    send_message(MSG_BUNDLE_END, 0, end, sizeof(end));
}
