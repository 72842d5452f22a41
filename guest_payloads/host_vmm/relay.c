/* Copies bytes both ways between our stdin and stdout and somebody else's, and notices which side ends. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "host.h"
#include "leash.h"

#define BLOCK 65536
#define CHUNK 4096                      /* a pipe that is ready takes this much without blocking */
#define DRAIN_MS 300                    /* how long after the command's end something in the pipe may still come */

struct way {
    int from, to, from_open, to_open;
    size_t size;
    unsigned char bytes[BLOCK];
};

static void take(struct way *way)
{
    ssize_t got = read(way->from, way->bytes + way->size, sizeof(way->bytes) - way->size);
    if (got > 0)
        way->size += (size_t)got;
    else if (got == 0 || (errno != EINTR && errno != EAGAIN))
        way->from_open = 0;             /* a terminal whose other side is gone says EIO */
}

static void give(struct way *way)
{
    ssize_t put = write(way->to, way->bytes, way->size < CHUNK ? way->size : CHUNK);
    if (put > 0) {
        way->size -= (size_t)put;
        memmove(way->bytes, way->bytes + put, way->size);
    } else if (put < 0 && errno != EINTR && errno != EAGAIN) {
        way->to_open = 0;
    }
}

int relay(struct ends ends, int lifeline)
{
    static struct way in, out;
    in = (struct way){ .from = 0, .to = ends.in, .from_open = 1, .to_open = 1 };
    out = (struct way){ .from = ends.out, .to = 1, .from_open = 1, .to_open = 1 };
    int ended = 0;
    /* Until one side is gone, by nature; each round waits for something to happen. */
    while (out.from_open || out.size) {
        struct pollfd ready[] = {
            /* Hang-up is told even when nothing is asked for, so a full block does not hide that stdin is gone. */
            { 0, (short)(in.size < BLOCK ? POLLIN | POLLRDHUP : POLLRDHUP), 0 },
            { in.size && in.to_open ? in.to : -1, POLLOUT, 0 },
            { out.from_open && out.size < BLOCK ? out.from : -1, POLLIN, 0 },
            { out.size && out.to_open ? 1 : -1, POLLOUT, 0 },
            { ended ? -1 : lifeline, POLLIN, 0 },
        };
        int happened = poll(ready, 5, ended && !out.size ? DRAIN_MS : -1);
        if (happened < 0 && errno != EINTR)
            return 0;
        if (happened == 0)
            return 0;                   /* the command has ended, and somebody else keeps its stdout */
        if (happened < 0)
            continue;
        if (ready[2].revents)
            take(&out);
        if (ready[3].revents)
            give(&out);
        if (ready[4].revents)
            ended = 1;
        if (ready[0].revents & POLLIN)
            take(&in);
        else if (ready[0].revents)
            in.from_open = 0;
        if (ready[1].revents)
            give(&in);
        if (!in.from_open)
            return 1;
        if (!out.to_open)
            return 1;                   /* nobody listens: whoever started us is gone */
        if (!in.to_open)
            in.size = 0;                /* it takes no more: what comes is thrown away */
    }
    return 0;
}
