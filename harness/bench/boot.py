"""Boot to hello, against the least that a machine can boot."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from harness.bench.figure import Bench, Failed, Figure, NotMeasured, median, spread
from harness.link.link import Link

GOAL = 1.3
TOOL_DEADLINE_S = 30
WORD = b"N"

# A multiboot1 image that says one byte on COM1 and stops.
TRIVIAL = """
    .intel_syntax noprefix
    .code32
    .section .text
    .globl start
    .balign 4
    .long 0x1BADB002, 0, -0x1BADB002
start:
    mov dx, 0x3F8
    mov al, 0x4E
    out dx, al
    cli
stop:
    hlt
    jmp stop
"""


def measure(bench: Bench) -> list[Figure]:
    """The two, taken in turns so that what else the machine does hits both. The first of each, which reads the
    emulator from the disk, does not count.
    """
    with bench.target_for_now() as target:
        if not target.capabilities().shared_memory:
            raise NotMeasured("the trivial image boots by multiboot; this target starts from a disk")
    image = trivial_image(bench.workdir)
    both = [(_first_byte(bench, image), _hello(bench)) for _ in range(1 + bench.rounds)]
    trivial, ours = zip(*both[1:], strict=True)
    ratio = median(ours) / median(trivial)
    return [
        Figure(
            name="boot of a trivial multiboot image to its first byte",
            value=median(trivial),
            unit="s",
            detail=spread(trivial, "s"),
        ),
        Figure(name="boot to hello", value=median(ours), unit="s", detail=spread(ours, "s")),
        Figure(name="boot to hello, times the trivial image", value=ratio, unit="x", goal=GOAL),
    ]


def trivial_image(folder: Path) -> Path:
    """Assembles and links it."""
    source, obj, image = (folder / f"trivial.{kind}" for kind in ("s", "o", "elf"))
    source.write_text(TRIVIAL)
    for command in (
        ["as", "--32", "-o", str(obj), str(source)],
        ["ld", "-m", "elf_i386", "-Ttext=0x100000", "-e", "start", "-o", str(image), str(obj)],
    ):
        subprocess.run(command, check=True, timeout=TOOL_DEADLINE_S, stdin=subprocess.DEVNULL)
    return image


def _first_byte(bench: Bench, image: Path) -> float:
    with bench.target_for_now(executor_elf=image) as target:
        started = time.monotonic()
        console = target.start()
        deadline = started + target.capabilities().boot_deadline_s
        while time.monotonic() < deadline:
            if WORD in console.read(0.5):
                return time.monotonic() - started
    raise Failed("the trivial image said nothing")


def _hello(bench: Bench) -> float:
    with bench.target_for_now() as target:
        able = target.capabilities()
        started = time.monotonic()
        Link(target.start(), round_trip_s=able.round_trip_s).hello(able.boot_deadline_s)
        return time.monotonic() - started
