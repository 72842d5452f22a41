"""Which lines of L0's log are failures of L0, and which only look like one."""

from __future__ import annotations

import pytest

from harness.hosts.problems import Grade, first_fatal, grade_of, problems
from harness.hosts.taint import became, describe
from harness.hosts.xen_log import XenLog, overlap
from tests.hosts.l0_logs import HOSTILE, NEW_WARN, OOPS, WARN, XEN_PANIC


@pytest.mark.parametrize(
    "line",
    [
        "BUG: kernel NULL pointer dereference, address: 0000000000000008",
        "[   12.345678] BUG: KASAN: slab-out-of-bounds in nested_svm_vmrun+0x1/0x2 [kvm_amd]",
        "[   12.345678][  T612] kernel BUG at arch/x86/kvm/x86.c:427!",
        "<0>[   12.345678] Kernel panic - not syncing: Fatal exception",
        "general protection fault, probably for non-canonical address 0xdead: 0000 [#1] PREEMPT SMP",
        "general protection fault: 0000 [#1]",
        "invalid opcode: 0000 [#1] SMP",
        "Oops: general protection fault, probably for non-canonical address 0x1: 0000 [#1] SMP",
        "traps: PANIC: double fault, error_code: 0x0",
        "UBSAN: shift-out-of-bounds in arch/x86/kvm/svm/nested.c:12:3",
        "(XEN) Panic on CPU 1:",
        "(XEN) [2026-11-22 10:00:00.123] FATAL TRAP: vector = 14 (page fault)",
        "(XEN) [   55.123456] FATAL PAGE FAULT",
        "(XEN) domain_crash called from svm.c:2451",
        "(XEN) Domain 5 (vcpu#0) crashed on cpu#1:",
        "(XEN) Assertion 'v == current' failed at nestedsvm.c:812",
        "(XEN) Xen BUG at svm.c:123",
    ],
)
def test_a_failure_of_l0_is_fatal(line: str) -> None:
    assert grade_of(line) is Grade.FATAL


@pytest.mark.parametrize(
    "line",
    [
        "watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [nsvm-host:612]",
        "NMI watchdog: Watchdog detected hard LOCKUP on cpu 1",
        "rcu: INFO: rcu_preempt self-detected stall on CPU",
        "rcu: INFO: rcu_sched detected stalls on CPUs/tasks:",
        "(XEN) Watchdog timer detects that CPU0 is stuck!",
    ],
)
def test_a_stall_is_a_grade_of_its_own(line: str) -> None:
    assert grade_of(line) is Grade.STALL
    assert first_fatal(line) == line
    assert first_fatal(line, stalls=False) is None


@pytest.mark.parametrize(
    "line",
    [
        WARN.split("\n")[1],
        NEW_WARN,
        "unchecked MSR access error: RDMSR from 0xc0010114",
        "INFO: task kworker/0:1:12 blocked for more than 120 seconds.",
        "nsvm-host[612]: segfault at 0 ip 0000000000401000 sp 00007ffc error 4 in nsvm-host",
        "traps: qemu-system-x86[612] general protection fault ip:55 sp:7f error:0 in qemu",
        "(XEN) Xen WARN at nestedsvm.c:99",
    ],
)
def test_a_warning_is_noteworthy(line: str) -> None:
    assert grade_of(line) is Grade.NOTEWORTHY
    assert first_fatal(line) is None


@pytest.mark.parametrize(
    "line",
    [
        "kvm: Nested Virtualization enabled",
        "kernel: the guest says: Oops: 0002 [#1]",
        "audit: comm='BUG: nothing' exe='/bin/sh'",
        "(d5) (XEN) Panic on CPU 0:",
        "(d5v0) Oops: 0002 [#1] SMP",
        "guest said (XEN) Panic on CPU 0:",
        "Oops",
        "debugging: on",
        "usb 1-1: Manufacturer: Panic on CPU 1",
    ],
)
def test_what_a_guest_or_a_process_can_say_is_nothing(line: str) -> None:
    assert grade_of(line) is None


def test_only_a_newline_ends_a_line() -> None:
    assert problems(f"(d5) {HOSTILE}\nharmless") == []


def test_a_whole_panic_is_told_by_its_first_line() -> None:
    assert first_fatal("boot\r\n" + XEN_PANIC.replace("\n", "\r\n")) == "(XEN) Panic on CPU 0:"
    assert first_fatal(OOPS) == OOPS.split("\n")[0]


def test_a_pattern_is_not_slow_on_a_hostile_line() -> None:
    for line in ("A" * 1_000_000, "a b" * 100_000, "[" * 100_000, "(XEN) [" + "x" * 100_000, "[1." + "1" * 100_000):
        assert grade_of(line) is None


def test_a_taint_is_told_in_words_and_graded() -> None:
    assert became(512, 512) is None
    assert became(4096, 4096 | 512) is not None
    warned, died, locked = became(0, 1 << 9), became(1 << 9, 1 << 9 | 1 << 7), became(0, 1 << 14)
    assert warned and warned.grade is Grade.NOTEWORTHY and describe(warned) == "W (a warning)"
    assert died and died.grade is Grade.FATAL
    assert locked and locked.grade is Grade.STALL
    odd = became(0, 1 << 40)
    assert odd and describe(odd) == "0x10000000000"


def test_what_is_new_in_xens_ring() -> None:
    log = XenLog()
    first = b"".join(b"(XEN) line %d\n" % n for n in range(500))
    assert log.news(first) == (b"", False), "what was there before is not news"
    assert log.news(first) == (b"", False)
    assert log.news(first + b"(XEN) more\n") == (b"(XEN) more\n", False)
    wrapped = (first + b"(XEN) more\n")[1003:] + b"(XEN) yet more\n"
    assert log.news(wrapped) == (b"(XEN) yet more\n", False)
    assert log.news(b"(XEN) something else\n" * 100) == (b"(XEN) something else\n" * 100, True)


def test_a_ring_of_xen_that_could_not_be_read_makes_no_old_line_new() -> None:
    log = XenLog()
    ring = b"(XEN) Panic of last week\n(XEN) and since then nothing\n"
    assert log.news(b"") == (b"", False)
    assert log.news(ring) == (b"", False)
    assert log.news(b"") == (b"", False)
    assert log.news(ring + b"(XEN) more\n") == (b"(XEN) more\n", False)


def test_a_ring_of_equal_lines_is_compared_quickly() -> None:
    old = b"(XEN) again\n" * 20_000
    assert overlap(old, old[24:] + b"(XEN) new\n") == len(old) - 24
    assert overlap(b"x" * 200_000, b"x" * 199_999 + b"y" * 10) == 199_999
    assert overlap(b"", b"abc") == 0
    assert overlap(b"abc", b"") == 0
    assert overlap(b"xab", b"abc") == 2
