"""Debian source packages, through the same private view of apt; apt checks them against the archive's signature."""

from __future__ import annotations

import functools
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from harness.sim.error import SimError
from harness.sim.lock import locked
from harness.sim.packages import FETCH_DEADLINE_S, UPDATE_DEADLINE_S, PackageView

_VERSION = re.compile(r"^Version: (\S+)$", re.MULTILINE)
_FILES = re.compile(r"^Checksums-Sha256:\n((?: [0-9a-f]{64} \d+ \S+\n?)+)", re.MULTILINE)


@dataclass(frozen=True)
class Source:
    """A source package: its version, and its files with their SHA-256 from the signed lists."""

    name: str
    version: str
    files: tuple[Path, ...]
    digests: tuple[str, ...]

    def file(self, ending: str) -> Path:
        """The one file whose name ends so. Raises SimError."""
        found = [path for path in self.files if path.name.endswith(ending)]
        if len(found) != 1:
            raise SimError(f"{self.name} {self.version} has {len(found)} files *{ending}, not one")
        return found[0]


class SourceView(PackageView):
    """A PackageView that has the sources, too."""

    kinds = ("deb", "deb-src")

    def sources(self, name: str) -> list[Source]:
        """All versions of a source package that the lists have, the newest first; nothing is downloaded."""
        with locked(self._lock):
            ran = self._apt(["apt-cache", "showsrc", "--only-source", name], UPDATE_DEADLINE_S)
        found = {}
        for paragraph in ran.stdout.split("\n\n"):
            version, files = _VERSION.search(paragraph), _FILES.search(paragraph)
            if version and files:
                listed = [line.split() for line in files[1].splitlines()]
                paths = tuple(self.archives / line[2] for line in listed)
                found[version[1]] = Source(name, version[1], paths, tuple(line[0] for line in listed))
        if ran.returncode or not found:
            raise SimError(f"{self.suite} has no source package {name}")
        newest_first = sorted(found, key=functools.cmp_to_key(_compare), reverse=True)
        return [found[version] for version in newest_first]

    def fetch_source(self, source: Source) -> None:
        """Downloads one; apt leaves alone what is here and right. Raises SimError where the mirror has dropped it."""
        wanted = f"{source.name}={source.version}"
        with locked(self._lock):
            ran = self._apt(["source", "--download-only", "-q", "--only-source", wanted], FETCH_DEADLINE_S)
        missing = [path.name for path in source.files if not path.is_file()]
        if missing or ran.returncode:
            raise SimError(f"apt could not download {', '.join(missing) or 'the source of ' + wanted}")


def _compare(one: str, other: str) -> int:
    if one == other:
        return 0
    try:
        newer = subprocess.run(["dpkg", "--compare-versions", one, "gt", other], timeout=20).returncode == 0
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SimError(f"cannot run dpkg: {error}") from None
    return 1 if newer else -1
