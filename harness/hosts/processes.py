"""Guests that are processes of the host: shell text that finds them by name, in whatever `sh` is there, without `ps`.

A guest's command line has `guest=NAME,` in it. The texts here are command lines too, of the shell that carries them
out, so they must not contain what they look for: the marker and the name come together only when the text is run.
"""

from __future__ import annotations

import shlex

from harness.hosts.l0 import GUEST_PREFIX

STOP_TICKS = 20
"""Tenths of a second that a guest has between being asked to end and being made to."""

# `read` leaves out the NUL bytes between the arguments; it costs no process, and most on a host have no command line.
_EACH = 'for p in /proc/[0-9]*; do c=; IFS= read -r c < "$p/cmdline"; case $c in'


def mark(name: str) -> str:
    """What a guest's command line must have in it."""
    return f"guest={name},"


def list_script() -> str:
    """Prints the names of the guests that run, one a line."""
    return (
        f'g=guest=; {{ {_EACH} *nsvm-host*"$g"{GUEST_PREFIX}*,*|*qemu*"$g"{GUEST_PREFIX}*,*) '
        'n=${c#*"$g"}; printf "%s\\n" "${n%%,*}";; esac; done; } 2>/dev/null | sort -u'
    )


def stop_script(name: str, *, patient: bool = False) -> str:
    """Ends the processes of a guest and waits until they are gone. Status 1 if they stay.

    `patient`: they are about to end, and are left alone for as long as others have between SIGTERM and SIGKILL.
    """
    return (
        f"n={shlex.quote(name)}; s=0; t={-STOP_TICKS if patient else 0}; while :; do [ $t -ne 0 ] || s=TERM; f=; "
        f'{{ {_EACH} *"guest=$n,"*) kill -$s "${{p#/proc/}}" && f=1;; esac; done; }} 2>/dev/null; '
        f'[ -n "$f" ] || exit 0; [ $t -lt {STOP_TICKS} ] || s=KILL; [ $t -lt {STOP_TICKS * 2} ] || exit 1; '
        "t=$((t+1)); sleep 0.1 2>/dev/null || sleep 1; done"
    )
