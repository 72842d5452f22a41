/* The I/O ports that there are. The interrupt controllers and the timer are KVM's. */
#include <pthread.h>
#include <string.h>
#include <time.h>

#include "console.h"
#include "vm.h"

enum { KEYBOARD = 0x60, KEYBOARD_COMMAND = 0x64, CLOCK_INDEX = 0x70, CLOCK_DATA = 0x71, DEBUG_CONSOLE = 0xE9, COM1 = 0x3F8,
       RESET_CONTROL = 0xCF9, BLOCK_CONSOLE = 0x4E50 };
#define BLOCK_MAGIC 0x4D56534Eu         /* "NSVM" */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint8_t clock_index;

static uint8_t decimal(int value) { return (uint8_t)(value / 10 % 10 << 4 | value % 10); }

static uint8_t clock_in(void)
{
    time_t now = time(NULL);
    struct tm t;
    gmtime_r(&now, &t);
    switch (clock_index) {
    case 0: return decimal(t.tm_sec);
    case 2: return decimal(t.tm_min);
    case 4: return decimal(t.tm_hour);
    case 6: return decimal(t.tm_wday + 1);
    case 7: return decimal(t.tm_mday);
    case 8: return decimal(t.tm_mon + 1);
    case 9: return decimal(t.tm_year % 100);
    case 0xB: return 2;                 /* 24 hours, decimal */
    case 0xD: return 0x80;              /* the battery is good */
    default: return 0;
    }
}

static void out_locked(struct vm *vm, uint16_t port, uint32_t width, const uint8_t *data)
{
    if (port >= COM1 && port < COM1 + 8 && width == 1)
        uart_out((uint8_t)(port - COM1), *data);
    else if (port == BLOCK_CONSOLE && width == 4 && vm->options->block_console) {
        uint32_t address;
        memcpy(&address, data, 4);
        block_exchange(vm, address);
    } else if (port == DEBUG_CONSOLE)
        console_put(data, width);
    else if (port == CLOCK_INDEX)
        clock_index = *data & 0x7F;
    else if ((port == KEYBOARD_COMMAND && *data == 0xFE) || (port == RESET_CONTROL && *data & 4))
        fail(END_RESET, "the guest reset the machine (port %Xh)", port);
}

static void in_locked(struct vm *vm, uint16_t port, uint32_t width, uint8_t *data)
{
    memset(data, 0xFF, width);
    if (port >= COM1 && port < COM1 + 8 && width == 1)
        *data = uart_in((uint8_t)(port - COM1));
    else if (port == BLOCK_CONSOLE && width == 4 && vm->options->block_console) {
        uint32_t magic = BLOCK_MAGIC;
        memcpy(data, &magic, 4);
    } else if (port == DEBUG_CONSOLE)
        *data = 0xE9;                   /* says that it is there, as Bochs's does */
    else if (port == CLOCK_DATA)
        *data = clock_in();
    else if (port == KEYBOARD || port == KEYBOARD_COMMAND)
        *data = 0;
}

void port_out(struct vm *vm, uint16_t port, uint32_t width, const uint8_t *data)
{
    pthread_mutex_lock(&lock);
    out_locked(vm, port, width, data);
    pthread_mutex_unlock(&lock);
}

void port_in(struct vm *vm, uint16_t port, uint32_t width, uint8_t *data)
{
    pthread_mutex_lock(&lock);
    in_locked(vm, port, width, data);
    pthread_mutex_unlock(&lock);
}
