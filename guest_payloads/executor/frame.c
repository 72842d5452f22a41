/* COBS and CRC-32. Decoding happens byte by byte as they arrive, so that nothing is left to do when a frame ends. */
#include "executor.h"

static u32 crc_table[4][256];

void crc_start(void)
{
    for (u32 i = 0; i < 256; i++) {
        u32 value = i;
        for (int bit = 0; bit < 8; bit++)
            value = value >> 1 ^ (value & 1 ? 0xEDB88320 : 0);
        crc_table[0][i] = value;
    }
    for (u32 i = 0; i < 256; i++)
        for (int k = 1; k < 4; k++)
            crc_table[k][i] = crc_table[k - 1][i] >> 8 ^ crc_table[0][crc_table[k - 1][i] & 255];
}

u32 crc32(const void *bytes, u32 size)
{
    const u8 *at = bytes;
    u32 crc = ~0u;
    for (; size >= 4; size -= 4, at += 4) {
        u32 word;
        memcpy(&word, at, 4);
        crc ^= word;
        crc = crc_table[3][crc & 255] ^ crc_table[2][crc >> 8 & 255] ^ crc_table[1][crc >> 16 & 255] ^ crc_table[0][crc >> 24];
    }
    for (; size; size--)
        crc = crc >> 8 ^ crc_table[0][(crc ^ *at++) & 255];
    return ~crc;
}

void decode_again(struct decoder *decoder)
{
    decoder->size = decoder->started = 0;
    decoder->block_left = decoder->bad_cobs = decoder->oversized = decoder->line_errors = 0;
    decoder->block_code = 0xFF;         /* no zero before the first block */
}

static void append(struct decoder *decoder, u8 byte)
{
    if (decoder->size < FRAME_MAX)
        decoder->bytes[decoder->size++] = byte;
    else
        decoder->oversized = 1;
}

int decode_byte(struct decoder *decoder, u8 byte)
{
    if (byte == 0) {
        if (!decoder->started) {        /* two zeros in a row are silence */
            decode_again(decoder);
            return 0;
        }
        if (decoder->block_left)
            decoder->bad_cobs = 1;
        return 1;
    }
    decoder->started = 1;
    if (decoder->block_left) {
        append(decoder, byte);
        decoder->block_left--;
    } else {
        if (decoder->block_code != 0xFF)
            append(decoder, 0);
        decoder->block_code = byte;
        decoder->block_left = byte - 1;
    }
    return 0;
}

u32 cobs_encode(u8 *to, const u8 *from, u32 size)
{
    u32 code_at = 0, done = 1;
    u8 code = 1;
    for (u32 i = 0; i < size; i++) {
        if (from[i]) {
            to[done++] = from[i];
            code++;
        }
        if (!from[i] || (code == 0xFF && i + 1 < size)) {
            to[code_at] = code;
            code_at = done++;
            code = 1;
        }
    }
    to[code_at] = code;
    return done;
}
