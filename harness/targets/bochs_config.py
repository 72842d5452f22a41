"""The configuration Bochs is given.

The clock. The UART is paced in emulated time, so at `ips=30000000` a byte of 87 us costs 2600 instructions. With fewer
instructions to the emulated second the same code waits less: 400 bytes there and back took 27 ms at 30 million, 13 ms
at 10 million, 5 ms at 4 million, and not less below. At 4 million the executor has 350 instructions to take each byte.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from harness.machine.base import TargetOptions

INSTRUCTIONS_PER_SECOND = 4_000_000
SHARE = Path("/usr/share/bochs")
BIOS = SHARE / "BIOS-bochs-latest"
VGA_BIOS = SHARE / "VGABIOS-lgpl-latest"

_TEMPLATE = """\
cpu: model={cpu_model}, count=1, ips={ips}, reset_on_triple_fault=0
memory: guest={memory_mib}, host={memory_mib}
romimage: file={bios}
vgaromimage: file={vga_bios}
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=disk, path={disk}, mode=flat
boot: disk
com1: enabled=1, mode=term, dev={terminal}
clock: sync=none, time0={time}
vga: update_freq=1
log: /dev/stderr
panic: action=report
error: action=report
info: action=ignore
debug: action=ignore
display_library: term
"""


def configuration(options: TargetOptions, disk: Path, terminal: str) -> str:
    """The text of the rc file: boot from `disk`, COM1 on `terminal`."""
    return _TEMPLATE.format(
        cpu_model=options.cpu_model or "ryzen",
        ips=INSTRUCTIONS_PER_SECOND,
        memory_mib=options.memory_mib,
        bios=BIOS,
        vga_bios=VGA_BIOS,
        disk=disk,
        terminal=terminal,
        # All that differs from one boot of Bochs to the next; the executor's boot id needs it.
        time=10**9 + secrets.randbelow(2**29),
    )
