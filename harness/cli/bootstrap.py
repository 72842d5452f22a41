"""Makes the virtual environment that the harness runs in, then hands over to `harness.command`. Standard library only.

An environment is keyed by its requirements and its Python, made under a lock, and marked complete as the last
thing done: two `nsvm` at once share the work, and one that was cut short is made again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import pwd
import runpy
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TextIO

ROOT = Path(__file__).resolve().parents[2]
STATE = Path(os.environ["NSVM_HOME"]).expanduser().absolute() if os.environ.get("NSVM_HOME") else ROOT / ".nsvm"
RUN_REQUIREMENTS = "requirements/run.txt"

VENV_DEADLINE_S = 180
PIP_DEADLINE_S = 900
LOCK_DEADLINE_S = VENV_DEADLINE_S + PIP_DEADLINE_S
UNUSED_DAYS_MAX = 14
COMPLETE = "nsvm-complete"


class BootstrapError(Exception):
    """The environment cannot be made; the text is one line for a person."""


def ensure_venv(name: str, requirements: str, *, root: Path = ROOT, state: Path | None = None) -> Path:
    """The Python of an environment with `requirements` (a path below `root`), made if it is not there; raises
    BootstrapError.
    """
    state = state or root / ".nsvm"
    try:
        wanted = (root / requirements).read_bytes()
    except OSError as error:
        raise BootstrapError(f"cannot read {requirements}: {error.strerror}; is the clone complete?") from None
    key = hashlib.sha256(wanted + sys.version.encode() + sys.base_prefix.encode()).hexdigest()[:12]
    folder = state / f"{name}-{key}"
    complete = folder / COMPLETE
    try:
        if complete.exists():
            _touch(complete)
            return folder / "bin" / "python"
        (state / "log").mkdir(parents=True, exist_ok=True)
        with open(state / f"{name}.lock", "w") as file:
            waiting = f"another nsvm is making the Python environment {name}; waiting for it"
            lock(file.fileno(), waiting, LOCK_DEADLINE_S)
            if not complete.exists():
                _make(folder, root / requirements, state / "log" / f"{name}.log")
                _point(state / name, folder)
                _forget_unused(state, name, folder)
    except OSError as error:
        raise BootstrapError(f"cannot make the Python environment: {told(error, state)}") from None
    return folder / "bin" / "python"


def _touch(complete: Path) -> None:
    """Says that the environment is in use; a read-only clone may still use it."""
    with contextlib.suppress(OSError):
        os.utime(complete)


def told(error: OSError, state: Path) -> str:
    """What a file system refuses, in one line: what, where, and whose the files are if they are not ours."""
    if error.strerror is None:
        return str(error)
    text = f"{error.filename or state}: {error.strerror}"
    with contextlib.suppress(OSError):
        if isinstance(error, PermissionError) and (owner := os.stat(state).st_uid) != os.geteuid():
            text += f" ({state} belongs to {_user(owner)}: run this as that user, or make it yours with chown -R)"
    return text


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"


def lock(descriptor: int, waiting: str, deadline_s: float) -> None:
    """Takes the lock, saying `waiting` if another process holds it. Raises OSError where there is none to be had, and
    TimeoutError where it does not come.
    """
    deadline = time.monotonic() + deadline_s
    said = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if not said:
                _say(waiting)
                said = True
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {deadline_s:.0f} s in vain: {waiting}") from None
            time.sleep(0.2)


def _make(folder: Path, requirements: Path, log_path: Path) -> None:
    """Makes the environment in place; only the last line written makes it count."""
    _say(f"making the Python environment {folder.relative_to(folder.parents[1])} from {requirements.name} (once)")
    shutil.rmtree(folder, ignore_errors=True)
    with open(log_path, "w") as log:
        _run(
            [sys.executable, "-m", "venv", str(folder)],
            log,
            VENV_DEADLINE_S,
            f"cannot make a virtual environment: {{}} ({log_path})",
        )
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
        why = (
            f"pip could not install {requirements.name}: {{}} (all of it: {log_path}). It needs a Python package "
            f"index; "
            "without a network, set PIP_NO_INDEX=1 and PIP_FIND_LINKS to a folder of the wheels"
        )
        _run([*pip, "--require-hashes", "-r", str(requirements)], log, PIP_DEADLINE_S, why)
    (folder / COMPLETE).write_text(time.strftime("%Y-%m-%dT%H:%M:%SZ\n", time.gmtime()))


def _run(command: list[str], log: TextIO, deadline_s: int, failure: str) -> None:
    """Runs one step with its output in the log; `failure` may have a {} for the last error line."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONHOME", "PYTHONPATH")}
    at = os.fstat(log.fileno()).st_size
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            timeout=deadline_s,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        raise BootstrapError(failure.format(f"not done after {deadline_s} s")) from None
    except OSError as error:
        raise BootstrapError(failure.format(str(error))) from None
    if done.returncode:
        raise BootstrapError(failure.format(_last_error(Path(log.name), at)))


def _last_error(log: Path, at: int) -> str:
    """The line of pip's output that says most."""
    lines = log.read_bytes()[at:].decode(errors="replace").splitlines()
    errors = [line.strip() for line in lines if line.startswith("ERROR:")] or [
        line.strip() for line in lines if line.strip()
    ]
    return errors[-1][:300] if errors else "no output"


def _point(link: Path, folder: Path) -> None:
    """.nsvm/venv -> the newest environment, for people."""
    fresh = link.with_name(f"{link.name}.{os.getpid()}")
    try:
        fresh.symlink_to(folder.name)
        fresh.replace(link)
    except OSError:
        fresh.unlink(missing_ok=True)


def _forget_unused(state: Path, name: str, keep: Path) -> None:
    """Removes environments of other requirements that nobody has used for a while."""
    for complete in state.glob(f"{name}-*/{COMPLETE}"):
        if complete.parent != keep and time.time() - complete.stat().st_mtime > UNUSED_DAYS_MAX * 86400:
            shutil.rmtree(complete.parent, ignore_errors=True)


def _say(text: str) -> None:
    print(f"nsvm: {text}", file=sys.stderr, flush=True)


def main(argv: list[str]) -> int:
    """Becomes `harness.command` in the environment; 2 if it cannot be made, 130 if interrupted."""
    if argv == ["--version"]:  # needs no environment, and nobody waits half a second for a number
        print(runpy.run_path(str(ROOT / "harness" / "version.py"))["told"]())
        return 0
    try:
        python = ensure_venv("venv", RUN_REQUIREMENTS, state=STATE)
    except BootstrapError as error:
        _say(str(error))
        return 2
    except KeyboardInterrupt:
        _say("interrupted")
        return 130
    start = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from harness.command import main; sys.exit(main())"
    try:
        os.execv(python, [str(python), "-P", "-c", start, *argv])
    except OSError as error:
        _say(f"cannot start {python}: {error.strerror}; remove {python.parents[1]} to have it made again")
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
