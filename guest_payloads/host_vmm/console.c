/* The guest's console: stdin and stdout, in blocks.
 *
 * A byte that the guest writes costs a system call only when a block is full or the guest has begun to wait for input. A watcher
 * ends us at once when stdin is hung up, whatever the guest does, and sends what the guest left in the block. */
#include "console.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "host.h"

#define BLOCK 16384
#define CHUNK 4096
#define TICK_MS 20
#define LAST_WORDS_MS 200

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint8_t out[BLOCK], in[BLOCK];
static size_t out_size, in_taken, in_size;

/* Sends a part if the reader takes one within that time; a pipe that is ready takes CHUNK at least. */
static void write_some(int milliseconds)
{
    struct pollfd ready = { 1, POLLOUT, 0 };
    if (!out_size || poll(&ready, 1, milliseconds) <= 0)
        return;
    ssize_t written = write(1, out, out_size < CHUNK ? out_size : CHUNK);
    if (written < 0 && errno != EINTR && errno != EAGAIN) {
        out_size = 0;
        fail(END_NO_READER, "nobody reads the console any more");
    }
    if (written > 0) {
        out_size -= (size_t)written;
        memmove(out, out + written, out_size);
    }
}

/* Waits while nobody reads: that is the guest's flow control. The watcher still ends us. */
static void write_all(void)
{
    while (out_size)
        write_some(TICK_MS);
}

void console_put(const uint8_t *bytes, size_t size)
{
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < size; i++) {
        if (out_size == sizeof(out))
            write_all();
        out[out_size++] = bytes[i];
    }
    pthread_mutex_unlock(&lock);
}

void console_flush(void)
{
    pthread_mutex_lock(&lock);
    write_all();
    pthread_mutex_unlock(&lock);
}

/* What the guest left in the block, as far as that goes at once: fail() asks for it. */
static void last_words(void)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += LAST_WORDS_MS * 1000000L;
    until.tv_sec += until.tv_nsec / 1000000000L;
    until.tv_nsec %= 1000000000L;
    if (pthread_mutex_timedlock(&lock, &until))
        return;
    struct pollfd ready = { 1, POLLOUT, 0 };
    for (size_t done = 0; done < out_size && poll(&ready, 1, LAST_WORDS_MS) > 0;) {
        ssize_t written = write(1, out + done, out_size - done < CHUNK ? out_size - done : CHUNK);
        if (written <= 0)
            return;
        done += (size_t)written;
    }
}

/* Only the thread that serves the console port comes here, under its own lock. */
static void fill(int milliseconds)
{
    if (in_taken < in_size)
        return;
    struct pollfd wait = { 0, POLLIN, 0 };
    if (poll(&wait, 1, milliseconds) <= 0)
        return;
    ssize_t got = read(0, in, sizeof(in));
    if (got == 0 || (got < 0 && errno != EINTR && errno != EAGAIN))
        fail(END_ASKED, "the console was closed");
    in_taken = 0;
    in_size = got > 0 ? (size_t)got : 0;
}

size_t console_get(uint8_t *bytes, size_t room)
{
    size_t size = 0;
    fill(0);
    while (size < room && in_taken < in_size)
        bytes[size++] = in[in_taken++];
    return size;
}

void console_wait(int milliseconds) { fill(milliseconds); }

/* Ends with the process, by nature. */
static void *watch(void *unused)
{
    (void)unused;
    for (;;) {
        struct pollfd ends = { 0, POLLRDHUP, 0 };
        if (poll(&ends, 1, TICK_MS) > 0 && ends.revents & (POLLHUP | POLLRDHUP | POLLERR | POLLNVAL))
            fail(END_ASKED, "the console was closed");
        if (!pthread_mutex_trylock(&lock)) {
            write_some(0);
            pthread_mutex_unlock(&lock);
        }
    }
    return NULL;
}

void console_start(void)
{
    pthread_t thread;
    at_the_end = last_words;
    if (pthread_create(&thread, NULL, watch, NULL))
        fail(END_HOST, "no thread for the console");
}
