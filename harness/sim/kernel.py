"""A Linux kernel and its modules: from a Debian package, or somebody's own build."""

from __future__ import annotations

import lzma
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.sim.error import SimError

DECOMPRESS_DEADLINE_S = 60
SUFFIX = re.compile(r"\.ko(\.xz|\.zst|\.gz)?\Z")


@dataclass(frozen=True)
class Kernel:
    """A bootable image and the folder below which its modules are (None: all that is needed is built in)."""

    image: Path
    modules: Path | None

    def release(self) -> str:
        """As `uname -r` says, read from the image's header; empty if it has none."""
        with open(self.image, "rb") as image:
            image.seek(0x200)
            header = image.read(0x20)
            if header[2:6] != b"HdrS":
                return ""
            image.seek(0x200 + int.from_bytes(header[0xE:0x10], "little"))
            words = image.read(200).split(b"\0")[0].split()
        return words[0].decode("ascii", "replace") if words else ""

    def load_order(self, wanted: Sequence[str]) -> list[tuple[str, bytes]]:
        """These modules and all they need, each after what it needs. What is not there counts as built in."""
        files = self._files()
        order: dict[str, bytes] = {}

        def visit(name: str, above: tuple[str, ...]) -> None:
            path = files.get(name)
            if path is None or name in order or name in above:
                return
            data = _decompressed(path)
            for needed in depends(data):
                visit(needed, (*above, name))
            order[name] = data

        for name in wanted:
            visit(normal_name(name), ())
        return list(order.items())

    def has(self, name: str) -> bool:
        """Whether there is a module of that name, loaded or not."""
        return normal_name(name) in self._files()

    def _files(self) -> dict[str, Path]:
        if self.modules is None:
            return {}
        found: dict[str, Path] = {}
        for path in sorted(self.modules.rglob("*.ko*")):
            if SUFFIX.search(path.name) and path.is_file():
                found.setdefault(normal_name(SUFFIX.sub("", path.name)), path)
        if not found:
            raise SimError(f"{self.modules}: no kernel module (*.ko) below it")
        return found


def normal_name(name: str) -> str:
    """kvm-amd and kvm_amd are one module."""
    return name.replace("-", "_")


def depends(module: bytes) -> list[str]:
    """Which modules a module needs, from its .modinfo section."""
    found = re.search(rb"\0depends=([A-Za-z0-9_,-]*)\0", module)
    return [normal_name(name) for name in found[1].decode().split(",") if name] if found else []


def parameters(module: bytes) -> list[str]:
    """The names of a module's parameters, from its .modinfo section."""
    return sorted(name.decode() for name in set(re.findall(rb"\0parmtype=([A-Za-z0-9_]+):", module)))


def _decompressed(path: Path) -> bytes:
    if path.suffix == ".ko":
        return path.read_bytes()
    if path.suffix == ".xz":
        try:
            return lzma.decompress(path.read_bytes())
        except lzma.LZMAError as error:
            raise SimError(f"{path}: {error}") from None
    tool = {".zst": "zstd", ".gz": "gzip"}[path.suffix]
    if shutil.which(tool) is None:
        raise SimError(f"{path.name} is compressed: apt-get install {tool}")
    try:
        ran = subprocess.run([tool, "-dcq", str(path)], capture_output=True, timeout=DECOMPRESS_DEADLINE_S, check=False)
    except subprocess.TimeoutExpired:
        raise SimError(f"{path} was not decompressed after {DECOMPRESS_DEADLINE_S} s") from None
    if ran.returncode:
        raise SimError(f"{path}: {tool} cannot decompress it")
    return ran.stdout
