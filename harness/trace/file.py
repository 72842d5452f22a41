"""A trace: one target's answers to the suites in one file, with what the machine was (docs/trace.md).

JSON lines, compressed with xz: a header, then one line a test.
"""

from __future__ import annotations

import base64
import json
import lzma
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from harness.link.hello import Hello
from harness.record import NEWS, VERDICTS, News, Verdict
from harness.record.source import Source
from harness.trace.answers import Calls, Recorded, decode_call, encode_call

FORMAT = "nsvm-trace"
VERSION = 1
SUFFIX = ".nsvmtrace"
SILICON, SYNTHETIC = "silicon", "synthetic"
LINE_MAX_BYTES = 64 << 20
"""A line that is longer is damaged; a test's answers have some hundred KiB at most."""


class TraceError(Exception):
    """A trace cannot be read or written. The text is one line for people."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """What was recorded, where. `nature` is silicon or synthetic, `why` says what speaks for it.

    `witnesses`: of each clause how many tests agree with it and how many contradict it, as they were judged then; of a
    check that is made after every VMRUN, how many VMRUNs.
    """

    target: str
    nature: str
    why: str = ""
    vendor: str = ""
    family: int = 0
    model: int = 0
    stepping: int = 0
    name: str = ""
    microcode: str = ""
    firmware: str = ""
    board: str = ""
    edx: int = 0
    l0: str = ""
    l0_version: Sequence[int] = ()
    baselines: Sequence[str] = ()
    executor: str = ""
    nsvm: str = ""
    recorded: str = ""
    chosen_by: Sequence[str] = ()
    tests: int = 0
    witnesses: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def cpu(self) -> str:
        """`family 19h model 11h`, as in CPUID."""
        return f"family {self.family:02X}h model {self.model:02X}h"

    @property
    def silicon(self) -> bool:
        """Whether a processor itself has answered."""
        return self.nature == SILICON


@dataclass(frozen=True)
class Entry:
    """One test's answers. `asked` has the digest of each scenario that was asked."""

    test: str
    verdict: Verdict
    news: News
    reason: str
    hello: int | None
    asked: Sequence[str]
    packed: Sequence[Any]
    watchdog_us: int = 0
    after_others: bool = False

    def calls(self) -> Calls:
        """The answers in order. Raises TraceError."""
        try:
            return [decode_call(call) for call in self.packed]
        except Exception as error:  # whatever is wrong with it, it is the file that is damaged
            raise TraceError(f"the trace's answers to {self.test} cannot be read: {error}") from None


@dataclass(frozen=True)
class Trace:
    """A whole trace."""

    header: Header
    hellos: Sequence[Hello]
    entries: Mapping[str, Entry]

    def hello(self, entry: Entry | None) -> Hello:
        """What the executor said when that test ran; of a test without answers, what it said first."""
        return self.hellos[entry.hello if entry is not None and entry.hello is not None else 0]


def write_trace(path: Path, header: Header, recorded: Iterable[Recorded]) -> int:
    """Writes a trace, or leaves what is at `path` as it is; its size in bytes. Raises TraceError, AnswersError."""
    hellos: dict[bytes, int] = {}
    lines = []
    for one in sorted(recorded, key=lambda each: each.test):
        told: dict[str, Any] = {"test": one.test, "verdict": one.verdict, "news": one.news, "reason": one.reason}
        if one.packed:
            hello, calls = one.unpack()
            told["hello"] = hellos.setdefault(hello.pack(), len(hellos))
            told |= {"asked": list(one.asked), "calls": [encode_call(call) for call in calls]}
        told |= {"watchdog_us": one.watchdog_us} if one.watchdog_us else {}
        told |= {"after_others": True} if one.after_others else {}
        lines.append(_line(told))
    if not hellos:
        raise TraceError(f"{path}: no test was answered, so there is nothing to keep")
    about = {"format": FORMAT, "version": VERSION, **asdict(header), "tests": len(lines)}
    about["hellos"] = [base64.b64encode(hello).decode() for hello in hellos]
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with lzma.open(fresh, "wb", preset=6) as file:
            file.writelines([_line(about), *lines])
        fresh.replace(path)
        return path.stat().st_size
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise TraceError(f"{path} cannot be written: {error.strerror}") from None


def read_header(path: Path) -> Header:
    """What a trace says of itself. Raises TraceError."""
    with _opened(path) as file:
        return _header(path, _next(path, file))


def read_trace(path: Path) -> Trace:
    """All of it. Raises TraceError."""
    with _opened(path) as file:
        told = _next(path, file)
        header = _header(path, told)
        entries: dict[str, Entry] = {}
        try:
            hellos = [Hello.parse(base64.b64decode(hello)) for hello in told["hellos"]]
            while line := _read_line(path, file):
                entry = _entry(json.loads(line))
                entries[entry.test] = entry
        except (ValueError, KeyError, TypeError) as error:
            raise TraceError(f"{path} is damaged: {error}") from None
    if len(entries) != header.tests or not hellos:
        raise TraceError(f"{path} is cut short: it has {len(entries)} of {header.tests} tests")
    if any(entry.hello is not None and not 0 <= entry.hello < len(hellos) for entry in entries.values()):
        raise TraceError(f"{path} is damaged: a test names a hello that is not there")
    return Trace(header, hellos, entries)


def _entry(told: Mapping[str, Any]) -> Entry:
    fields = Source(dict(told), [])
    hello = told.get("hello")
    asked, packed = [str(each) for each in told.get("asked", ())], list(told.get("calls", ()))
    if len(asked) != len(packed):
        raise ValueError(f"{told['test']} has {len(packed)} answers to {len(asked)} questions")
    return Entry(
        str(told["test"]),
        fields.one_of("verdict", VERDICTS, "ERROR"),
        fields.one_of("news", NEWS, "new"),
        str(told.get("reason", "")),
        None if hello is None else int(hello),
        asked,
        packed,
        int(told.get("watchdog_us", 0)),
        bool(told.get("after_others", False)),
    )


def _header(path: Path, told: Mapping[str, Any]) -> Header:
    if told.get("format") != FORMAT:
        raise TraceError(f"{path} is no trace of nsvm; ./nsvm record makes one")
    if told.get("version") != VERSION:
        raise TraceError(f"{path} is a trace of version {told.get('version')}; this nsvm reads version {VERSION}")
    try:
        known = {name: told[name] for name in Header.__dataclass_fields__ if name in told}
        known["witnesses"] = {str(name): (int(yes), int(no)) for name, (yes, no) in told["witnesses"].items()}
        header = Header(**known)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TraceError(f"{path} is damaged: its header: {error}") from None
    if header.nature not in (SILICON, SYNTHETIC):
        raise TraceError(f"{path} is damaged: a machine is {SILICON} or {SYNTHETIC}, not {header.nature!r}")
    return header


def _opened(path: Path) -> lzma.LZMAFile:
    try:
        return lzma.LZMAFile(path)
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror}") from None


def _next(path: Path, file: lzma.LZMAFile) -> dict[str, Any]:
    try:
        told = json.loads(_read_line(path, file) or "0")
    except ValueError:
        told = 0
    if not isinstance(told, dict):
        raise TraceError(f"{path} is no trace of nsvm; ./nsvm record makes one")
    return told


def _read_line(path: Path, file: lzma.LZMAFile) -> bytes:
    try:
        line = file.readline(LINE_MAX_BYTES)
    except (lzma.LZMAError, EOFError) as error:
        raise TraceError(f"{path} is no trace of nsvm, or damaged: {error}") from None
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror}") from None
    if line and not line.endswith(b"\n"):
        raise TraceError(f"{path} is damaged: a line without an end")
    return line


def _line(told: Mapping[str, Any]) -> bytes:
    return json.dumps(told, separators=(",", ":")).encode() + b"\n"
