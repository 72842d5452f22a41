"""The listing of a reproducer: what it does, what must come, and the lines that boot it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.export.captured import Captured
from harness.export.check import BEFORE_ALL
from harness.judge.clauses import Clause
from harness.judge.trust import TRUST

WAIT_S = 30
ELF, ISO, LISTING, C_SOURCE = "reproducer.elf", "reproducer.iso", "README.txt", "reproducer.c"


def printed(told: Captured, clauses: Sequence[Clause]) -> list[str]:
    """What the kernel prints first."""
    return [f"nsvm reproducer of {told.test}", *(f"{one.id}: {one.statement}" for one in clauses)]


def listing(told: Captured, clauses: Sequence[Clause], files: Iterable[str], version: str) -> str:
    """The text beside the images."""
    lines = [f"Reproducer of {told.test}", f"made by nsvm {version}", ""]
    for one in clauses:
        lines += [f"{one.id}: {one.statement}", f"  AMD64 APM volume 2, {one.apm}"]
        lines.append(f"  agree: {'; '.join(TRUST.get(word, word) for word in one.trust)}")
        if one.condition:
            lines.append(f"  where {one.condition}, judged against the CPUID that L1 sees")
    seen = f"{told.verdict}: {told.reason}" if told.reason else told.verdict
    lines += ["", f"seen on {told.machine}: {seen}", "", "What it does", "============", "", *told.page]
    lines += ["What must come", "==============", ""]
    lines += [f"  {'it is skipped unless ' if c.request == BEFORE_ALL else ''}{c.text()}" for c in told.checks]
    if told.left_out:
        lines += ["", "The test compares more than this, which only nsvm itself can:"]
        lines += [f"  {each}" for each in told.left_out]
    lines += ["", "To run it", "=========", "", *_how(set(files))]
    return "\n".join(lines) + "\n"


def _how(files: set[str]) -> list[str]:
    lines = [
        "The kernel is an L1 hypervisor that does the steps above. It needs a CPU with SVM and 32 MiB of memory, and",
        "prints on COM1 at 115200 baud. Its last line is the verdict:",
        "",
        "  Test result: SUCCESS   all that must come came",
        "  Test result: FAILURE   something else came; a line above says what",
        "  Test result: SKIP      the machine does not offer what the scenario is about",
        "  Test result: ERROR     the kernel could not do a step",
        "",
        f"No verdict within {WAIT_S} seconds is a failure, too: the machine hangs, was reset, or died. It stops then.",
        "",
    ]
    if ELF in files:
        lines += [
            "QEMU (TCG; with KVM add -enable-kvm -cpu host,+svm and load kvm_amd with nested=1)",
            "",
            f"  qemu-system-x86_64 -cpu max -m 64 -display none -no-reboot -serial stdio -kernel {ELF}",
            "",
        ]
    if ISO in files:
        lines += [
            f"  qemu-system-x86_64 -cpu max -m 64 -display none -no-reboot -serial stdio -cdrom {ISO} -boot d",
            "",
            "Bochs: boot the ISO image, with these lines in bochsrc",
            "",
            "  cpu: model=ryzen",
            "  memory: guest=64, host=64",
            f"  ata0-master: type=cdrom, path={ISO}, status=inserted",
            "  boot: cdrom",
            "  com1: enabled=1, mode=file, dev=com1.txt",
            "",
            "Xen, as an HVM guest (xl create -c reproducer.cfg)",
            "",
            '  name = "nsvm-reproducer"',
            '  type = "hvm"',
            "  memory = 64",
            "  vcpus = 1",
            "  hap = 1",
            "  nestedhvm = 1",
            f'  disk = [ "format=raw, vdev=hdc, access=ro, devtype=cdrom, target=/path/to/{ISO}" ]',
            '  boot = "d"',
            '  serial = "pty"',
            '  on_reboot = "destroy"',
            "",
        ]
    if ELF in files:
        lines += [
            "GRUB, on the machine itself",
            "",
            '  menuentry "nsvm reproducer" {',
            f"      multiboot2 /boot/{ELF}",
            "  }",
            "",
            "kexec, on the machine itself (no other CPU may be at work: the running system is gone)",
            "",
            f"  kexec -l --type=multiboot-x86 {ELF} && kexec -e",
            "",
        ]
    if C_SOURCE in files:
        lines += [
            "From the C source",
            "",
            f"  gcc -m64 -ffreestanding -nostdlib -static -no-pie -O1 -o {ELF} {C_SOURCE}   # see its first lines",
            "",
        ]
    return lines[:-1]
