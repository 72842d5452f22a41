/* The leash: two processes. The relay stands between our stdin and stdout and the command's; the guardian owns the command, and ends
 * it when the relay says so or is gone, however it went. */
#ifndef LEASH_H
#define LEASH_H

#define ON_END_MS 30000                 /* what is to be done at the end may take so long */
#define KILLED_MS 5000                  /* how long what was killed may take to be gone */

struct leash {
    const char *on_end;
    int grace_ms;
    char **command;
};
struct ends {
    int in, out;                        /* where to write the command's stdin, and read its stdout */
};

/* guardian.c: never returns. `lifeline`: end of file there means that the relay is gone; the exit status is written to it. */
_Noreturn void guard(const struct leash *leash, int child_in, int child_out, int lifeline);

/* relay.c: until both sides have ended. `lifeline`: readable when the command has ended, -1 for none.
 * Returns 1 if it was our stdin that ended first. */
int relay(struct ends ends, int lifeline);

#endif
