"""What the tox environments run: `python -P harness/project/selfcheck.py ENV`. Counts what it did into $NSVM_COUNTS.

Standard library only, because the environments have only what each needs.
"""

from __future__ import annotations

import filecmp
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STEP_DEADLINE_S = 1000
STOP_GRACE_S = 10
SUITE_TARGETS = ("qemu-tcg", "bochs")
SIM_BUILDS = {"kvm": ("kvm",), "xen": ("xen",), "xen-hvm": ("xen", "--with-qemu")}
SIM_PARTS = {
    "kvm": (
        "suites/np",
        "suites/core/test_enable.py",
        "suites/core/test_checks_control.py",
        "suites/core/test_exceptions.py",
        "suites/core/test_interrupts_intr.py",
        "suites/core/test_svm_msrs.py",
        "suites/core/test_vmload_vmsave.py",
    ),
    "xen": (
        "suites/core/test_enable.py",
        "suites/core/test_checks_control.py",
        "suites/core/test_ioio_info.py",
        "suites/core/test_svm_msrs.py",
        "suites/core/test_tlb_asid.py",
        "suites/np/test_walks.py",
    ),
}
"""Real hypervisors on an emulated machine, and as much of the suites as they show in a minute or two."""
PRODUCTS = ("executor.elf", "disk.img")


class Tally:
    """Counts, written down after each step so that a later hang loses nothing."""

    def __init__(self) -> None:
        self.passed = self.failed = self.skipped = 0
        self._path = Path(os.environ["NSVM_COUNTS"]) if os.environ.get("NSVM_COUNTS") else None

    def add(self, passed: int = 0, failed: int = 0, skipped: int = 0) -> None:
        """Adds to the counts."""
        self.passed += passed
        self.failed += failed
        self.skipped += skipped
        if self._path is not None:
            self._path.write_text(json.dumps({"passed": self.passed, "failed": self.failed, "skipped": self.skipped}))

    def check(self, what: str, ok: bool) -> None:
        """One check that passes or fails."""
        print(f"{'PASS' if ok else 'FAIL'}  {what}", flush=True)
        self.add(passed=int(ok), failed=int(not ok))


def call(command: Sequence[str], cwd: Path = ROOT) -> int:
    """Runs a command with its output shown; its exit status, or 124 past the deadline.

    Past it, and at Ctrl-C, it is given time to end the machines and servers that it has started.
    """
    print(f"$ {' '.join(command)}", flush=True)
    process = subprocess.Popen(command, cwd=cwd, stdin=subprocess.DEVNULL)
    try:
        return process.wait(STEP_DEADLINE_S)
    except subprocess.TimeoutExpired:
        print(f"not done after {STEP_DEADLINE_S} s", flush=True)
        process.send_signal(signal.SIGINT)
        return 124
    finally:
        for insist in (process.terminate, process.kill):
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_GRACE_S)
                break
            insist()


def lint(tally: Tally, _arguments: Sequence[str]) -> None:
    """Style, the shell scripts, and the executor with every compiler there is."""
    tally.check("ruff check", call([sys.executable, "-m", "ruff", "check", "."]) == 0)
    tally.check("ruff format", call([sys.executable, "-m", "ruff", "format", "--check", "."]) == 0)
    tally.check("sh -n nsvm", call(["sh", "-n", "nsvm"]) == 0)
    tally.check("bash -n .ci/run", call(["bash", "-n", ".ci/run"]) == 0)
    for compiler in ("gcc", "clang"):
        if shutil.which(compiler) is None:
            print(f"SKIP  executor with {compiler}: not here", flush=True)
            tally.add(skipped=1)
            continue
        tally.check(f"executor with {compiler}: warnings are errors, twice the same bytes", _builds_the_same(compiler))
        tally.check(f"small VMM for hosts with {compiler}: warnings are errors", _host_program_builds(compiler))


def _builds_the_same(compiler: str) -> bool:
    """Builds in two folders of different names, one with a blank in it, and compares what comes out."""
    with tempfile.TemporaryDirectory(prefix="nsvm-") as folder:
        built = []
        for name in ("one", "another one/deeper"):
            copy = Path(folder) / name / "guest_payloads"
            shutil.copytree(ROOT / "guest_payloads", copy, ignore=shutil.ignore_patterns("build"))
            made = call(["make", "-s", f"-j{os.cpu_count() or 1}", "-C", str(copy / "executor"), f"CC={compiler}"])
            if made != 0:
                return False
            built.append(copy / "executor" / "build")
        different = [name for name in PRODUCTS if not filecmp.cmp(built[0] / name, built[1] / name, shallow=False)]
        if different:
            print(f"differ between two builds: {', '.join(different)}", flush=True)
        return not different


def _host_program_builds(compiler: str) -> bool:
    with tempfile.TemporaryDirectory(prefix="nsvm-") as folder:
        copy = Path(folder) / "a clone" / "host_vmm"
        shutil.copytree(ROOT / "guest_payloads" / "host_vmm", copy, ignore=shutil.ignore_patterns("build"))
        return call(["make", "-s", f"-j{os.cpu_count() or 1}", "-C", str(copy), f"CC={compiler}"]) == 0


def types(tally: Tally, _arguments: Sequence[str]) -> None:
    """mypy, as pyproject.toml says."""
    tally.check("mypy --strict", call([sys.executable, "-m", "mypy", "--strict", "harness", "reports"]) == 0)


def units(tally: Tally, arguments: Sequence[str]) -> None:
    """The tests that need no emulator, on all cores."""
    workers = max(1, min(len(os.sched_getaffinity(0)), 4))
    _pytest(tally, ["-m", "not emulator", "-n", str(workers), "--dist", "loadfile", *arguments])


def emulators(tally: Tally, arguments: Sequence[str]) -> None:
    """The tests that boot one, then the suites on each emulator through the command itself."""
    # First: tests use what is built.
    reference = call([str(ROOT / "nsvm"), "reference", "build"]) == 0
    built = [name for name, how in SIM_BUILDS.items() if call([str(ROOT / "nsvm"), "sim", "build", *how]) == 0]
    _pytest(tally, ["-m", "emulator", *arguments])
    if arguments:
        return
    for target in SUITE_TARGETS:
        _suites(tally, target)
    tally.check("reference build", reference)
    if reference:
        _suites(tally, "reference")
    for name, how in SIM_BUILDS.items():
        tally.check(f"sim build {' '.join(how)}", name in built)
        if name in built and name in SIM_PARTS:
            _suites(tally, f"sim:{name}", *SIM_PARTS[name])


def _suites(tally: Tally, target: str, *paths: str) -> None:
    """Runs suites through the command itself."""
    out = ROOT / ".nsvm" / "test" / f"run-{target.replace(':', '-')}"
    shutil.rmtree(out, ignore_errors=True)
    status = call([str(ROOT / "nsvm"), "run", "--no-install", "--target", target, "--out", str(out), *paths])
    passed, failed, skipped = _suite_counts(out / "run.jsonl")
    print(
        f"suites on {target}: {passed} as expected, {failed} not, {skipped} skipped; exit status {status}", flush=True
    )
    tally.add(passed, failed or int(status != 0), skipped)


def _suite_counts(record: Path) -> tuple[int, int, int]:
    """Results as expected (passed, or deviating as the baseline says), not as expected, skipped. Of a test's lines the
    last counts, unless one was not as expected.
    """
    tests: dict[str, str] = {}
    try:
        lines = record.read_text(errors="replace").splitlines()
    except OSError:
        return 0, 1, 0
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if entry.get("kind") == "result":
            lost = entry.get("verdict") in ("ERROR", "MISS")
            kind = {"ok": "passed", "known": "passed", "skipped": "skipped"}.get(entry.get("news"), "failed")
            test = str(entry.get("test", ""))
            tests[test] = "failed" if lost or tests.get(test) == "failed" else kind
    kinds = list(tests.values())
    return kinds.count("passed"), kinds.count("failed"), kinds.count("skipped")


def _pytest(tally: Tally, arguments: Sequence[str]) -> None:
    """pytest over tests/; its JUnit file is what is counted."""
    with tempfile.TemporaryDirectory(prefix="nsvm-") as folder:
        junit = Path(folder) / "junit.xml"
        status = call(
            [
                sys.executable,
                "-m",
                "pytest",
                "tests",
                "-p",
                "no:cacheprovider",
                f"--junitxml={junit}",
                "--durations=5",
                *arguments,
            ]
        )
        try:
            suites = list(ElementTree.parse(junit).getroot().iter("testsuite"))
        except (OSError, ElementTree.ParseError):
            suites = []
    number = {
        name: sum(int(suite.get(name, 0)) for suite in suites) for name in ("tests", "failures", "errors", "skipped")
    }
    bad = number["failures"] + number["errors"]
    tally.add(max(number["tests"] - bad - number["skipped"], 0), bad or int(status != 0), number["skipped"])


CHECKS: dict[str, Callable[[Tally, Sequence[str]], None]] = {
    "lint": lint,
    "types": types,
    "units": units,
    "emulators": emulators,
}


def main(argv: Sequence[str]) -> int:
    """Runs one of CHECKS; 1 if anything failed."""
    if not argv or argv[0] not in CHECKS:
        print(f"usage: python -P harness/project/selfcheck.py {'|'.join(CHECKS)} [pytest arguments]", file=sys.stderr)
        return 2
    tally = Tally()
    CHECKS[argv[0]](tally, argv[1:])
    return 1 if tally.failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
