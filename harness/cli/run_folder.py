"""Where a run is written, and what a person calls a path."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from harness.cli.console import UserError
from harness.cli.paths import ROOT, RUNS
from harness.record import FILE_NAME
from harness.summary.flaky import REPEAT_NAME
from harness.targets import file_name
from reports.brief import SUMMARY_NAME

LOCK = ".lock"
_kept: list[int] = []
"""The locks of this process' run folders."""


def given_path(text: str) -> str:
    """A path or test id as pytest, started in the project's folder, understands it."""
    file, separator, test = text.partition("::")
    for base in (Path.cwd(), ROOT):
        if (base / file).exists():
            resolved = (base / file).resolve()
            inside = resolved.relative_to(ROOT) if resolved.is_relative_to(ROOT) else resolved
            return f"{inside}{separator}{test}"
    raise UserError(f"{file}: no such file or folder (use -k to choose tests by name)")


def choose(asked: str | None, names: Sequence[str], below: Path | None = None) -> Path:
    """The folder of a run on these targets, in `below` (runs/) if it is not asked for; raises UserError if it holds one
    already.
    """
    if asked is not None:
        out = Path(asked).absolute()
        records = [FILE_NAME, REPEAT_NAME, f"1/{FILE_NAME}", *(f"{file_name(name)}/{FILE_NAME}" for name in names)]
        if any((out / record).exists() for record in records):
            raise UserError(f"--out {asked}: there is a run in it already; give another folder, or remove it")
        if out.exists() and not out.is_dir():
            raise UserError(f"--out {asked}: is a file")
        return out
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    base = (below or RUNS) / f"{stamp}-{'+'.join(map(file_name, names))}"
    return next(out for out in _numbered(base) if not out.exists())


def make(out: Path, *, ours: bool) -> Path:
    """Makes the run folder and keeps it from other runs; one of our own naming gets another number if a run at the
    same moment took it. Raises UserError.
    """
    for folder in _numbered(out):
        try:
            folder.mkdir(parents=True, exist_ok=not ours)
        except FileExistsError:
            if not ours:
                raise UserError(f"--out {out}: is a file") from None
        except OSError as error:
            raise UserError(f"cannot make the run folder {folder}: {error.strerror}") from None
        else:
            _keep(folder)
            return folder
    raise UserError(f"no name is left for a run folder like {out}")


def short(path: Path) -> Path:
    """Relative to where the user is, where that is shorter."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _numbered(base: Path) -> Iterator[Path]:
    """BASE, BASE-2, BASE-3 ..."""
    yield base
    for number in range(2, 1000):
        yield base.with_name(f"{base.name}-{number}")


def _keep(folder: Path) -> None:
    """Takes the folder for as long as this process lives."""
    try:
        descriptor = os.open(folder / LOCK, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"--out {folder}: another run writes into it at this moment; give another folder") from None
    except OSError as error:
        raise UserError(f"cannot write into the run folder {folder}: {error.strerror}") from None
    _kept.append(descriptor)


def in_use(folder: Path) -> bool:
    """Whether a run writes into it at this moment."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def judged_something(out: Path) -> bool:
    """Whether a run in it, or in a folder below it, has learnt something about its target."""
    for path in (out / SUMMARY_NAME, *out.glob(f"*/{SUMMARY_NAME}")):
        with suppress(OSError, ValueError, KeyError, TypeError):
            counts = json.loads(path.read_text("utf-8"))["counts"]
            if counts["tests"] > counts["skipped"] + counts["without_verdict"]:
                return True
    return False


def point_latest(out: Path) -> None:
    """runs/latest -> this run."""
    fresh = out.parent / f".latest-{os.getpid()}"
    with suppress(OSError):
        fresh.symlink_to(out.name)
        fresh.replace(out.parent / "latest")
