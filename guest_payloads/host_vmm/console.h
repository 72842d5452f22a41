/* The guest's console: stdin and stdout, in blocks. */
#ifndef CONSOLE_H
#define CONSOLE_H
#include <stddef.h>
#include <stdint.h>

void console_start(void);
void console_put(const uint8_t *bytes, size_t size);    /* kept until a flush, or until there is much */
void console_flush(void);
size_t console_get(uint8_t *bytes, size_t room);        /* what is there */
void console_wait(int milliseconds);                    /* until there is input */

#endif
