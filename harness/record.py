"""The run record: `run.jsonl`, one JSON object a line, "kind" first. Everything a report says comes from it.

The writer appends one whole line with one write, so a run that is killed loses at most the line it was writing,
and several processes may write to one file. The reader streams, and takes what it can: a torn or unreadable line,
an unknown kind, a missing or odd field is told as a Problem and never ends the reading. A record without an End is
of a run that was cut short, and `Run.complete` says so.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Final

SCHEMA: Final = 1
FILE_NAME: Final = "run.jsonl"

VERDICTS: Final = ("CRASH", "HANG", "FAIL", "ERROR", "MISS", "PASS", "SKIP")
"""Worst first. PASS stands before SKIP: a clause that one test passes and another skips has been judged."""
NEWS: Final = ("new", "mended", "known", "ok", "skipped")
"""Worst first."""

BAD_VERDICTS: Final = frozenset({"CRASH", "HANG", "FAIL"})
"""A deviation of the target."""
LOST_VERDICTS: Final = frozenset({"ERROR", "MISS"})
"""No verdict about the target: our fault, or a target that was lost."""

LINE_MAX_BYTES: Final = 8 << 20
_STRING_MAX: Final = 64 << 10
_LIST_MAX: Final = 20_000
_DEPTH_MAX: Final = 12
_INT_MAX_BITS: Final = 128


def worst(verdicts: Iterable[str]) -> str:
    """The worst verdict of them; "" of none. One that is not in VERDICTS counts as ERROR."""
    return min((v if v in VERDICTS else "ERROR" for v in verdicts), key=VERDICTS.index, default="")


def worst_news(news: Iterable[str]) -> str:
    """The news that most needs a reader; "" of none. One that is not in NEWS counts as new."""
    return min((n if n in NEWS else "new" for n in news), key=NEWS.index, default="")


# ---------------------------------------------------------------------------------------------------------- the records


@dataclass(frozen=True, kw_only=True, slots=True)
class NsvmInfo:
    """Which nsvm made the record; `commit` is None outside a checkout."""

    version: str = ""
    commit: str | None = None
    dirty: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class HostInfo:
    """The machine that the harness ran on (not the one under test)."""

    os: str = ""
    cpu: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunStart:
    """The first record. `started` is ISO 8601 with an offset; `argv` is what the user typed."""

    KIND: ClassVar[str] = "run"
    run_id: str
    started: str
    schema: int = SCHEMA
    argv: Sequence[str] = ()
    nsvm: NsvmInfo = field(default_factory=NsvmInfo)
    python: str = ""
    host: HostInfo = field(default_factory=HostInfo)


@dataclass(frozen=True, kw_only=True, slots=True)
class ClauseInfo:
    """A clause as the run knew it, so that a report needs no suite. `class_` is "class" in the file."""

    KIND: ClassVar[str] = "clause"
    id: str
    bit: str
    statement: str
    alias: str = ""
    apm: str = ""
    class_: str = "mandatory"
    condition: str = ""
    trust: Sequence[str] = ()
    hardware: str = ""
    note: str = ""


CpuidRow = tuple[int, int, int, int, int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetInfo:
    """A target as one worker found it at its first boot. `cpuid` rows are (leaf, subleaf, eax, ebx, ecx, edx).

    Written again by the same worker, the last one counts.
    """

    KIND: ClassVar[str] = "target"
    target: str
    worker: str = ""
    version: str = ""
    command: Sequence[str] = ()
    baselines: Sequence[str] = ()
    executor_build: str = ""
    cpuid: Sequence[CpuidRow] = ()
    edx: int = 0
    boots: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class BaselineRef:
    """Why a deviation is known."""

    reason: str = ""
    reference: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """What one test said about one clause. `universal` marks a check that every exit undergoes."""

    clause: str
    verdict: str
    news: str = "ok"
    universal: bool = False
    baseline: BaselineRef | None = None
    summary: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One value: what was expected, what came, what the difference means."""

    name: str
    expected: str = ""
    got: str = ""
    meaning: str = ""
    ok: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class CodeLine:
    """One instruction of the guest. `mark` is "" or a few words: "exit here"."""

    addr: str = ""
    bytes: str = ""
    text: str = ""
    mark: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What a reader needs to believe a verdict. `log` is the target's and the console's, `l0_log` what L0 itself said
    and did meanwhile, gathered by another way than the guest's.
    """

    title: str = ""
    rows: Sequence[Row] = ()
    code: Sequence[CodeLine] = ()
    frames: Sequence[str] = ()
    log: str = ""
    l0_log: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fresh:
    """How the verdict on a boot of its own compares with the one in the shared boot: not-needed, same or differs."""

    state: str = "not-needed"
    shared_verdict: str = ""
    shared_reason: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """One parametrised test on one target. `test` is the pytest node id; `scenario` is 12 hexadecimal digits or ""."""

    KIND: ClassVar[str] = "result"
    test: str
    target: str
    verdict: str
    worker: str = ""
    clauses: Sequence[str] = ()
    news: str = "ok"
    reason: str = ""
    duration_s: float = 0.0
    scenario: str = ""
    checks: Sequence[Check] = ()
    evidence: Sequence[Evidence] = ()
    fresh: Fresh | None = None
    rerun: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Universal:
    """Over how many VMRUNs one worker judged a universal clause. Written once at its end; readers add them up."""

    KIND: ClassVar[str] = "universal"
    target: str
    clause: str
    checked: int
    failed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Something that befell a target: boot, reset, crash, hang, garbage, restart or warning (of L0)."""

    KIND: ClassVar[str] = "event"
    target: str
    what: str
    worker: str = ""
    detail: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Interrupted:
    """The run was stopped by its user or by a signal."""

    KIND: ClassVar[str] = "interrupted"
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class End:
    """The last record: nothing was cut off. `counts` is by verdict; new, known and mended count tests."""

    KIND: ClassVar[str] = "end"
    finished: str
    duration_s: float
    exit_status: int
    counts: Mapping[str, int] = field(default_factory=dict)
    new: int = 0
    known: int = 0
    mended: int = 0


Record = RunStart | ClauseInfo | TargetInfo | Result | Universal | Event | Interrupted | End


@dataclass(frozen=True, slots=True)
class Problem:
    """Something about the record itself. `torn`: the file ends in the middle of a line. `grave`: something is lost."""

    line: int
    text: str
    torn: bool = False
    grave: bool = True


# ----------------------------------------------------------------------------------------------------------- the writer


def _cut(text: str, limit: int) -> str:
    """`text` with its middle taken out, saying so, when it is longer than `limit` characters."""
    if len(text) <= limit:
        return text
    kept = limit // 2
    return f"{text[:kept]}\n[... {len(text) - 2 * kept} characters left out ...]\n{text[-kept:]}"


def _plain(value: object, string_max: int, list_max: int, depth: int = 0) -> object:
    """`value` as what JSON can say, bounded; whatever it is, there is an answer."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        number = int(value)
        return number if number.bit_length() <= _INT_MAX_BITS else f"[an integer of {number.bit_length()} bits]"
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, str):
        return _cut(str.__str__(value), string_max)
    if isinstance(value, bytes | bytearray | memoryview):
        return _cut(bytes(value).hex(), string_max)
    if depth > _DEPTH_MAX:
        return "[nested too deeply]"
    if is_dataclass(value) and not isinstance(value, type):
        named = {f.name.rstrip("_"): getattr(value, f.name) for f in fields(value)}
        return {k: _plain(v, string_max, list_max, depth + 1) for k, v in named.items()}
    if isinstance(value, Mapping):
        items = list(value.items())[:list_max]
        return {_cut(str(k), 200): _plain(v, string_max, list_max, depth + 1) for k, v in items}
    if isinstance(value, Iterable):
        out: list[object] = []
        for item in value:
            if len(out) >= list_max:
                break
            out.append(_plain(item, string_max, list_max, depth + 1))
        return out
    try:
        return _cut(repr(value), string_max)
    except Exception:
        return f"[a {type(value).__name__}]"


def encode(record: Record | Mapping[str, object]) -> bytes:
    """The line of a record with its newline: ASCII, at most LINE_MAX_BYTES. What does not fit is cut; text says so."""
    kind: object
    if isinstance(record, Mapping):
        kind = record.get("kind", "")
        source: object = {k: v for k, v in record.items() if k != "kind"}
    else:
        kind, source = record.KIND, record
    for string_max, list_max in ((_STRING_MAX, _LIST_MAX), (4096, 500), (512, 100), (64, 20), (64, 0)):
        body = _plain(source, string_max, list_max)
        assert isinstance(body, dict)
        line = json.dumps({"kind": str(kind), **body}, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
        if len(line) < LINE_MAX_BYTES:
            return line.encode("ascii") + b"\n"
    raise AssertionError("a record without its lists fits a line")


class Writer:
    """Appends records to `path`, each with one write of one whole line, so that what is written survives a kill.

    Several processes may hold a Writer on one path; after a fork each opens its own. Raises OSError (a full disk);
    a line left torn by that is closed off before the next one.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._torn = _ends_torn(self.path)
        self._fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def write(self, record: Record | Mapping[str, object]) -> None:
        """Append one record. Odd values in it never raise."""
        line = encode(record)
        if self._torn:
            line = b"\n" + line
        self._torn = True
        while line:
            line = line[os.write(self._fd, line) :]
        self._torn = False

    def close(self) -> None:
        """Put what was written on the disk, and close. A second call does nothing."""
        if self._fd < 0:
            return
        with contextlib.suppress(OSError):
            os.fsync(self._fd)
        os.close(self._fd)
        self._fd = -1

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _ends_torn(path: Path) -> bool:
    """Whether the file ends inside a line."""
    try:
        with path.open("rb") as handle:
            if handle.seek(0, os.SEEK_END) == 0:
                return False
            handle.seek(-1, os.SEEK_END)
            return handle.read(1) != b"\n"
    except FileNotFoundError:
        return False


# ----------------------------------------------------------------------------------------------------------- the reader


class _Unusable(Exception):
    """The record lacks what it cannot do without."""


class _Source:
    """One JSON object, asked for its fields; what is odd about them is collected in `odd`."""

    def __init__(self, obj: Mapping[str, object], odd: list[str]) -> None:
        self._obj = obj
        self.odd = odd

    def _complain(self, key: str, value: object) -> None:
        if len(self.odd) < 8:
            self.odd.append(f"{key!r} is a {type(value).__name__}")

    def has(self, key: str) -> bool:
        return self._obj.get(key) is not None

    def text(self, key: str, default: str = "") -> str:
        value = self._obj.get(key)
        if value is None:
            return default
        if isinstance(value, str):
            return value
        if isinstance(value, list):
            return ", ".join(str(item) for item in value[:_LIST_MAX])
        if isinstance(value, dict):
            self._complain(key, value)
            return default
        return str(value)

    def needed(self, key: str) -> str:
        value = self.text(key)
        if not value:
            raise _Unusable(f"it has no {key!r}")
        return value

    def one_of(self, key: str, known: Sequence[str], otherwise: str) -> str:
        value = self.text(key)
        if value in known:
            return value
        self.odd.append(f"{key!r} is {value[:40]!r}, taken for {otherwise!r}")
        return otherwise

    def whole(self, key: str) -> int:
        value = self._obj.get(key)
        number = _integer(value)
        if number is None:
            if value is not None:
                self._complain(key, value)
            return 0
        return number

    def real(self, key: str) -> float:
        value = self._obj.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            with contextlib.suppress(OverflowError):
                if math.isfinite(float(value)):
                    return float(value)
        if value is not None:
            self._complain(key, value)
        return 0.0

    def flag(self, key: str) -> bool:
        value = self._obj.get(key)
        if value is not None and not isinstance(value, bool):
            self._complain(key, value)
        return value is True

    def texts(self, key: str) -> tuple[str, ...]:
        value = self._obj.get(key)
        if value is None or value == "":
            return ()
        if isinstance(value, str):
            return (value,)
        if isinstance(value, list):
            return tuple(item if isinstance(item, str) else str(item) for item in value)
        self._complain(key, value)
        return ()

    def sub(self, key: str) -> _Source | None:
        value = self._obj.get(key)
        if isinstance(value, dict):
            return _Source(value, self.odd)
        if value is not None:
            self._complain(key, value)
        return None

    def subs(self, key: str) -> list[_Source]:
        value = self._obj.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            self._complain(key, value)
            return []
        for item in value:
            if not isinstance(item, dict):
                self._complain(key, item)
        return [_Source(item, self.odd) for item in value if isinstance(item, dict)]

    def raw(self, key: str) -> object:
        return self._obj.get(key)


def _integer(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return int(value)
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return int(value, 0)
    return None


def _run_start(s: _Source) -> RunStart:
    nsvm, host = s.sub("nsvm") or _Source({}, s.odd), s.sub("host") or _Source({}, s.odd)
    schema = s.whole("schema")
    if schema != SCHEMA:
        s.odd.append(f"its schema is {schema}, this reader knows {SCHEMA}")
    return RunStart(
        run_id=s.text("run_id"),
        started=s.text("started"),
        schema=schema,
        argv=s.texts("argv"),
        nsvm=NsvmInfo(
            version=nsvm.text("version"),
            commit=nsvm.text("commit") if nsvm.has("commit") else None,
            dirty=nsvm.flag("dirty"),
        ),
        python=s.text("python"),
        host=HostInfo(os=host.text("os"), cpu=host.text("cpu")),
    )


def _clause_info(s: _Source) -> ClauseInfo:
    return ClauseInfo(
        id=s.needed("id"),
        bit=s.text("bit"),
        statement=s.text("statement"),
        alias=s.text("alias"),
        apm=s.text("apm"),
        class_=s.text("class"),
        condition=s.text("condition"),
        trust=s.texts("trust"),
        hardware=s.text("hardware"),
        note=s.text("note"),
    )


def _target_info(s: _Source) -> TargetInfo:
    rows: list[CpuidRow] = []
    listed = s.raw("cpuid")
    for item in listed if isinstance(listed, list) else []:
        numbers = [_integer(n) for n in item] if isinstance(item, list) else []
        whole = [n for n in numbers if n is not None and 0 <= n < 1 << 32]
        if len(whole) == len(numbers) == 6:
            rows.append((whole[0], whole[1], whole[2], whole[3], whole[4], whole[5]))
        else:
            s.odd.append("'cpuid' has a row that is not six 32-bit numbers")
    return TargetInfo(
        target=s.needed("target"),
        worker=s.text("worker"),
        version=s.text("version"),
        command=s.texts("command"),
        baselines=s.texts("baselines"),
        executor_build=s.text("executor_build"),
        cpuid=tuple(rows),
        edx=s.whole("edx"),
        boots=s.whole("boots"),
    )


def _check(s: _Source) -> Check:
    baseline = s.sub("baseline")
    return Check(
        clause=s.text("clause"),
        verdict=s.one_of("verdict", VERDICTS, "ERROR"),
        news=s.one_of("news", NEWS, "new") if s.has("news") else "ok",
        universal=s.flag("universal"),
        baseline=None
        if baseline is None
        else BaselineRef(reason=baseline.text("reason"), reference=baseline.text("reference")),
        summary=s.text("summary"),
    )


def _evidence(s: _Source) -> Evidence:
    return Evidence(
        title=s.text("title"),
        rows=tuple(
            Row(
                name=r.text("name"),
                expected=r.text("expected"),
                got=r.text("got"),
                meaning=r.text("meaning"),
                ok=r.flag("ok"),
            )
            for r in s.subs("rows")
        ),
        code=tuple(
            CodeLine(addr=c.text("addr"), bytes=c.text("bytes"), text=c.text("text"), mark=c.text("mark"))
            for c in s.subs("code")
        ),
        frames=s.texts("frames"),
        log=s.text("log"),
        l0_log=s.text("l0_log"),
    )


def _result(s: _Source) -> Result:
    fresh = s.sub("fresh")
    return Result(
        test=s.needed("test"),
        target=s.text("target", "(no target)"),
        verdict=s.one_of("verdict", VERDICTS, "ERROR"),
        worker=s.text("worker"),
        clauses=s.texts("clauses"),
        news=s.one_of("news", NEWS, "new") if s.has("news") else "ok",
        reason=s.text("reason"),
        duration_s=s.real("duration_s"),
        scenario=s.text("scenario"),
        checks=tuple(_check(c) for c in s.subs("checks")),
        evidence=tuple(_evidence(e) for e in s.subs("evidence")),
        fresh=None
        if fresh is None
        else Fresh(
            state=fresh.text("state", "not-needed"),
            shared_verdict=fresh.text("shared_verdict"),
            shared_reason=fresh.text("shared_reason"),
        ),
        rerun=s.text("rerun"),
    )


def _universal(s: _Source) -> Universal:
    return Universal(
        target=s.text("target", "(no target)"),
        clause=s.needed("clause"),
        checked=max(0, s.whole("checked")),
        failed=max(0, s.whole("failed")),
    )


def _event(s: _Source) -> Event:
    return Event(target=s.text("target"), what=s.needed("what"), worker=s.text("worker"), detail=s.text("detail"))


def _interrupted(s: _Source) -> Interrupted:
    return Interrupted(reason=s.text("reason"))


def _end(s: _Source) -> End:
    counts = s.raw("counts")
    counted = {str(k): _integer(v) or 0 for k, v in counts.items()} if isinstance(counts, dict) else {}
    return End(
        finished=s.text("finished"),
        duration_s=s.real("duration_s"),
        exit_status=s.whole("exit_status"),
        counts=counted,
        new=s.whole("new"),
        known=s.whole("known"),
        mended=s.whole("mended"),
    )


_DECODERS: Final[Mapping[str, Callable[[_Source], Record]]] = {
    "run": _run_start,
    "clause": _clause_info,
    "target": _target_info,
    "result": _result,
    "universal": _universal,
    "event": _event,
    "interrupted": _interrupted,
    "end": _end,
}

_KIND_START: Final = b'{"kind":'  # cannot stand inside a JSON string, where the quotes would be escaped


def _no_constant(name: str) -> None:
    """NaN and the infinities are not JSON; they read as null."""


def _parse(line: bytes) -> Mapping[str, object] | None:
    try:
        value = json.loads(line.decode("utf-8", errors="replace"), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _decode(number: int, obj: Mapping[str, object]) -> Iterator[Record | Problem]:
    kind = obj.get("kind")
    decoder = _DECODERS.get(kind) if isinstance(kind, str) else None
    if decoder is None:
        yield Problem(number, f"line {number} is of a kind this reader does not know: {str(kind)[:40]!r}", grave=False)
        return
    source = _Source(obj, [])
    try:
        record = decoder(source)
    except _Unusable as error:
        yield Problem(number, f"line {number}, a {kind} record, is left out: {error}")
        return
    yield record
    if source.odd:
        yield Problem(number, f"line {number}, a {kind} record: {'; '.join(source.odd[:4])}", grave=False)


def read(path: str | os.PathLike[str]) -> Iterator[Record | Problem]:
    """The records of a file as they come, with a Problem for each line that is not one. Raises OSError."""
    with open(path, "rb") as handle:
        number = 0
        while line := handle.readline(LINE_MAX_BYTES + 1):
            number += 1
            whole = line.endswith(b"\n")
            if not whole and len(line) > LINE_MAX_BYTES:
                while (rest := handle.readline(LINE_MAX_BYTES)) and not rest.endswith(b"\n"):
                    pass
                yield Problem(number, f"line {number} is longer than {LINE_MAX_BYTES} bytes and was skipped")
                continue
            if not line.strip():
                continue
            obj = _parse(line)
            if obj is not None:
                yield from _decode(number, obj)
                continue
            # A writer died in mid-line; another one's record may be glued to what it left.
            at = line.rfind(_KIND_START)
            glued = _parse(line[at:]) if at > 0 else None
            if glued is not None:
                yield Problem(number, f"line {number} begins with a torn record, which is lost")
                yield from _decode(number, glued)
            elif not whole:
                yield Problem(
                    number, f"the record ends in the middle of line {number}: its writer was killed", torn=True
                )
            else:
                yield Problem(number, f"line {number} is not a record ({len(line)} bytes): it was torn or damaged")


@dataclass
class Run:
    """A whole run record in memory."""

    start: RunStart | None = None
    clauses: dict[str, ClauseInfo] = field(default_factory=dict)
    targets: list[TargetInfo] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    universals: list[Universal] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    interrupted: list[Interrupted] = field(default_factory=list)
    end: End | None = None
    problems: list[Problem] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether the run came to its end by itself or by its user's wish; without an End it was killed."""
        return self.end is not None


def collect(records: Iterable[Record | Problem]) -> Run:
    """Sort records into a Run."""
    run = Run()
    targets: dict[tuple[str, str], TargetInfo] = {}
    for record in records:
        match record:
            case RunStart():
                if run.start is None:
                    run.start = record
                elif run.start.run_id != record.run_id:
                    text = (
                        f"the file holds a second run ({record.run_id!r}); its results are mixed with the first one's"
                    )
                    run.problems.append(Problem(0, text))
            case ClauseInfo():
                run.clauses[record.id] = record
            case TargetInfo():
                targets[record.target, record.worker] = record
            case Result():
                run.results.append(record)
            case Universal():
                run.universals.append(record)
            case Event():
                run.events.append(record)
            case Interrupted():
                run.interrupted.append(record)
            case End():
                run.end = record
            case Problem():
                run.problems.append(record)
    run.targets = list(targets.values())
    return run


def load(path: str | os.PathLike[str]) -> Run:
    """The whole record of a run. Raises OSError if there is no such file."""
    return collect(read(path))
