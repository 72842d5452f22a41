"""Files of Debian packages, fetched with apt and unpacked, for tests of real tools: nothing is installed."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Files:
    """Where packages were unpacked."""

    folder: Path

    def find(self, name: str) -> Path:
        return next(path for path in sorted(self.folder.rglob(name)) if path.is_file())

    def program(self, name: str) -> Path:
        return next(path for path in self.folder.rglob(name) if path.parent.name in ("bin", "sbin"))

    def all(self, begin: str) -> list[Path]:
        """The shared libraries whose names begin so, each under the name that programs ask for."""
        return [path for path in sorted(self.folder.rglob(f"{begin}*.so.*")) if path.is_file()]


def fetched(packages: Sequence[str], folder: Path) -> Files:
    """Fetches and unpacks them."""
    folder.mkdir(parents=True)
    subprocess.run(["apt-get", "download", "-q", *packages], cwd=folder, check=True, capture_output=True, timeout=300)
    for archive in folder.glob("*.deb"):
        subprocess.run(["dpkg", "-x", str(archive), str(folder)], check=True, timeout=120)
    return Files(folder)
