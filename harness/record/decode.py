"""From one line's JSON object to its record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from harness.record.kinds import (
    SCHEMA,
    BaselineRef,
    Check,
    ClauseInfo,
    CodeLine,
    CpuidRow,
    End,
    Event,
    Evidence,
    Fresh,
    HostInfo,
    Interrupted,
    Line,
    NsvmInfo,
    Result,
    Row,
    RunStart,
    Scope,
    SetField,
    Setup,
    TargetInfo,
    Universal,
)
from harness.record.source import Source, integer
from harness.record.verdicts import NEWS, VERDICTS


def _run_start(s: Source) -> RunStart:
    nsvm, host = s.sub("nsvm") or Source({}, s.odd), s.sub("host") or Source({}, s.odd)
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
        host=HostInfo(os=host.text("os"), cpu=host.text("cpu"), name=host.text("name")),
        shuffle=s.whole("shuffle") if s.has("shuffle") else None,
    )


def _clause_info(s: Source) -> ClauseInfo:
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


def _target_info(s: Source) -> TargetInfo:
    rows: list[CpuidRow] = []
    listed = s.raw("cpuid")
    for item in listed if isinstance(listed, list) else []:
        numbers = [integer(n) for n in item] if isinstance(item, list) else []
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
        msrs={str(k): str(v) for k, v in msrs.items()} if isinstance(msrs := s.raw("msrs"), dict) else {},
    )


def _check(s: Source) -> Check:
    baseline = s.sub("baseline")
    return Check(
        clause=s.text("clause"),
        verdict=s.one_of("verdict", VERDICTS, "ERROR"),
        news=s.one_of("news", NEWS, "new") if s.has("news") else "ok",
        universal=s.flag("universal"),
        baseline=None
        if baseline is None
        else BaselineRef(
            reason=baseline.text("reason"),
            reference=baseline.text("reference"),
            after_others=baseline.flag("after_others"),
            sometimes=baseline.flag("sometimes"),
        ),
        summary=s.text("summary"),
        rows=_rows(s),
    )


def _rows(s: Source) -> tuple[Row, ...]:
    return tuple(
        Row(
            name=r.text("name"),
            expected=r.text("expected"),
            got=r.text("got"),
            meaning=r.text("meaning"),
            ok=r.flag("ok"),
        )
        for r in s.subs("rows")
    )


def _evidence(s: Source) -> Evidence:
    return Evidence(
        title=s.text("title"),
        at=s.text("at"),
        source=s.text("source"),
        rows=_rows(s),
        code=tuple(
            CodeLine(addr=c.text("addr"), bytes=c.text("bytes"), text=c.text("text"), mark=c.text("mark"))
            for c in s.subs("code")
        ),
        setup=_setup(s.sub("setup")),
        frames=s.texts("frames"),
        log=s.text("log"),
        l0_log=s.text("l0_log"),
    )


def _setup(s: Source | None) -> Setup | None:
    if s is None:
        return None
    return Setup(
        good=s.text("good"),
        fields=_set_fields(s, "fields"),
        intercepts=s.texts("intercepts"),
        later=_set_fields(s, "later"),
        steps=s.texts("steps"),
        vmcb_after=s.text("vmcb_after"),
    )


def _set_fields(s: Source, key: str) -> tuple[SetField, ...]:
    return tuple(SetField(f.text("name"), f.text("good"), f.text("now"), f.text("bits")) for f in s.subs(key))


def _result(s: Source) -> Result:
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
            shared_verdict=fresh.one_of("shared_verdict", VERDICTS, "ERROR") if fresh.text("shared_verdict") else "",
            shared_reason=fresh.text("shared_reason"),
            fresh_verdict=fresh.one_of("fresh_verdict", VERDICTS, "ERROR") if fresh.text("fresh_verdict") else "",
            fresh_reason=fresh.text("fresh_reason"),
            after=fresh.texts("after"),
            before=fresh.whole("before"),
            how=fresh.text("how"),
        ),
        rerun=s.text("rerun"),
        line=s.whole("line"),
    )


def _scope(s: Source) -> Scope:
    return Scope(
        target=s.text("target", "(no target)"),
        chosen=max(0, s.whole("chosen")),
        there=max(0, s.whole("there")),
        chosen_by=s.texts("chosen_by"),
        options=s.texts("options"),
        ended_by=s.text("ended_by"),
    )


def _universal(s: Source) -> Universal:
    return Universal(
        target=s.text("target", "(no target)"),
        clause=s.needed("clause"),
        checked=max(0, s.whole("checked")),
        failed=max(0, s.whole("failed")),
    )


def _event(s: Source) -> Event:
    return Event(target=s.text("target"), what=s.needed("what"), worker=s.text("worker"), detail=s.text("detail"))


def _interrupted(s: Source) -> Interrupted:
    return Interrupted(reason=s.text("reason"))


def _end(s: Source) -> End:
    counts = s.raw("counts")
    counted = {str(k): integer(v) or 0 for k, v in counts.items()} if isinstance(counts, dict) else {}
    return End(
        finished=s.text("finished"),
        duration_s=s.real("duration_s"),
        exit_status=s.whole("exit_status"),
        counts=counted,
        new=s.whole("new"),
        known=s.whole("known"),
        mended=s.whole("mended"),
    )


DECODERS: Final[Mapping[str, Callable[[Source], Line]]] = {
    "run": _run_start,
    "clause": _clause_info,
    "target": _target_info,
    "scope": _scope,
    "result": _result,
    "universal": _universal,
    "event": _event,
    "interrupted": _interrupted,
    "end": _end,
}
