/* `nsvm-host tty PATH`: a terminal (a Xen guest's console) on stdin and stdout, raw, with no escape character. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "host.h"
#include "leash.h"

int tty_main(int count, char **arguments)
{
    struct termios settings;
    if (count != 2)
        fail(END_USAGE, "tty: one path, please");
    int fd = open(arguments[1], O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        fail(END_HOST, "tty: %s: %s", arguments[1], strerror(errno));
    if (tcgetattr(fd, &settings))
        fail(END_HOST, "tty: %s is no terminal", arguments[1]);
    cfmakeraw(&settings);
    if (tcsetattr(fd, TCSANOW, &settings))
        fail_errno(END_HOST, "tty");
    relay((struct ends){ fd, fd }, -1);
    return 0;
}
