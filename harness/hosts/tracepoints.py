"""KVM's tracepoints for one test, in an ftrace instance of our own: the user's tracing is not touched.

The instance is there while it is wanted, limited to the threads of our guest's VMM, and its ring keeps the last events.
Exits of port I/O and of the local APIC are left out: they are the console and the executor's own, and would push out
everything else. Whatever a killed run left is removed by `cleanup_script`.
"""

from __future__ import annotations

import re
from typing import Final

from harness.hosts.l0 import GUEST_PREFIX

TRACE_MAX: Final = 64 * 1024
BUFFER_KIB: Final = 256  # for each CPU
EVENTS: Final = (
    "kvm_nested_vmrun",  # until 6.2
    "kvm_nested_vmenter",
    "kvm_nested_vmexit",
    "kvm_nested_vmexit_inject",
    "kvm_nested_intr_vmexit",
    "kvm_nested_intercepts",
    "kvm_nested_vmenter_failed",
    "kvm_invlpga",
    "kvm_skinit",
    "kvm_exit",
    "kvm_inj_virq",
    "kvm_inj_exception",
    "kvm_nmi",
    "kvm_msr",
    "kvm_cr",
    "kvm_page_fault",
)
"""Those that a kernel does not have are passed over."""
EXITS: Final = "exit_reason != 0x7b && !(exit_reason == 0x400 && info1 & 8)"
FAULTS: Final = "!(error_code & 8)"
"""Neither port I/O nor the local APIC, whose pages have reserved bits set so that each access exits."""

_FIND = """T=
for t in /sys/kernel/tracing /sys/kernel/debug/tracing; do
 [ -d $t/instances ] && [ -w $t/instances ] && T=$t && break
done
"""
_REMOVE = "echo 0 > $i/tracing_on; echo 0 > $i/events/enable; rmdir $i"
_EVENT = re.compile(r" *\S.{0,40}-\d+ +\[(\d{3,5})\] \S+ +(?=\d+\.\d+: )")
_ZEROS = re.compile(r"\b0x0+(?=[0-9a-f])")
_NAME = re.compile(r"[A-Za-z0-9._@+-]+\Z")


def _checked(name: str) -> str:
    if not name.startswith(GUEST_PREFIX) or not _NAME.match(name):
        raise ValueError(f"{name!r} is no name of a guest of ours")
    return name


def on_script(name: str) -> str:
    """Shell text that begins to trace the guest `name`; prints `on N`, N events, or why it does not."""
    return f"""{_FIND}[ -n "$T" ] || {{ echo "off: no tracefs that this user may write to"; exit 0; }}
[ -d $T/events/kvm ] || {{ echo "off: the kernel has no kvm tracepoints"; exit 0; }}
i=$T/instances/{_checked(name)}
[ -d $i ] && {{ {_REMOVE}; }} 2>/dev/null
mkdir $i 2>/dev/null || {{ echo "off: no instance can be made in $T"; exit 0; }}
cd $i; echo {BUFFER_KIB} > buffer_size_kb; echo mono > trace_clock
n={name}; p=; for f in $(grep -l -z -F -e "guest=$n," /proc/[0-9]*/cmdline 2>/dev/null); do
 for t in ${{f%/cmdline}}/task/[0-9]*; do [ -d "$t" ] && p="$p ${{t##*/}}"; done
done
[ -n "$p" ] && echo $p > set_event_pid
n=0; for e in {" ".join(EVENTS)}; do
 [ -d events/kvm/$e ] || continue
 case $e in
  kvm_exit) echo '{EXITS}' > events/kvm/$e/filter;;
  kvm_page_fault) echo '{FAULTS}' > events/kvm/$e/filter;;
 esac
 echo 1 > events/kvm/$e/enable && n=$((n+1))
done 2>/dev/null
echo on $n
"""


def read_command(name: str) -> str:
    """Shell text that prints the end of what was traced."""
    return f"{_FIND}tail -c {TRACE_MAX} $T/instances/{_checked(name)}/trace"


def off_script(name: str) -> str:
    """Shell text that ends the tracing of one guest; nothing to end is no error."""
    return f'{_FIND}i=$T/instances/{_checked(name)}; [ -d "$i" ] && {{ {_REMOVE}; }} 2>/dev/null; true\n'


def cleanup_script() -> str:
    """Shell text that removes all instances of ours: for a run that holds the host's lease and has no guest yet."""
    return f'{_FIND}for i in $T/instances/{GUEST_PREFIX}*; do [ -d "$i" ] && {{ {_REMOVE}; }} 2>/dev/null; done; true\n'


def tidy(text: str) -> str:
    """The traced events without ftrace's header and filling; the first line may be torn and is left out then."""
    lines = [_short(line) for line in text.split("\n") if line and not line.startswith("#")]
    return "\n".join(lines[1:] if len(text) >= TRACE_MAX else lines)


def _short(line: str) -> str:
    found = _EVENT.match(line)
    return _ZEROS.sub("0x", f"cpu{int(found[1])} {line[found.end() :]}" if found else line)
