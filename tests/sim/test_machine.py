"""What is read from the serial port, and how the outer QEMU is called."""

from __future__ import annotations

import io
import socket
import time

import pytest
from elftools.elf.elffile import ELFFile

from harness.sim import probe, pvh
from harness.sim.image import Image
from harness.sim.kvm_image import KvmImage
from harness.sim.machine import fill
from harness.sim.serial_log import CONSOLE_KEPT, SerialLog, fatal_line
from harness.sim.xen_image import XenImage

OOPS = """\
[    3.1] nsvm: ready 2.63 0.00
[    9.9] BUG: unable to handle page fault for address: ffffffffdeadbeef
[    9.9] Oops: 0002 [#1] PREEMPT SMP NOPTI
"""
XEN_PANIC = """\
(XEN) ****************************************
(XEN) Panic on CPU 0:
(XEN) Xen BUG at svm.c:3036
(XEN) ****************************************
(XEN) Manual reset required ('noreboot' specified)
"""
XEN_TRACE = """\
(XEN) Xen call trace:
(XEN)    [<ffff82d040294394>] R arch/x86/hvm/svm/nestedsvm.c#nsvm_vmcb_guest_intercepts_exitcode+0x2a4/0x2b0
(XEN)    [<ffff82d04020454f>] S svm_asm_do_resume+0x14f/0x194
(XEN)
"""
XEN_TRAP = "(XEN) [   12.345678] Panic on CPU 0:\n(XEN) [   12.345679] FATAL TRAP: vec 13, #GP[0000]\n"
FEATURES = """\
(XEN) SVM: Supported advanced features:
(XEN)  - Nested Page Tables (NPT)
(XEN)  - Next-RIP Saved on #VMEXIT
(XEN) HVM: SVM enabled
"""


@pytest.mark.parametrize(
    ("console", "said"),
    [
        ("", None),
        ("[ 1.0] BUG: soft lockup - CPU#0 stuck for 26s!\n[ 2.0] traps: sh[1] general protection fault ip:1\n", None),
        (OOPS, "the host's kernel is broken: BUG: unable to handle page fault for address: ffffffffdeadbeef"),
        (
            OOPS + "[   10.0] Kernel panic - not syncing: Fatal exception in interrupt\n",
            "the host panicked: Fatal exception in interrupt (first: BUG: unable to handle page fault for address: "
            "ffffffffdeadbeef)",
        ),
        ("Kernel panic - not syncing: sysrq triggered crash\n", "the host panicked: sysrq triggered crash"),
        (XEN_PANIC, "Xen panicked: Xen BUG at svm.c:3036"),
        (XEN_TRACE + XEN_PANIC, "Xen panicked: Xen BUG at svm.c:3036 in nsvm_vmcb_guest_intercepts_exitcode()"),
        (XEN_TRAP, "Xen panicked: FATAL TRAP: vec 13, #GP[0000]"),
        ("(d5) (XEN) Panic on CPU 0:\n(d5) (XEN) a guest that lies\n(d5) Oops: 0000 [#1]\n", None),
        ("(d5) Kernel panic - not syncing: a guest's own\n", None),
    ],
)
def test_what_a_console_says_of_a_broken_host(console: str, said: str | None) -> None:
    assert fatal_line(console) == said


def test_a_broken_host_stays_broken_whatever_it_says_after_that() -> None:
    ours, theirs = socket.socketpair()
    log = SerialLog(ours)
    end = time.monotonic() + 20
    with theirs:
        theirs.sendall(OOPS.encode())
        while log.fatal() is None and time.monotonic() < end:
            time.sleep(0.01)
        theirs.sendall(b"[   10.0] and more\n" * (CONSOLE_KEPT // 10))
        while "Oops" in log.text() and time.monotonic() < end:
            time.sleep(0.01)
        assert "Oops" not in log.text()
        assert (log.fatal() or "").startswith("the host's kernel is broken: BUG: unable to handle page fault")
    log.close()


@pytest.mark.parametrize("image", [KvmImage("", None, None, qemu=False), XenImage("", None, None, None, qemu=False)])
def test_qemu_is_called_with_nothing_to_race_for(image: Image) -> None:
    argv = fill(["qemu", *image.argv()], qmp=7, console=8, incoming=9)
    assert argv[-2:] == ["-incoming", "fd:9"]
    assert "socket,id=qmp,fd=7" in argv and "socket,id=serial,fd=8" in argv
    assert any("hostfwd=tcp:127.0.0.1:0-:22" in word for word in argv)
    assert not any("{" in word or "/" in word for word in argv)
    assert "-incoming" not in fill(["qemu"], qmp=7, console=8, incoming=None)


def test_what_the_user_says_changes_the_machine() -> None:
    argv = KvmImage("nmi_watchdog=0", 300, "EPYC", qemu=False).argv()
    assert argv[argv.index("-m") + 1] == "300M" and argv[argv.index("-cpu") + 1] == "EPYC"
    assert argv[argv.index("-append") + 1].endswith(" nmi_watchdog=0")


def test_the_features_that_xen_lacks() -> None:
    assert probe.lacking_features(FEATURES) == ["LbrVirt", "FlushByAsid", "DecodeAssists"]
    assert probe.lacking_features("nothing of it") == []


def test_the_probes_guest_is_a_pvh_kernel() -> None:
    elf = ELFFile(io.BytesIO(pvh.guest()))
    notes = [note for segment in elf.iter_segments("PT_NOTE") for note in segment.iter_notes()]
    assert [note["n_name"] for note in notes] == ["Xen"]
    load = next(iter(elf.iter_segments("PT_LOAD")))
    assert load["p_paddr"] == pvh.LOAD_AT and load.data() == pvh.CODE
