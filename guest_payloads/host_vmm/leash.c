/* `nsvm-host leash`: sshd that closes a connection does not end what it started; this does. */
#include "leash.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "host.h"

#define GRACE_MS 2000

static struct leash read_arguments(int count, char **arguments)
{
    struct leash leash = { .grace_ms = GRACE_MS };
    int i = 1;
    for (; i < count && strcmp(arguments[i], "--"); i += 2) {
        if (i + 1 == count)
            break;
        char *end = "";
        if (!strcmp(arguments[i], "--on-end"))
            leash.on_end = arguments[i + 1];
        else if (!strcmp(arguments[i], "--grace-ms"))
            leash.grace_ms = (int)strtol(arguments[i + 1], &end, 10);
        else
            fail(END_USAGE, "leash: '%s' is no option", arguments[i]);
        if (*end || leash.grace_ms < 0 || leash.grace_ms > 600000)
            fail(END_USAGE, "leash: --grace-ms takes a number from 0 to 600000");
    }
    if (i >= count || strcmp(arguments[i], "--") || i + 1 == count)
        fail(END_USAGE, "leash: write [--grace-ms N] [--on-end SHELL] -- COMMAND...");
    leash.command = arguments + i + 1;
    return leash;
}

/* Whoever ends us asks us to end the command; the lifeline's end does that, so all that is needed is to leave the relay. */
static void on_signal(int number)
{
    (void)number;
    close(0);
}

int leash_main(int count, char **arguments)
{
    struct leash leash = read_arguments(count, arguments);
    int to_child[2], from_child[2], lifeline[2];
    pid_t parent = getppid();
    if (pipe(to_child) || pipe(from_child) || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, lifeline))
        fail_errno(END_HOST, "leash");
    pid_t guardian = fork();
    if (guardian < 0)
        fail_errno(END_HOST, "leash");
    if (!guardian) {
        close(to_child[1]);
        close(from_child[0]);
        close(lifeline[1]);
        guard(&leash, to_child[0], from_child[1], lifeline[0]);
    }
    close(to_child[0]);
    close(from_child[1]);
    close(lifeline[0]);
    struct sigaction action = { .sa_handler = on_signal };
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent)
        on_signal(0);

    relay((struct ends){ to_child[1], from_child[0] }, lifeline[1]);
    shutdown(lifeline[1], SHUT_WR);     /* the guardian now ends the command if it has not ended, and says its status */
    int status = END_HOST;
    struct pollfd ready = { lifeline[1], POLLIN, 0 };
    int bound = leash.grace_ms + KILLED_MS + ON_END_MS + KILLED_MS + 1000, got = 0;
    while ((got = poll(&ready, 1, bound)) < 0 && errno == EINTR)
        ;
    if (got <= 0 || read(lifeline[1], &status, sizeof(status)) != sizeof(status))
        fail(END_HOST, "leash: the guardian is gone");
    return status;
}
