/* ACPI tables below 4 GiB. Is there a second CPU? The MADT says so without waking anybody, which keeps the boot of a single CPU
   short. */
#include "executor.h"

static const u8 *physical(u64 address) { return address && address < 0xFFFF0000ull ? (const u8 *)address : 0; }
static u32 read32(const u8 *at)
{
    u32 value;
    memcpy(&value, at, 4);
    return value;
}
static u64 read64(const u8 *at)
{
    u64 value;
    memcpy(&value, at, 8);
    return value;
}

static const u8 *scan(u64 from, u64 size)
{
    for (u64 at = from; at + 16 <= from + size; at += 16)
        if (read64((const u8 *)at) == 0x2052545020445352ull)    /* "RSD PTR " */
            return (const u8 *)at;
    return 0;
}

static const u8 *find_rsdp(void)
{
    if (boot.rsdp)
        return physical(boot.rsdp);
    u16 ebda_segment;
    __asm__ volatile("movw (%1), %0" : "=r"(ebda_segment) : "r"(0x40Eull));     /* the BIOS data area */
    u64 ebda = (u64)ebda_segment << 4;
    const u8 *found = ebda >= 0x80000 && ebda < 0xA0000 ? scan(ebda, 1024) : 0;
    return found ? found : scan(0xE0000, 0x20000);
}

const u8 *acpi_table(u32 signature)
{
    const u8 *rsdp = find_rsdp();
    if (!rsdp)
        return 0;
    u32 entry_size = 4;
    const u8 *root = physical(read32(rsdp + 16));
    if (rsdp[15] >= 2 && physical(read64(rsdp + 24))) {
        entry_size = 8;
        root = physical(read64(rsdp + 24));
    }
    if (!root)
        return 0;
    u32 size = read32(root + 4);
    for (u32 at = 36; at + entry_size <= size && at < 36 + 64 * 8; at += entry_size) {
        const u8 *table = physical(entry_size == 8 ? read64(root + at) : read32(root + at));
        if (table && read32(table) == signature)
            return table;
    }
    return 0;
}

int find_other_cpu(u32 own_apic_id, u32 *apic_id)
{
    const u8 *madt = acpi_table(0x43495041);                    /* "APIC" */
    if (!madt)
        return 0;
    u32 size = read32(madt + 4), at = 44;
    for (u32 entries = 0; entries < 1024 && at + 2 <= size; entries++) {
        const u8 *entry = madt + at;
        if (entry[1] < 2)
            break;
        if (entry[0] == 0 && read32(entry + 4) & 1 && entry[3] != own_apic_id) {
            *apic_id = entry[3];
            return 1;
        }
        at += entry[1];
    }
    return 0;
}
