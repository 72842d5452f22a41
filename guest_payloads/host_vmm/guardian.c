/* The guardian of a leash: starts the command, ends it when it is time, and then does what is to be done on its end. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "host.h"
#include "leash.h"

#define FAILED_TO_START 127

static int children;                    /* a signalfd: readable when a child has ended */

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000ll + now.tv_nsec / 1000000;
}

/* Being asked to end is the relay's business, what matters here is the lifeline: so all signals are held back. Not ignored, for the
 * command would miss one that comes before it has begun. */
static void watch_children(void)
{
    sigset_t set;
    sigfillset(&set);
    sigprocmask(SIG_BLOCK, &set, NULL);
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    children = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (children < 0)
        fail_errno(END_HOST, "leash");
}

/* Starts it in a process group of its own. It dies with us, even if we are killed. */
static pid_t start(char *const *command, int in, int out)
{
    pid_t guardian = getpid(), pid = fork();
    if (pid > 0)
        setpgid(pid, pid);              /* here too: whoever comes first */
    if (pid)
        return pid;
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != guardian)          /* we were killed before that */
        _exit(128 + SIGKILL);
    signal(SIGPIPE, SIG_DFL);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    dup2(in, 0);
    dup2(out, 1);
    if (in > 2)
        close(in);
    if (out > 2)
        close(out);
    execvp(command[0], command);
    int status = errno == ENOENT ? FAILED_TO_START : FAILED_TO_START - 1;
    fail(status, "leash: %s: %s", command[0], strerror(errno));
}

/* Reaps whoever has ended: grandchildren come to us too. 1 when `pid` was among them. */
static int reap(pid_t pid, int *status)
{
    struct signalfd_siginfo ignored;
    int found = 0, one;
    while (read(children, &ignored, sizeof(ignored)) > 0)
        ;
    for (pid_t ended; (ended = waitpid(-1, &one, WNOHANG)) > 0;)
        if (ended == pid) {
            *status = WIFSIGNALED(one) ? 128 + WTERMSIG(one) : WEXITSTATUS(one);
            found = 1;
        }
    return found;
}

/* Waits for a child's end for so long, or (with a lifeline) for the relay's. 1 when it has ended. */
static int await(pid_t pid, int *status, int lifeline, int64_t milliseconds)
{
    int64_t end = now_ms() + milliseconds;
    for (;;) {
        if (reap(pid, status))
            return 1;
        int64_t left = end - now_ms();
        if (lifeline < 0 && left <= 0)
            return 0;
        struct pollfd ready[] = { { children, POLLIN, 0 }, { lifeline, POLLIN, 0 } };
        poll(ready, lifeline < 0 ? 1 : 2, lifeline < 0 ? (int)left : -1);
        if (lifeline >= 0 && ready[1].revents)
            return 0;
    }
}

static void end_command(pid_t pid, int grace_ms, int *status)
{
    kill(-pid, SIGTERM);
    kill(-pid, SIGCONT);
    if (!await(pid, status, -1, grace_ms)) {
        kill(-pid, SIGKILL);
        await(pid, status, -1, KILLED_MS);
    }
}

static void do_on_end(const char *text)
{
    char *command[] = { "/bin/sh", "-c", (char *)(uintptr_t)text, NULL };
    int ignored, null = open("/dev/null", O_RDWR | O_CLOEXEC);
    pid_t pid = start(command, null, 2);        /* what it says is no console output */
    if (pid > 0 && !await(pid, &ignored, -1, ON_END_MS)) {
        kill(-pid, SIGKILL);
        await(pid, &ignored, -1, KILLED_MS);
    }
}

void guard(const struct leash *leash, int child_in, int child_out, int lifeline)
{
    int status = 128 + SIGKILL;
    setsid();                                   /* a terminal's signals are the relay's */
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    watch_children();
    pid_t pid = start(leash->command, child_in, child_out);
    if (pid < 0)
        fail_errno(END_HOST, "leash");
    close(child_in);
    close(child_out);
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    dup2(null, 0);
    dup2(null, 1);
    if (!await(pid, &status, lifeline, 0))
        end_command(pid, leash->grace_ms, &status);
    kill(-pid, SIGKILL);                        /* what it left behind in its group */
    if (leash->on_end)
        do_on_end(leash->on_end);
    ssize_t told = write(lifeline, &status, sizeof(status));
    _exit(told < 0);
}
