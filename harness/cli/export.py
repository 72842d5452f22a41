"""`nsvm export`: a test as a kernel that compares for itself."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from harness.cli import machine
from harness.cli.console import EXIT_OK, HarnessError, UserError, say
from harness.cli.host_run import password_for
from harness.cli.one_test import find_one, run_pytest
from harness.cli.paths import ROOT
from harness.export import c_source, image, listing
from harness.export.captured import Captured
from harness.judge.clauses import Clause, ClauseError, load_clauses
from harness.run.worker import EXECUTOR
from harness.version import VERSION

DEADLINE_S = 300


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Adds the command to the parser."""
    parser = subparsers.add_parser(
        "export",
        parents=[common],
        help="make a self-checking kernel of one test: ELF, ISO image, and a listing",
        description="Runs the test once on a target to see what it does, and writes a kernel that does the same and "
        "compares for itself: DIR/reproducer.elf, DIR/reproducer.iso and DIR/README.txt, which has the lines for QEMU, "
        "Bochs, xl, GRUB and kexec. Its last line on the console is 'Test result: SUCCESS' or 'Test result: FAILURE'. "
        "Exit status 0 if it was written, whatever came on the target.",
    )
    parser.add_argument("test", metavar="TEST", help="a test with its parameters, with or without the file")
    parser.add_argument("--target", default="qemu-tcg", metavar="NAME", help="where it is run once; default: qemu-tcg")
    parser.add_argument("-o", dest="out", type=Path, required=True, metavar="DIR", help="the folder to write")
    parser.add_argument("--no-iso", action="store_true", help="no ISO image, which needs grub-mkrescue")
    parser.add_argument(
        "--format", choices=("elf", "c"), default="elf", help="c: one commented C file, reproducer.c, and no image"
    )
    machine.program_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Makes the reproducer."""
    test = find_one(args.test)
    (name,) = machine.check_targets([args.target])
    out: Path = args.out
    if out.exists() and not out.is_dir():
        raise UserError(f"-o {out}: is a file; name a folder")
    machine.prepare([name], machine.programs_of(args), may_install=not args.no_install)
    machine.build_executor()
    told = capture(test, name, args)
    if told.hides:
        raise UserError(
            f"{test} cannot be exported as it deviates on {name}: {told.reason}; the payload cannot compare that"
        )
    if told.verdict in ("PASS", "FAIL") and not any(check.request < len(told.requests) for check in told.checks):
        why = told.left_out[0] if told.left_out else told.reason or "it compares nothing"
        raise UserError(f"{test} cannot be exported: the payload can compare nothing of it ({why})")
    try:
        every = load_clauses(ROOT / "suites")
        stated = [every[each] for each in told.clauses if each in every]
        files = _write(told, stated, out, c_file=args.format == "c", with_iso=not args.no_iso)
        (out / listing.LISTING).write_text(listing.listing(told, stated, files, VERSION))
    except (image.ExportError, ClauseError) as error:
        raise UserError(str(error)) from None
    except OSError as error:
        raise UserError(f"-o {out}: {error.strerror}") from None
    compared = sum(check.request < len(told.requests) for check in told.checks)
    more = f"; {len(told.left_out)} comparisons are left out, see {listing.LISTING}" if told.left_out else ""
    named = ", ".join([*files, listing.LISTING])
    say(f"{out}: {named}; {compared} checks{more}; on {name} the test came to {told.verdict}")
    return EXIT_OK


def _write(told: Captured, stated: list[Clause], out: Path, *, c_file: bool, with_iso: bool) -> list[str]:
    """Writes the kernel; the names of its files. Raises ExportError, OSError."""
    if c_file:
        text = c_source.source(told, stated)
        out.mkdir(parents=True, exist_ok=True)
        (out / listing.C_SOURCE).write_text(text)
        return [listing.C_SOURCE]
    elf = image.with_bundle(EXECUTOR / "executor.elf", image.bundle(told, listing.printed(told, stated)))
    out.mkdir(parents=True, exist_ok=True)
    (out / listing.ELF).write_bytes(elf)
    if not with_iso:
        return [listing.ELF]
    image.iso(elf, out / listing.ISO)
    return [listing.ELF, listing.ISO]


def capture(test: str, target: str, args: argparse.Namespace) -> Captured:
    """Runs the test on the target and says what it did. Raises HarnessError."""
    programs = machine.programs_of(args)
    with tempfile.TemporaryDirectory(prefix="nsvm-") as folder:
        out = Path(folder) / "captured.json"
        run_pytest(
            [
                test, "--target", target, "--nsvm-export", str(out), "--nsvm-out", str(Path(folder) / "run"),
                "--fresh-boot", "always",
                *(["--qemu", programs.qemu] if programs.qemu else []),
                *(["--bochs", programs.bochs] if programs.bochs else []),
            ],
            DEADLINE_S,
            environment=password_for(target),
        )  # fmt: skip
        try:
            return Captured.read(out)
        except (OSError, ValueError, KeyError, TypeError):
            raise HarnessError(f"{test} did not run on {target}: it was skipped, or the target did not start") from None
