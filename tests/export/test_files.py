"""What a reproducer's files hold, and that they are the same each time."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from harness.export import image, listing
from harness.export.captured import Captured
from harness.export.check import BEFORE_ALL, Check, Source
from harness.judge.clauses import Clause
from harness.judge.expect import Wanted
from harness.scenario import steps

ROOT = Path(__file__).resolve().parents[2]
CHECK = Check("exitcode (070h)", Source.MEMORY, Wanted((0x81, 0x72), 0xFF, 8), 1, 2, 0x80_0070)
FEATURE = Check("CPUID Fn8000_000A EDX[3] (NRIPS)", Source.CPUID, Wanted((8,), 8, 4), where=3 << 48 | 0x8000_000A)
CLAUSE = Clause("core.x", "It does.", "15.5", trust=("APM", "KVM61"))


def told() -> Captured:
    requests = [steps.encode_list([steps.rdmsr(0x10)]), steps.encode_list([steps.cpuid(1)])]
    return Captured(
        "suites/core/test_x.py::test_it[é]", ["core.x"], requests, [FEATURE, CHECK], ["one left out"], ["scenario"],
        "FAIL", "exitcode: expected 81h, got 0h", "qemu-tcg, 7.2",
    )  # fmt: skip


def test_a_check_in_words() -> None:
    assert CHECK.text() == (
        "exitcode (070h) is any of 0000000000000081h, 0000000000000072h in the bits of 00000000000000FFh"
    )
    assert Check("x", Source.MEMORY, Wanted((1,), 0xFF, 1, negated=True)).text() == "x is not 01h"


def test_a_check_as_the_payload_reads_it() -> None:
    data = CHECK.encode()

    assert struct.unpack_from("<HHBBBBQQQ", data) == (1, 2, 0, 8, 0, 2, 0x80_0070, 0, 0xFF)
    assert struct.unpack_from("<QQB", data, 32) == (0x81, 0x72, 15)
    assert data[-15:] == b"exitcode (070h)"
    assert FEATURE.request == BEFORE_ALL


def test_what_pytest_hands_on_comes_back(tmp_path: Path) -> None:
    told().write(tmp_path / "x.json")

    assert Captured.read(tmp_path / "x.json") == told()


def test_the_bundle_holds_text_requests_and_checks() -> None:
    data = image.bundle(told(), ["line 1 \u2026"])

    assert data[:8] == b"NSVMSELF" and struct.unpack_from("<II", data, 8) == (1, 10)
    assert data[16:26] == b"line 1 ?\r\n"
    assert struct.unpack_from("<I", data, 26) == (2,)
    assert data.endswith(FEATURE.encode() + CHECK.encode())
    assert image.bundle(told(), ["line 1 \u2026"]) == data


def test_too_much_memory_is_refused() -> None:
    with pytest.raises(image.ExportError, match="too much memory"):
        image.bundle(Captured("t", [], [bytes(5 << 20)]), [])


@pytest.fixture
def executor() -> Path:
    path = ROOT / "guest_payloads/executor/build/executor.elf"
    if not path.exists():
        pytest.skip("the executor is not built")
    return path


def test_the_elf_file_has_the_bundle_as_a_segment(executor: Path) -> None:
    data = b"NSVMSELF" + bytes(range(256))

    made = image.with_bundle(executor, data)

    assert image.with_bundle(executor, data) == made
    with executor.open("rb") as stream:
        before = ELFFile(stream)
        entry, old = before.header.e_entry, [bytes(s.data()) for s in before.iter_segments("PT_LOAD")]
        note = [bytes(s.data()) for s in before.iter_segments("PT_NOTE")]
    elf = ELFFile(io.BytesIO(made))
    loads = [(s.header.p_paddr, bytes(s.data())) for s in elf.iter_segments("PT_LOAD")]
    assert elf.header.e_entry == entry
    assert loads[-1] == (image.BUNDLE_PA, data)
    assert [bytes(s.data()) for s in elf.iter_segments("PT_NOTE")] == note
    (at,) = [n for n in range(len(old[0])) if old[0].startswith(b"NSVM-EMBEDDED-1\0", n)]
    assert struct.unpack_from("<QQ", loads[0][1], at + 16) == (image.BUNDLE_PA, len(data))
    assert loads[0][1][:at] == old[0][:at] and loads[0][1][at + 32 :] == old[0][at + 32 :]
    assert made.find(struct.pack("<I", 0x1BADB002)) < 8192  # where multiboot looks for its header


def test_another_elf_file_is_refused(tmp_path: Path, executor: Path) -> None:
    other = tmp_path / "x.elf"
    other.write_bytes(executor.read_bytes().replace(b"NSVM-EMBEDDED-1", b"NSVM-EMBEDDED-9"))

    with pytest.raises(image.ExportError, match="build it again"):
        image.with_bundle(other, b"")


def test_the_listing() -> None:
    text = listing.listing(told(), [CLAUSE], [listing.ELF, listing.ISO], "1.0")

    for said in (
        "core.x: It does.",
        "AMD64 APM volume 2, 15.5",
        "KVM, as of Linux 6.1",
        "seen on qemu-tcg, 7.2: FAIL: exitcode: expected 81h, got 0h",
        "it is skipped unless CPUID Fn8000_000A EDX[3] (NRIPS) is 00000008h in the bits of 00000008h",
        "one left out",
        "-kernel reproducer.elf",
        "type=cdrom, path=reproducer.iso",
        "nestedhvm = 1",
        "multiboot2 /boot/reproducer.elf",
        "kexec -l --type=multiboot-x86 reproducer.elf",
        "Test result: FAILURE",
    ):
        assert said in text
    assert ".iso" not in listing.listing(told(), [CLAUSE], [listing.ELF], "1.0")
