/*
 * A judge of branch records and of block stepping, for Linux as root on the machine that is judged.
 *
 * Nothing here knows the reference machine: ptrace(PTRACE_SINGLEBLOCK) is Linux's use of DEBUGCTL.BTF, and the records
 * are read as any tool reads them, from /dev/cpu/0/msr (module msr). What is expected is what the AMD64 manual
 * says (APM2 13.1.1, 13.1.6): the debugger stops after taken branches only; a record holds the last branch; an
 * exception puts the record that it finds into LastInt.
 *
 * Build: cc -O1 -static -Wall -Wextra -o branches branches.c      It prints TAP; it ends with 1 if anything failed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#ifndef PTRACE_SINGLEBLOCK
#define PTRACE_SINGLEBLOCK 33
#endif

enum { DEBUGCTL = 0x1d9, BRANCH_FROM = 0x1db, BRANCH_TO, INT_FROM, INT_TO };
#define ADDRESS_BITS ((1ull << 57) - 1) /* some parts use the bits above for other things */
#define TRIES 200

static int tests, failures;

static void report(int good, const char *what)
{
    tests++;
    failures += !good;
    printf("%sok %d - %s\n", good ? "" : "not ", tests, what);
}

/* The code that is stepped. A stop is due at each stop_N, which are the targets of its taken branches. */
extern const char walk[], stop_1[], stop_2[], stop_3[], stop_4[], stop_5[], stop_6[], walk_end[];
asm(".pushsection .text\n"
    "walk: nop; nop\n"
    "      jmp stop_1; nop\n"
    "stop_1: xor %eax, %eax; jnz walk\n" /* not taken: no stop */
    "      jz stop_2; nop\n"
    "stop_2: mov $2, %ecx; nop\n"
    "stop_3: loop stop_3\n" /* taken once */
    "      call stop_4\n"
    "stop_5: lea -256(%rsp), %rdi; mov $8, %ecx; cld; rep stosb\n" /* iterations are no branches */
    "      lea stop_6(%rip), %rax; jmp *%rax; nop\n"
    "stop_4: nop; ret\n"
    "stop_6: nop\n"
    "walk_end: nop; jmp walk_end\n"
    ".popsection");

static pid_t start_walker(void)
{
    pid_t child = fork();

    if (child == 0) {
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        raise(SIGSTOP);
        _exit(0);
    }
    waitpid(child, NULL, 0);
    struct user_regs_struct regs;
    ptrace(PTRACE_GETREGS, child, 0, &regs);
    regs.rip = (uintptr_t)walk;
    regs.orig_rax = -1;
    ptrace(PTRACE_SETREGS, child, 0, &regs);
    return child;
}

static uint64_t step(pid_t child, int how)
{
    struct user_regs_struct regs;
    int status;

    if (ptrace(how, child, 0, 0) || waitpid(child, &status, 0) != child || !WIFSTOPPED(status)) {
        return 0;
    }
    ptrace(PTRACE_GETREGS, child, 0, &regs);
    return regs.rip;
}

static void block_stepping(void)
{
    const char *const stops[] = { stop_1, stop_2, stop_3, stop_4, stop_5, stop_6, walk_end };
    pid_t child = start_walker();
    int good = 1;

    for (unsigned i = 0; i < sizeof stops / sizeof *stops; i++) {
        uint64_t rip = step(child, PTRACE_SINGLEBLOCK);

        if (rip != (uintptr_t)stops[i]) {
            printf("# stop %u at %#llx, not at %p (errno %d)\n", i + 1, (unsigned long long)rip, stops[i], errno);
            good = 0;
        }
    }
    report(good, "PTRACE_SINGLEBLOCK stops at the targets of taken branches and nowhere else");
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);

    child = start_walker();
    good = step(child, PTRACE_SINGLESTEP) == (uintptr_t)walk + 1;
    good &= step(child, PTRACE_SINGLESTEP) == (uintptr_t)walk + 2;
    good &= step(child, PTRACE_SINGLEBLOCK) == (uintptr_t)stop_1;
    good &= step(child, PTRACE_SINGLESTEP) == (uintptr_t)stop_1 + 2;
    good &= step(child, PTRACE_SINGLEBLOCK) == (uintptr_t)stop_2;
    report(good, "single steps and block steps may alternate");
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
}

static int msr_file = -1;

static uint64_t rdmsr(int number)
{
    uint64_t value = 0;

    if (pread(msr_file, &value, sizeof value, number) != sizeof value) {
        printf("# RDMSR %x: %s\n", number, strerror(errno));
    }
    return value;
}

static int wrmsr(int number, uint64_t value)
{
    return pwrite(msr_file, &value, sizeof value, number) == sizeof value;
}

/* The kernel's function around an address, from /proc/kallsyms; "?" if there is none. */
static const char *symbol(uint64_t address)
{
    static char best[200];
    char line[300], name[200], type;
    uint64_t at, best_at = 0;
    FILE *file = fopen("/proc/kallsyms", "r");

    strcpy(best, "?");
    while (file && fgets(line, sizeof line, file)) {
        unsigned long long number;

        if (sscanf(line, "%llx %c %199s", &number, &type, name) == 3 && (type == 't' || type == 'T')) {
            at = number;
            if (at <= address && at > best_at && address - at < 65536) {
                best_at = at;
                strcpy(best, name);
            }
        }
    }
    if (file) {
        fclose(file);
    }
    return best;
}

/* The last branch before the kernel's own RDMSR is one that led to it. */
static void kernel_records(void)
{
    uint64_t from, to, again;
    const char *name;

    report(wrmsr(DEBUGCTL, 1), "DEBUGCTL.LBR can be set");
    report((rdmsr(DEBUGCTL) & 1) == 1, "and reads 1");
    from = rdmsr(BRANCH_FROM);
    to = rdmsr(BRANCH_TO);
    name = symbol(to | ~ADDRESS_BITS);
    printf("# last branch to %#llx, in %s\n", (unsigned long long)to, name);
    report(strstr(name, "rdmsr") || strstr(name, "read_msr"), "LastBranchTo is in a function of the kernel that reads MSRs");
    name = symbol(from | ~ADDRESS_BITS);
    printf("# last branch from %#llx, in %s\n", (unsigned long long)from, name);
    report(strcmp(name, "?") != 0, "LastBranchFrom is in the kernel's code");
    report(wrmsr(DEBUGCTL, 0) && (rdmsr(DEBUGCTL) & 1) == 0, "DEBUGCTL.LBR can be cleared");
    from = rdmsr(BRANCH_FROM);
    again = rdmsr(BRANCH_FROM);
    report(from == again, "with LBR clear nothing is recorded any more");
}

extern const char fault_from[], fault_to[], fault_end[];
extern void jump_and_fault(void);
asm(".pushsection .text\n"
    "jump_and_fault:\n"
    "fault_from: jmp fault_to; nop\n"
    "fault_to: ud2\n"
    "fault_end: ret\n"
    ".popsection");

static volatile int faults;

static void on_ill(int signal, siginfo_t *info, void *context)
{
    (void)signal;
    (void)info;
    faults++;
    ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] = (greg_t)fault_end;
}

/* An interrupt between the exception and the read takes its place in LastInt: several tries. */
static void exception_records(void)
{
    struct sigaction action = { .sa_sigaction = on_ill, .sa_flags = SA_SIGINFO };
    uint64_t from = 0, to = 0;
    int found = 0;

    sigaction(SIGILL, &action, NULL);
    for (int i = 0; i < TRIES && !found; i++) {
        wrmsr(DEBUGCTL, 1);
        jump_and_fault();
        from = rdmsr(INT_FROM) & ADDRESS_BITS;
        to = rdmsr(INT_TO) & ADDRESS_BITS;
        wrmsr(DEBUGCTL, 0);
        found = from == (uintptr_t)fault_from && to == (uintptr_t)fault_to;
    }
    printf("# LastInt %#llx to %#llx, jump %p to %p, %d faults\n", (unsigned long long)from, (unsigned long long)to,
           fault_from, fault_to, faults);
    report(found, "an exception puts the last branch before it into LastInt");
}

static void debug_exception_ends_recording(void)
{
    pid_t child;

    wrmsr(DEBUGCTL, 1);
    child = start_walker();
    step(child, PTRACE_SINGLESTEP);
    report((rdmsr(DEBUGCTL) & 3) == 0, "#DB clears LBR and BTF");
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
}

int main(void)
{
    cpu_set_t first;

    CPU_ZERO(&first);
    CPU_SET(0, &first);
    sched_setaffinity(0, sizeof first, &first); /* the MSRs are CPU 0's */
    mlockall(MCL_CURRENT | MCL_FUTURE);         /* no page faults of ours in the records */
    setvbuf(stdout, NULL, _IOLBF, 0);
    block_stepping();
    msr_file = open("/dev/cpu/0/msr", O_RDWR);
    if (msr_file < 0) {
        printf("# /dev/cpu/0/msr: %s\n", strerror(errno));
        report(0, "the module msr is loaded");
    } else {
        kernel_records();
        exception_records();
        debug_exception_ends_recording();
    }
    printf("1..%d\n", tests);
    return failures != 0;
}
