/* Just enough ACPI for a kernel to find its CPUs: RSDP, RSDT, MADT. */
#include <string.h>

#include "vm.h"

struct rsdp {
    char signature[8];
    uint8_t checksum;
    char maker[6];
    uint8_t revision;
    uint32_t rsdt;
} __attribute__((packed));
struct header {
    char signature[4];
    uint32_t size;
    uint8_t revision, checksum;
    char maker[6], table[8];
    uint32_t maker_revision, creator, creator_revision;
} __attribute__((packed));
struct madt {
    struct header header;
    uint32_t local_apic, flags;
    struct { uint8_t type, size, processor, apic_id; uint32_t flags; } __attribute__((packed)) cpu[CPUS_MAX];
    struct { uint8_t type, size, id, zero; uint32_t address, first; } __attribute__((packed)) io_apic;
} __attribute__((packed));
struct rsdt { struct header header; uint32_t madt; } __attribute__((packed));

#define RSDT (ACPI_TABLES + 0x40)
#define MADT (ACPI_TABLES + 0x80)

static uint8_t checksum(const void *bytes, size_t size)
{
    uint8_t sum = 0;
    for (size_t i = 0; i < size; i++)
        sum = (uint8_t)(sum + ((const uint8_t *)bytes)[i]);
    return (uint8_t)-sum;
}

static void write_table(struct vm *vm, uint32_t address, const char *signature, struct header *header, uint32_t size)
{
    memcpy(header->signature, signature, 4);
    memcpy(header->maker, "NSVM  ", 6);
    memcpy(header->table, "NSVMHOST", 8);
    header->size = size;
    header->revision = 1;
    header->checksum = checksum(header, size);
    memcpy(vm->ram + address, header, size);
}

/* Returns where the RSDP lies. CPUs that are not there are in the table too, but not marked as enabled. */
uint32_t write_acpi(struct vm *vm)
{
    struct madt madt = { .local_apic = 0xFEE00000, .flags = 1 };
    for (uint8_t i = 0; i < CPUS_MAX; i++) {
        madt.cpu[i].size = sizeof(madt.cpu[i]);
        madt.cpu[i].processor = madt.cpu[i].apic_id = i;
        madt.cpu[i].flags = i < vm->options->cpus;
    }
    madt.io_apic.type = 1;
    madt.io_apic.size = sizeof(madt.io_apic);
    madt.io_apic.id = CPUS_MAX;
    madt.io_apic.address = 0xFEC00000;
    write_table(vm, MADT, "APIC", &madt.header, sizeof(madt));

    struct rsdt rsdt = { .madt = MADT };
    write_table(vm, RSDT, "RSDT", &rsdt.header, sizeof(rsdt));

    struct rsdp rsdp = { .signature = "RSD PTR ", .maker = "NSVM  ", .rsdt = RSDT };
    rsdp.checksum = checksum(&rsdp, sizeof(rsdp));
    memcpy(vm->ram + ACPI_TABLES, &rsdp, sizeof(rsdp));
    return ACPI_TABLES;
}
