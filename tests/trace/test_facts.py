"""What a machine says of itself decides whether a trace is of silicon: an emulator must never be taken for it."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from harness.scenario import places
from harness.scenario.asm import Assembler
from harness.scenario.steps import Op, Record, Status
from harness.svm import Cpuid
from harness.trace.facts import Facts, ask_facts, nature_of

AMD = {(0, 0): (1, *struct.unpack("<I", b"Auth"), *struct.unpack("<2I", b"cAMDenti"))}
HYPERVISOR = {(1, 0): (0, 0, 1 << 31, 0)}
TABLE_PA = 0xE1000


def structure(kind: int, fields: bytes, *texts: bytes) -> bytes:
    return bytes([kind, 4 + len(fields), 0, 0]) + fields + b"\0".join(texts) + b"\0\0"


TABLE = (
    structure(0, bytes([1, 2, 0, 0, 3]), b"Maker Firmware", b"1.9b", b"02/03/2025")
    + structure(1, bytes([1, 2]), b"Board Maker", b"Server 9")
    + structure(2, bytes([1, 2]), b"Board Maker", b"H13")
    + structure(127, b"")
)


class Machine:
    """Memory below 1 MiB as the blobs see it: the scan finds the anchor, the copy the table."""

    def __init__(self, anchor: bytes, microcode: int | None = 0x0A10_1148) -> None:
        self._anchor, self._microcode = anchor, microcode
        self._shown = b""

    def ask(self, asked: object) -> list[Record]:
        answers = []
        for step in asked:  # type: ignore[attr-defined]
            status, body = Status.OK, b""
            if step.op is Op.RDMSR:
                known = self._microcode is not None
                status, body = (Status.OK, struct.pack("<Q", self._microcode)) if known else (Status.FAULT, bytes(56))
            if step.op is Op.CODE:
                mask = struct.unpack_from("<QIH", step.body)[2]
                self._shown = TABLE if mask >> 6 & 1 else self._anchor  # RSI is given where the table is copied
            if step.op is Op.MEM_READ:
                addr, size = struct.unpack("<QI", step.body)
                assert addr == places.SCRATCH
                body = self._shown[:size].ljust(size, b"\0")
            answers.append(Record(step.op, status, 0, body))
        return answers


SM3 = b"_SM3_" + bytes(7) + struct.pack("<IQ", len(TABLE), TABLE_PA)
SM2 = b"_SM_" + bytes(18) + struct.pack("<HI", len(TABLE), TABLE_PA)


@pytest.mark.parametrize("anchor", [SM2, SM3])
def test_firmware_and_board_come_from_smbios(anchor: bytes, tmp_path: Path) -> None:
    facts = ask_facts(Machine(anchor).ask, Assembler(tmp_path))

    assert facts == Facts("0A101148h", "Maker Firmware 1.9b 02/03/2025", "Board Maker Server 9 H13")


def test_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    assert ask_facts(Machine(b"", microcode=None).ask, Assembler(tmp_path)) == Facts()


@pytest.mark.parametrize(
    ("target", "leaves", "facts", "emulated", "nature"),
    [
        ("metal:a", AMD, Facts("1h", "AMI 5.1", "Supermicro H13"), False, "silicon"),
        ("metal:a", AMD, Facts("1h", "AMI 5.1", "Supermicro H13"), True, "synthetic"),
        ("metal:a", AMD | HYPERVISOR, Facts(), False, "synthetic"),
        ("metal:a", AMD, Facts(board="QEMU Standard PC"), False, "synthetic"),
        ("metal:a", AMD, Facts(firmware="SeaBIOS 1.16"), False, "synthetic"),
        ("metal:a", {}, Facts(), False, "synthetic"),
        ("qemu-tcg", AMD, Facts(), False, "synthetic"),
        ("host:zen4", AMD, Facts(), False, "synthetic"),
    ],
)
def test_only_a_bare_machine_is_silicon(
    target: str, leaves: dict[tuple[int, int], tuple[int, int, int, int]], facts: Facts, emulated: bool, nature: str
) -> None:
    said, why = nature_of(target, Cpuid(leaves), facts, emulated=emulated)

    assert said == nature
    assert why
