"""What every command that uses a target does first: its tools, the executor, the target itself."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli.bootstrap import lock, told
from harness.cli.console import HarnessError, UserError
from harness.cli.debian import STATIC_LIBC, Need, ensure, missing_build_tools
from harness.cli.paths import LOG, ROOT, STATE
from harness.home import build_of
from harness.machine.leftovers import WorkFolder
from harness.run.options import add_options
from harness.scenario.steps import MalformedAnswer, Record, Step, encode_list, split_records

if TYPE_CHECKING:
    from harness.link.link import Hello, Link
    from harness.machine.base import Target, TargetOptions

EXECUTOR = ROOT / "guest_payloads" / "executor"
HOST_PROGRAM = ROOT / "guest_payloads" / "host_vmm"
EXECUTOR_ELF = build_of("executor") / "executor.elf"
DISK_IMAGE = build_of("executor") / "disk.img"
BUILD_DEADLINE_S = 300
BUILD_LOCK_DEADLINE_S = 2 * BUILD_DEADLINE_S
LIBRARIES = (Path("/usr/lib/x86_64-linux-gnu/libc.a"), Path("/usr/include/linux/kvm.h"))
REMOTE = ("host:", "ssh://")
"""How the names of targets begin that are reached over SSH and are not the run's own."""
WORKERS_MAX = 4


def known_targets() -> tuple[str, ...]:
    """The targets there are."""
    from harness import targets

    return targets.names()


def built_targets() -> tuple[str, ...]:
    """Those that nsvm has to build first."""
    from harness import targets

    return targets.built_names()


def check_targets(names: Sequence[str]) -> list[str]:
    """The names, each once; raises UserError for one that is no target."""
    from harness import targets

    for name in names:
        if name in known_targets():
            continue
        if not targets.is_name(name):
            known = ", ".join((*known_targets(), *built_targets(), *targets.FORMS))
            raise UserError(f"no target is called {name!r}; there are {known}")
        make_target(name, STATE / "nothing-runs-here", Programs())  # complains
    return list(dict.fromkeys(names))


def default_workers(name: str) -> int:
    """How many workers suit a target: on a host what its description says, else one a core."""
    from harness.machine.base import Sized

    if name.startswith((*REMOTE, "metal:")):
        target = make_target(name, STATE / "nothing-runs-here", Programs())
        return target.workers if isinstance(target, Sized) else 1
    return max(1, min(len(os.sched_getaffinity(0)), WORKERS_MAX))


def check_program(option: str, path: str | None) -> str | None:
    """An absolute path to a program the user named; raises UserError if it cannot be run."""
    if path is None:
        return None
    found = shutil.which(path)
    if found is None:
        raise UserError(f"{option} {path}: no such program, or it is not executable")
    return str(Path(found).absolute())


@dataclass(frozen=True)
class Programs:
    """The emulators the user brought along."""

    qemu: str | None = None
    bochs: str | None = None


def target_options(workdir: Path, programs: Programs, **more: object) -> TargetOptions:
    """Options for a target that runs our executor."""
    from harness.machine.base import TargetOptions

    options = TargetOptions(
        workdir=workdir,
        executor_elf=EXECUTOR_ELF,
        disk_image=DISK_IMAGE,
        qemu_path=programs.qemu,
        bochs_path=programs.bochs,
    )
    return replace(options, **more)  # type: ignore[arg-type]


def make_target(name: str, workdir: Path, programs: Programs, **more: object) -> Target:
    """A target that is not started; raises UserError if what its name says makes no sense."""
    from harness import targets
    from harness.machine.base import TargetError

    try:
        return targets.create(name, target_options(workdir, programs, **more))
    except (KeyError, ValueError, TargetError) as error:
        raise UserError(str(error.args[0] if error.args else error)) from None


def missing_for(name: str, programs: Programs) -> list[Need]:
    """What a target lacks on this machine. Raises UserError for what no package brings, as on a host."""
    from harness.machine.base import release

    target = make_target(name, STATE / "nothing-runs-here", programs)
    try:
        missing = target.missing()
    finally:
        release(target)
    if lacking := [item.what for item in missing if not item.package]:
        raise UserError(f"{name} cannot run a guest: {'; '.join(lacking)}")
    return [Need(item.what, item.package, item.why) for item in missing]


def prepare(names: Sequence[str], programs: Programs, *, may_install: bool) -> None:
    """Installs what building the executor and running these targets needs, and builds the executor."""
    needs = missing_build_tools()
    hosts = any(name.startswith((*REMOTE, "sim:")) for name in names)
    if hosts and not all(path.exists() for path in LIBRARIES):
        needs.append(STATIC_LIBC)
    for name in names:
        needs += missing_for(name, programs)
    ensure(needs, may_install=may_install, log=LOG / "apt.log")
    still = [need for need in missing_build_tools() if need in needs]
    for name in names:
        still += missing_for(name, programs)
    if still:
        raise UserError("; ".join(f"{need.what} is still missing after installing {need.package}" for need in still))
    build_executor()
    if hosts:
        build_host_program()


def compiler() -> list[str]:
    """What to tell make about the compiler: nothing where there is gcc."""
    return [] if shutil.which("gcc") or not shutil.which("clang") else ["CC=clang"]


def build_executor() -> None:
    """Builds the executor; raises HarnessError with make's first complaint."""
    _make("the executor", EXECUTOR)
    if not EXECUTOR_ELF.exists():
        raise HarnessError(f"make left no {EXECUTOR_ELF}")


def build_host_program() -> None:
    """Builds what is put onto hosts, the small VMM; raises HarnessError with make's first complaint."""
    _make("the small VMM for hosts", HOST_PROGRAM)


def _make(what: str, folder: Path) -> None:
    """Runs make, quietly. Two builds at once wait for each other."""
    log = LOG / f"make-{folder.name}.log"
    try:
        LOG.mkdir(parents=True, exist_ok=True)
        with open(STATE / "build.lock", "w") as file:
            lock(file.fileno(), "another nsvm builds the executor; waiting for it", BUILD_LOCK_DEADLINE_S)
            made = _run_make(what, folder)
            log.write_bytes(made.stdout)
    except OSError as error:
        raise UserError(f"cannot build {what}: {told(error, STATE)}") from None
    if made.returncode:
        lines = made.stdout.decode(errors="replace").splitlines()
        complaint = next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "no output")
        raise HarnessError(f"{what} does not build: {complaint.strip()[:300]} (all of it: {log})")


def _build(folder: Path) -> Path:
    """Where make puts it: in the clone the folder that its Makefile names, so that the bytes are the same."""
    made = build_of(folder.name)
    return made.relative_to(folder) if made.is_relative_to(folder) else made


def _run_make(what: str, folder: Path) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            ["make", "-s", f"-j{os.cpu_count() or 1}", "-C", str(folder), f"B={_build(folder)}", *compiler()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=BUILD_DEADLINE_S,
        )
    except subprocess.TimeoutExpired:
        raise HarnessError(f"building {what} was not done after {BUILD_DEADLINE_S} s") from None
    except OSError as error:
        raise UserError(f"cannot run make: {error.strerror}") from None


@dataclass(frozen=True)
class Running:
    """A target that answers."""

    target: Target
    link: Link
    hello: Hello
    start_s: float
    """From starting the process to the executor's hello."""


@contextmanager
def running(name: str, programs: Programs, *, use_lane: bool = True, **more: object) -> Iterator[Running]:
    """Boots a target for as long as the block lasts; raises HarnessError if the executor does not come up."""
    from harness.link.link import Link, LinkError
    from harness.machine.base import TargetError, release

    with WorkFolder("caps") as workdir:
        target = make_target(name, workdir, programs, **more)
        try:
            started = time.monotonic()
            try:
                console = target.start()
                lane = target.lane_memory() if use_lane else None
                link = Link(console, lane=lane, round_trip_s=target.capabilities().round_trip_s)
                hello = link.hello(target.capabilities().boot_deadline_s)
            except (TargetError, LinkError) as error:
                log = ((error.log if isinstance(error, TargetError) else "") or target.log_tail()).strip().splitlines()
                last = f" (its log ends: {log[-1][:200]})" if log else ""
                raise HarnessError(f"{name} did not start: {target.exit_reason() or error}{last}") from error
            yield Running(target, link, hello, time.monotonic() - started)
        finally:
            release(target)


def program_arguments(parser: argparse.ArgumentParser) -> None:
    """--qemu and --bochs."""
    add_options(parser.add_argument, only=("qemu", "bochs"))


def programs_of(args: object) -> Programs:
    """What --qemu and --bochs say; raises UserError if they name no program."""
    return Programs(
        check_program("--qemu", getattr(args, "qemu", None)), check_program("--bochs", getattr(args, "bochs", None))
    )


def ask(now: Running, asked: Sequence[Step], deadline_s: float) -> list[Record]:
    """Sends steps to a running target and gives their answer records; raises HarnessError."""
    from harness.link.link import LinkError

    try:
        return split_records(now.link.run(encode_list(list(asked)), deadline_s))
    except (LinkError, MalformedAnswer) as error:
        why = now.target.exit_reason() or error
        raise HarnessError(f"{now.target.name} did not answer: {why}") from error
