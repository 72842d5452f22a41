/* nsvm-host: what runs on a host under test. */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "host.h"

static const char usage[] =
    "usage: nsvm-host kvm [options] EXECUTOR.elf      a guest under KVM; its COM1 is stdin and stdout\n"
    "         --cpus N          1 to 8 (default 1)\n"
    "         --memory MIB      16 to 2048 (default 64)\n"
    "         --clear LEAF[.SUBLEAF].REG=MASK   clear CPUID bits, numbers in hex: 8000000a.edx=8 (may be repeated)\n"
    "         --quirks-off MASK   without these quirks of KVM (KVM_X86_QUIRK_*, in hex: 800)\n"
    "         --module FILE     a boot module (a bundle)\n"
    "         --append TEXT     the guest's command line\n"
    "         --console uart|block   a 16550 (default), or whole blocks through a port (docs/link-protocol.md)\n"
    "         --entry auto|multiboot|pvh\n"
    "         --seconds N       end after that time\n"
    "         --name TEXT       to be found by in the list of processes\n"
    "         --device PATH     instead of /dev/kvm\n"
    "       nsvm-host kvm --check [--device PATH]     only say whether it could run\n"
    "       nsvm-host leash [--grace-ms N] [--on-end SHELL] -- COMMAND...\n"
    "                                                run COMMAND until it ends or stdin closes, then SHELL\n"
    "       nsvm-host tty PATH                       stdin and stdout to and from a terminal, raw\n";

int main(int count, char **arguments)
{
    signal(SIGPIPE, SIG_IGN);
    if (count >= 2 && !strcmp(arguments[1], "kvm"))
        return kvm_main(count - 1, arguments + 1);
    if (count >= 2 && !strcmp(arguments[1], "leash"))
        return leash_main(count - 1, arguments + 1);
    if (count >= 2 && !strcmp(arguments[1], "tty"))
        return tty_main(count - 1, arguments + 1);
    fputs(usage, stderr);
    return END_USAGE;
}
