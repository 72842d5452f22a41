"""Debian source packages, through the same private view of apt; apt checks them against the archive's signature."""

from __future__ import annotations

import functools
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from harness.sim.error import SimError
from harness.sim.lock import locked
from harness.sim.packages import FETCH_DEADLINE_S, UPDATE_DEADLINE_S, PackageView

_URI = re.compile(r"'[^']+' (\S+) (\d+) (\S+)\Z")


@dataclass(frozen=True)
class Source:
    """A source package that is here: its version, and its files with the digests that apt checked."""

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

    def versions(self, name: str) -> list[str]:
        """All versions of a source package that the lists have, the newest first."""
        with locked(self._lock):
            ran = self._apt(["apt-cache", "showsrc", "--only-source", name], UPDATE_DEADLINE_S)
        found = set(re.findall(r"^Version: (\S+)$", ran.stdout, re.MULTILINE))
        if ran.returncode or not found:
            raise SimError(f"{self.suite} has no source package {name}")
        return sorted(found, key=functools.cmp_to_key(_compare), reverse=True)

    def fetch_source(self, name: str, version: str) -> Source:
        """Downloads one version, unless it is here already. Raises SimError, as for one the mirror has dropped."""
        wanted = f"{name}={version}"
        with locked(self._lock):
            listed = self._apt(["source", "--print-uris", "-qq", "--only-source", wanted], UPDATE_DEADLINE_S)
            found = [match for line in listed.stdout.splitlines() if (match := _URI.match(line.strip()))]
            if listed.returncode or not found:
                raise SimError(f"{self.suite} has no source of {wanted}")
            paths = tuple(self.archives / unquote(match[1]) for match in found)
            # apt leaves alone what is there and has the right digest.
            ran = self._apt(["source", "--download-only", "-q", "--only-source", wanted], FETCH_DEADLINE_S)
        if missing := [path.name for path in paths if not path.is_file()]:
            raise SimError(f"apt could not download {missing[0]}")
        if ran.returncode:
            raise SimError(f"apt could not download the source of {wanted}")
        return Source(name, version, paths, tuple(match[3] for match in found))


def _compare(one: str, other: str) -> int:
    if one == other:
        return 0
    try:
        newer = subprocess.run(["dpkg", "--compare-versions", one, "gt", other], timeout=20).returncode == 0
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SimError(f"cannot run dpkg: {error}") from None
    return 1 if newer else -1
