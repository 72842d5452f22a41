"""Debian packages of any suite, without touching the packages of this machine and without being root.

A private view of apt: sources list, lists, cache and (empty) package status of its own, the Debian archive's keyring.
What depends on what is apt's business; here it is only said which of the packages in its answer are wanted.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from harness.sim.error import SimError
from harness.sim.lock import locked

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
MIRROR = "http://deb.debian.org/debian"
SECURITY_MIRROR = "http://deb.debian.org/debian-security"
ROLLING = ("sid", "unstable", "testing", "forky")
UPDATE_DEADLINE_S = 180
FETCH_DEADLINE_S = 1200
UNPACK_DEADLINE_S = 300
TIMED_OUT = 124  # as timeout(1) says
SUITE_NAME = re.compile(r"[a-z][a-z0-9-]*\Z")
KEPT = re.compile(r"Acquire::(?!Languages|IndexTargets|GzipIndexes)[\w:.-]+ \".*\";\Z")
"""Settings of this machine's apt that hold for our view too: proxies, retries, date checks."""


@dataclass(frozen=True)
class Package:
    """One package in apt's answer. `file` is its name in the archive folder."""

    name: str
    version: str
    file: str
    size: int
    digest: str

    @classmethod
    def parse(cls, line: str) -> Package | None:
        """From a line of `apt-get --print-uris`; None if it is none."""
        found = re.match(r"'([^']+)' (\S+)_(\S+)_(\w+)\.deb (\d+) ?(\S*)\s*\Z", line)
        if found is None:
            return None
        _, name, version, architecture, size, digest = found.groups()
        return cls(name, unquote(version), f"{name}_{version}_{architecture}.deb", int(size), digest)


@dataclass(frozen=True)
class Choice:
    """Packages that are wanted, and how the names begin of those they depend on that are wanted with them.

    The rest of what they depend on is for installing them properly.
    """

    roots: tuple[str, ...]
    prefixes: tuple[str, ...] = ("lib",)

    def takes(self, name: str) -> bool:
        """Whether a package in apt's answer is wanted."""
        return name in self.roots or name.startswith(self.prefixes)


class PackageView:
    """The packages of one suite, as apt sees them in `directory`.

    What was downloaded lies where apt does not look: its --print-uris leaves out what it finds in its own archive.
    """

    kinds: tuple[str, ...] = ("deb",)
    """What the lists are of: deb for packages, deb-src for their sources."""

    def __init__(self, suite: str, directory: Path) -> None:
        if not SUITE_NAME.match(suite):
            raise SimError(f"{suite!r} is no Debian suite: bookworm, trixie, sid are")
        self.suite = suite
        self.archives = directory / "archives"
        self._directory = directory
        self._lock = directory / "lock"
        self._complaint: str | None = None

    def refresh(self) -> str | None:
        """Reads the archive's lists. Gives a warning if that failed and older lists are used."""
        for tool in ("apt-get", "dpkg-deb"):
            if shutil.which(tool) is None:
                raise SimError(f"there is no {tool} here: simulated hosts are made of Debian packages")
        if not KEYRING.is_file():
            raise SimError(f"{KEYRING} is not there: apt-get install debian-archive-keyring")
        with locked(self._lock):
            self._write_configuration()
            ran = self._apt(["update", "-q", "--error-on=any"], UPDATE_DEADLINE_S)
        if ran.returncode == 0:
            return None
        self._complaint = _complaint(ran, f"apt could not read the lists of {self.suite}")
        if any((self._directory / "lists").glob("*Packages*")):
            return f"{self._complaint}; going on with the lists of before"
        raise SimError(self._complaint)

    def resolve(self, wanted: Sequence[str]) -> list[Package]:
        """`wanted` and all they depend on, in apt's versions."""
        arguments = ["install", "--print-uris", "-qq", "--no-install-recommends", *wanted]
        with locked(self._lock):
            ran = self._apt(arguments, UPDATE_DEADLINE_S)
        if ran.returncode:
            raise SimError(self._complaint or _complaint(ran, f"{self.suite} has no {' '.join(wanted)}"))
        found = [package for line in ran.stdout.splitlines() if (package := Package.parse(line))]
        if not found:
            raise SimError(f"apt says nothing about {' '.join(wanted)} in {self.suite}")
        return found

    def choose(self, choices: Sequence[Choice]) -> list[Package]:
        """The packages of several choices, each resolved for itself."""
        chosen = {
            package.file: package
            for choice in choices
            for package in self.resolve(choice.roots)
            if choice.takes(package.name)
        }
        return sorted(chosen.values(), key=lambda package: package.file)

    def missing(self, packages: Sequence[Package]) -> list[Package]:
        """Which are not downloaded yet."""
        return [package for package in packages if not self._is_there(package)]

    def fetch(self, packages: Sequence[Package]) -> list[Path]:
        """Downloads what is not there yet; apt checks the hashes against the signed lists."""
        with locked(self._lock):
            if missing := self.missing(packages):
                self._download(missing)
        return [self.archives / package.file for package in packages]

    def _download(self, missing: Sequence[Package]) -> None:
        needed = sum(package.size for package in missing)
        free = shutil.disk_usage(self._directory).free
        if free < 2 * needed:
            raise SimError(f"{self._directory}: {free >> 20} MiB free, {2 * needed >> 20} MiB needed")
        names = [f"{package.name}={package.version}" for package in missing]
        ran = self._apt(["download", "-q", *names], FETCH_DEADLINE_S)
        if ran.returncode:
            raise SimError(_complaint(ran, f"apt could not download {missing[0].name}"))
        for package in self.missing(missing):
            raise SimError(f"apt left no {package.file} in {self.archives}")

    def _is_there(self, package: Package) -> bool:
        path = self.archives / package.file
        return path.is_file() and path.stat().st_size == package.size

    def _write_configuration(self) -> None:
        here = self._directory.absolute()
        if any(character in str(here) for character in "\"\\'; \n"):
            raise SimError(f"{here}: apt cannot use a folder with blanks or quotes in its name (set NSVM_SIM)")
        try:
            for name in ("archives", "lists/partial", "cache/none/partial", "empty"):
                (here / name).mkdir(parents=True, exist_ok=True)
            (here / "status").write_text("")
            (here / "sources.list").write_text(self._sources())
            (here / "apt.conf").touch()
            (here / "apt.conf").chmod(0o600)  # a proxy's address may have a password in it
            (here / "apt.conf").write_text(_CONFIGURATION.format(here=here) + "\n".join(_kept_settings()) + "\n")
        except OSError as error:
            raise SimError(f"{here}: {error.strerror}") from None

    def _sources(self) -> str:
        mirror = os.environ.get("NSVM_DEBIAN_MIRROR") or MIRROR
        security = os.environ.get("NSVM_DEBIAN_SECURITY_MIRROR") or SECURITY_MIRROR
        suites = [(mirror, self.suite)]
        if self.suite not in ROLLING:
            suites += [(mirror, f"{self.suite}-updates"), (security, f"{self.suite}-security")]
        line = f"[arch=amd64 signed-by={KEYRING}]"
        return "".join(f"{kind} {line} {where} {suite} main\n" for kind in self.kinds for where, suite in suites)

    def _apt(self, arguments: Sequence[str], deadline_s: float) -> subprocess.CompletedProcess[str]:
        """Runs apt-get; one that is not done in time has failed as any other that fails."""
        environment = {**os.environ, "APT_CONFIG": str(self._directory.absolute() / "apt.conf"), "LC_ALL": "C"}
        command = list(arguments) if arguments[0].startswith("apt-") else ["apt-get", *arguments]
        try:
            return subprocess.run(
                command,
                cwd=self.archives,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=deadline_s,
            )
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(command, TIMED_OUT, "", f"E: not done after {deadline_s:.0f} s")
        except OSError as error:
            raise SimError(f"cannot run apt-get: {error.strerror}") from None


def unpack(archive: Path, into: Path) -> None:
    """What `dpkg -x` does."""
    into.mkdir(parents=True, exist_ok=True)
    try:
        ran = subprocess.run(
            ["dpkg-deb", "-x", str(archive), str(into)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=UNPACK_DEADLINE_S,
        )
    except subprocess.TimeoutExpired:
        raise SimError(f"{archive.name} was not unpacked after {UNPACK_DEADLINE_S} s") from None
    except OSError as error:
        raise SimError(f"cannot run dpkg-deb: {error.strerror}") from None
    if ran.returncode:
        raise SimError(_complaint(ran, f"{archive} cannot be unpacked (remove it if it is damaged)"))


def _kept_settings() -> list[str]:
    try:
        ran = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line for line in ran.stdout.splitlines() if KEPT.match(line)]


def _complaint(ran: subprocess.CompletedProcess[str], what: str) -> str:
    lines = [line.strip() for line in (ran.stderr + ran.stdout).splitlines()]
    errors = [line[2:].strip() for line in lines if line.startswith("E:")] or [line for line in lines if line]
    return f"{what}: {errors[0][:300]}" if errors else f"{what} (status {ran.returncode})"


_CONFIGURATION = """\
Dir::Etc "{here}/empty";
Dir::Etc::parts "{here}/empty";
Dir::Etc::main "none";
Dir::Etc::sourcelist "{here}/sources.list";
Dir::Etc::sourceparts "{here}/empty";
Dir::Etc::preferencesparts "{here}/empty";
Dir::State "{here}";
Dir::State::lists "{here}/lists";
Dir::State::status "{here}/status";
Dir::Cache "{here}/cache";
Dir::Cache::archives "{here}/cache/none";
Dir::Log "{here}/cache";
APT::Sandbox::User "root";
APT::Architecture "amd64";
APT::Architectures {{ "amd64"; }};
Acquire::Languages "none";
Acquire::Retries "2";
"""
