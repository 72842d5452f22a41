/* What all of nsvm-host shares: how it ends. */
#ifndef HOST_H
#define HOST_H
#include <stddef.h>
#include <stdint.h>

/* Exit statuses of `nsvm-host kvm`; harness/hosts/kvm.py knows them. `nsvm-host leash` passes its command's status on. */
enum {
    END_ASKED = 0,              /* stdin was closed: whoever started us is gone or done */
    END_USAGE = 2,
    END_HOST = 3,               /* the host lacks something */
    END_IMAGE = 4,              /* the file is not what we can boot */
    END_TRIPLE_FAULT = 10,
    END_RESET = 11,
    END_INTERNAL_ERROR = 12,
    END_FAILED_ENTRY = 13,
    END_OTHER_EXIT = 14,
    END_RUN_ERROR = 15,         /* ioctl(KVM_RUN) itself failed */
    END_NO_READER = 16,         /* stdout was closed */
    END_TIME = 17,              /* --seconds are over */
};

/* Says one line on stderr and exits. Whichever thread comes first does; the others wait for their end. */
_Noreturn void fail(int status, const char *format, ...) __attribute__((format(printf, 2, 3)));
_Noreturn void fail_errno(int status, const char *what);
extern void (*at_the_end)(void);        /* called before that line, if set: the console's last words */

int kvm_main(int count, char **arguments);
int leash_main(int count, char **arguments);
int tty_main(int count, char **arguments);

#endif
