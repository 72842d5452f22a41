/* One line for each end. */
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "host.h"

void (*at_the_end)(void);
static pthread_mutex_t once = PTHREAD_MUTEX_INITIALIZER;

void fail(int status, const char *format, ...)
{
    static char line[1024];
    int saved = errno;
    pthread_mutex_lock(&once);          /* never given back: the process ends */
    if (at_the_end)
        at_the_end();
    va_list arguments;
    va_start(arguments, format);
    errno = saved;
    int size = snprintf(line, sizeof(line), "nsvm-host: ");
    size += vsnprintf(line + size, sizeof(line) - (size_t)size - 1, format, arguments);
    va_end(arguments);
    if (size > (int)sizeof(line) - 2)
        size = sizeof(line) - 2;
    line[size++] = '\n';
    if (write(2, line, (size_t)size) < 0)
        _exit(status);
    _exit(status);
}

void fail_errno(int status, const char *what) { fail(status, "%s: %s", what, strerror(errno)); }
