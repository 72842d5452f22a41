/* The console the harness is at: a UART, or on Xen, where there is none, the PV console. */
#include "executor.h"

static int on_xen;

void console_start(u16 port)
{
    uart_start(port);
    on_xen = boot_kind == BOOT_PVH && !uart_is_there() && xen_console_start();
}

int console_get(u8 *errors) { return on_xen ? xen_console_get() : uart_get(errors); }

void console_put(const u8 *bytes, u32 size)
{
    if (on_xen)
        xen_console_put(bytes, size);
    else
        uart_put(bytes, size);
}

void console_flush(void)
{
    if (!on_xen)
        uart_flush();
}
