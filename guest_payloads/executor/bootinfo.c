/* What the boot loader left for us: command line, boot module, RSDP. Read before anything is written outside the image. */
#include "executor.h"

#define PARK_BASE 0x400000ull           /* where a badly placed module goes: [4 MiB, 8 MiB) */
#define PARK_SIZE 0x400000ull
#define COMMAND_LINE_MAX 4096

u32 boot_kind, boot_information, boot_extra;
struct boot_info boot;

/* Whoever puts a bundle into the ELF file itself, as a segment of its own, finds this by its name and fills in the rest. */
volatile struct {
    u8 name[16];
    u64 address, size;
} embedded_bundle = { "NSVM-EMBEDDED-1", 0, 0 };

static u64 read64(const u8 *at)
{
    u64 value;
    memcpy(&value, at, 8);
    return value;
}
static u32 read32(const u8 *at)
{
    u32 value;
    memcpy(&value, at, 4);
    return value;
}

/* Where the value of an option begins, or 0. Whatever stands before the option, stands there in vain. */
static const char *option(const char *text, const char *name)
{
    for (u32 i = 0; i < COMMAND_LINE_MAX && text[i]; i++) {
        u32 length = 0;
        while (name[length] && text[i + length] == name[length])
            length++;
        if (!name[length])
            return text + i + length;
    }
    return 0;
}

static void read_uart_port(const char *text)
{
    u32 port = 0;
    if (text[0] == '0' && (text[1] | 0x20) == 'x')
        text += 2;
    for (u32 digits = 0; digits < 4; digits++, text++) {
        char c = *text | 0x20;
        if (*text >= '0' && *text <= '9')
            port = port * 16 + (u32)(*text - '0');
        else if (c >= 'a' && c <= 'f')
            port = port * 16 + (u32)(c - 'a' + 10);
        else
            break;
    }
    if (port >= 0x100 && port <= 0xFFF8)
        boot.uart_port = (u16)port;
}

static u32 read_number(const char *text)
{
    u32 value = 0;
    for (u32 digits = 0; text && digits < 8 && *text >= '0' && *text <= '9'; digits++)
        value = value * 10 + (u32)(*text++ - '0');
    return value;
}

/* uart=0x2f8, baud=57600, quiet=900, console=e9, console=block, console=virtio. */
static void read_command_line(const char *text)
{
    const char *value = option(text, "uart=");
    if (value)
        read_uart_port(value);
    boot.baud = read_number(option(text, "baud="));
    boot.quiet_s = read_number(option(text, "quiet="));
    if (option(text, "console=e9"))
        boot.console = CONSOLE_E9;
    else if (option(text, "console=block"))
        boot.console = CONSOLE_BLOCK;
    else if (option(text, "console=virtio"))
        boot.console = CONSOLE_VIRTIO;
}

static void read_multiboot1(const u8 *info)
{
    u32 flags = read32(info);
    if (flags & 1 << 2)
        read_command_line((const char *)(u64)read32(info + 16));
    if (flags & 1 << 3 && read32(info + 20)) {
        const u8 *module = (const u8 *)(u64)read32(info + 24);
        boot.bundle = read32(module);
        boot.bundle_size = read32(module + 4) - read32(module);
    }
}

static void read_multiboot2(const u8 *info)
{
    u32 size = read32(info), offset = 8;
    for (u32 tags = 0; tags < 256 && offset + 8 <= size; tags++) {
        const u8 *tag = info + offset;
        u32 type = read32(tag), tag_size = read32(tag + 4);
        if (type == 0 || tag_size < 8)
            break;
        if (type == 1)
            read_command_line((const char *)tag + 8);
        if (type == 3 && !boot.bundle_size) {
            boot.bundle = read32(tag + 8);
            boot.bundle_size = read32(tag + 12) - read32(tag + 8);
        }
        if (type == 14 || type == 15)
            boot.rsdp = (u64)tag + 8;
        offset += (tag_size + 7) & ~7u;
    }
}

static void read_pvh(const u8 *info)
{
    if (read32(info) != 0x336EC578)
        return;
    if (read32(info + 12)) {
        const u8 *module = (const u8 *)read64(info + 16);
        boot.bundle = read64(module);
        boot.bundle_size = read64(module + 8);
    }
    if (read64(info + 24))
        read_command_line((const char *)read64(info + 24));
    boot.rsdp = read64(info + 32);
}

static int overlaps(u64 base, u64 size) { return boot.bundle < base + size && base < boot.bundle + boot.bundle_size; }

/* The module must not lie where scenarios write, nor in our image, nor above the 4 GiB we map. */
static void place_bundle(void)
{
    if (!boot.bundle_size) {
        boot.bundle = 0;
        return;
    }
    u64 image = (u64)image_start, image_size = (u64)(image_end - image_start);
    if (boot.bundle >= 1ull << 32 || boot.bundle_size >= 1ull << 31 || overlaps(image, image_size) || overlaps(0, 0x1000)) {
        boot.complaint = "bundle refused: the boot module lies in the executor's memory or above 4 GiB";
    } else if (overlaps(ARENA_BASE, ARENA_SIZE) || overlaps(LOW_BASE, LOW_SIZE) || overlaps(TRAMPOLINE_PA, 0x1000)) {
        if (boot.bundle_size <= PARK_SIZE) {
            memmove((void *)PARK_BASE, (const void *)boot.bundle, boot.bundle_size);
            boot.bundle = PARK_BASE;
            return;
        }
        boot.complaint = "bundle refused: the boot module overlaps the arena and is larger than 4 MiB";
    } else {
        return;
    }
    boot.bundle = boot.bundle_size = 0;
}

void read_boot_info(void)
{
    const u8 *info = (const u8 *)(u64)boot_information;
    if (boot_kind == BOOT_MULTIBOOT1)
        read_multiboot1(info);
    else if (boot_kind == BOOT_MULTIBOOT2)
        read_multiboot2(info);
    else if (boot_kind == BOOT_PVH)
        read_pvh(info);
    else if (boot_kind == BOOT_BIOS) {
        boot.bundle = boot_information;
        boot.bundle_size = boot_extra;
    }
    if (!boot.bundle_size && embedded_bundle.size) {
        boot.bundle = embedded_bundle.address;
        boot.bundle_size = embedded_bundle.size;
    }
    place_bundle();
}
