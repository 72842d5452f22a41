/* The console the harness is at: a UART; on Xen the PV console; or what the command line asks for. */
#include "executor.h"

#define PORT_E9 0xE9

static u16 kind;

void console_start(void)
{
    kind = boot.console;
    if (kind == CONSOLE_E9)
        return;
    if (kind == CONSOLE_BLOCK && block_console_start())
        return;
    if (kind == CONSOLE_VIRTIO && virtio_console_start())
        return;
    find_lines();
    /* An HVM guest has a UART too, but each access to it is an errand of the control domain's QEMU. */
    int may_be_xen = boot_kind == BOOT_BIOS || (boot_kind == BOOT_PVH && !uart_is_there());
    kind = may_be_xen && xen_console_start() ? CONSOLE_XEN : CONSOLE_UART;
}

int console_get(u8 *errors)
{
    switch (kind) {
    case CONSOLE_XEN:
        return xen_console_get();
    case CONSOLE_BLOCK:
        return block_console_get();
    case CONSOLE_VIRTIO:
        return virtio_console_get();
    case CONSOLE_E9:            /* it only prints */
        return -1;
    default:
        return uart_get(errors);
    }
}

void console_put(const u8 *bytes, u32 size)
{
    switch (kind) {
    case CONSOLE_XEN:
        return xen_console_put(bytes, size);
    case CONSOLE_BLOCK:
        return block_console_put(bytes, size);
    case CONSOLE_VIRTIO:
        return virtio_console_put(bytes, size);
    case CONSOLE_E9:
        for (u32 i = 0; i < size; i++)
            out8(PORT_E9, bytes[i]);
        return;
    default:
        return uart_put(bytes, size);
    }
}

/* A good frame has come. */
void console_settle(void)
{
    if (kind == CONSOLE_UART)
        uart_settle();
}

void console_flush(void)
{
    if (kind == CONSOLE_UART)
        uart_flush();
}
