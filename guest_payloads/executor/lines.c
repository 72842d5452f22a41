/* The serial lines of a bare machine: the one that firmware names (ACPI SPCR), COM1 to COM4, PCI cards. Under a hypervisor nobody
   looks for them: there the line is COM1, or what the command line says, and each port asked would be an exit. */
#include "executor.h"

enum { PCI_ADDRESS = 0xCF8, PCI_DATA = 0xCFC, PCI_COMMAND = 4, PCI_CLASS = 8, PCI_HEADER = 12, PCI_BAR0 = 0x10 };
enum { SPCR_TYPE = 36, SPCR_SPACE = 40, SPCR_WIDTH = 41, SPCR_ADDRESS = 44, SPCR_BAUD = 58, SPCR_SIZE = 59 };
enum { SPACE_MEMORY, SPACE_PORTS };

static const u16 coms[] = { 0x3F8, 0x2F8, 0x3E8, 0x2E8 };

static int under_hypervisor(void)
{
    u32 r[4];
    cpuid(1, 0, r);
    return r[2] >> 31;
}

static void from_firmware(void)
{
    static const u32 bauds[] = { 0, 0, 0, 9600, 19200, 0, 57600, 115200 };
    const u8 *table = acpi_table(0x52435053);                   /* "SPCR" */
    u32 size;
    u64 address;
    if (!table)
        return;
    memcpy(&size, table + 4, 4);
    memcpy(&address, table + SPCR_ADDRESS, 8);
    u8 type = table[SPCR_TYPE], code = table[SPCR_BAUD];
    if (size < SPCR_SIZE || (type > 1 && type != 0x12) || !address || address >= 1ull << 32)
        return;
    u32 baud = boot.baud ? boot.baud : code < COUNT(bauds) ? bauds[code] : 0;
    if (table[SPCR_SPACE] == SPACE_PORTS && address < 0x10000)
        uart_add(address, 0, 1, baud);
    else if (table[SPCR_SPACE] == SPACE_MEMORY)
        uart_add(address, 1, table[SPCR_WIDTH] >= 32 ? 4 : 1, baud);
}

static u32 pci_read(u32 function, u32 reg)
{
    out32(PCI_ADDRESS, 0x80000000 | function << 8 | reg);
    return in32(PCI_DATA);
}

static void pci_enable(u32 function, u32 bits)
{
    u32 command = pci_read(function, PCI_COMMAND);
    if ((command & bits) != bits)
        out32(PCI_DATA, (command & 0xFFFF) | bits);     /* the status bits above are cleared by writing 1 */
}

/* A serial controller (class 07h, 00h) whose first BAR holds its registers. */
static void from_pci_function(u32 function)
{
    if (pci_read(function, PCI_CLASS) >> 16 != 0x0700)
        return;
    u32 bar = pci_read(function, PCI_BAR0);
    if (bar & 1 && (bar & ~3u) && bar < 0x10000) {
        pci_enable(function, 1);
        uart_add(bar & ~3u, 0, 1, boot.baud ? boot.baud : 115200);
    } else if (!(bar & 1) && (bar & ~15u)) {
        pci_enable(function, 2);
        uart_add(bar & ~15u, 1, 1, boot.baud ? boot.baud : 115200);
    }
}

static void from_pci(void)
{
    for (u32 device = 0; device < 256 * 32; device++) {         /* all buses: a server has several roots */
        u32 function = device << 3;
        if (pci_read(function, 0) == 0xFFFFFFFF)
            continue;
        u32 functions = pci_read(function, PCI_HEADER) >> 23 & 1 ? 8 : 1;
        for (u32 i = 0; i < functions; i++)
            if (pci_read(function + i, 0) != 0xFFFFFFFF)
                from_pci_function(function + i);
    }
}

void find_lines(void)
{
    u32 baud = boot.baud ? boot.baud : 115200;
    if (boot.uart_port) {
        uart_add_unseen(boot.uart_port, baud);
        return;
    }
    if (!under_hypervisor()) {
        from_firmware();
        for (u32 i = 0; i < COUNT(coms); i++)
            uart_add(coms[i], 0, 1, baud);
        from_pci();
    }
    if (!uart_count())
        uart_add_unseen(coms[0], baud);
}
