"""The fake executor as a program on stdin and stdout: what a fake L0 starts over SSH.

    fake_guest.py NAME REGISTRY

REGISTRY/NAME holds its process id while it runs. REGISTRY/orders has what is to go wrong, one order for each boot, as
JSON: {"at": MESSAGE, "do": "hang" | "flood" | "exit" | "complain", "bytes": N, "status": N, "say": TEXT}.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.fake_executor import FakeExecutor, Fault, Script


class Guest(FakeExecutor):
    """An order's messages are those that a test sends: a hello is asked for where the start was slow, and not else."""

    def _take(self, message: bytes) -> None:
        self.taken -= message[1:2] == b"\1"
        super()._take(message)


def next_order(registry: Path) -> dict[str, Any]:
    """Takes the first line of the orders."""
    path = registry / "orders"
    lines = path.read_text().splitlines() if path.exists() else []
    if not lines:
        return {}
    path.write_text("".join(f"{line}\n" for line in lines[1:]))
    order: dict[str, Any] = json.loads(lines[0])
    return order


def send(data: bytes) -> None:
    """All of it, to stdout."""
    while data:
        data = data[os.write(1, data) :]


def serve(executor: FakeExecutor, order: dict[str, Any]) -> int:
    """Until stdin ends, or the order says so."""
    began = time.monotonic()
    at = order.get("at", -1)
    while True:
        now = time.monotonic() - began
        executor.advance(now)
        if executor.taken > at >= 0:
            at = -1
            match order["do"]:
                case "flood":
                    noise = bytes(range(1, 256)) * 64
                    for _ in range(order["bytes"] // len(noise) + 1):
                        send(noise)
                case "complain":
                    for _ in range(order["bytes"] // 100):
                        os.write(2, b"the VMM complains" + b"." * 82 + b"\n")
                case "exit":
                    print(order.get("say", ""), file=sys.stderr, flush=True)
                    return int(order["status"])
        send(executor.take(now))
        due = executor.next_time()
        wait_s = 0.2 if due is None else max(min(due - (time.monotonic() - began), 0.2), 0)
        if select.select([0], [], [], wait_s)[0]:
            data = os.read(0, 65536)
            if not data:
                return 0
            executor.receive(time.monotonic() - began, data)


def main(name: str, registry: Path) -> int:
    """Registers itself, serves, and unregisters."""
    (registry / name).write_text(str(os.getpid()))
    try:
        order = next_order(registry)
        hang = {order["at"]: (Fault.HANG, 0.0)} if order.get("do") == "hang" else {}
        executor = Guest(script=Script(messages=hang), first_boot=os.getpid(), fifo_bytes=None)
        return serve(executor, order)
    except BrokenPipeError:
        return 0
    finally:
        (registry / name).unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
