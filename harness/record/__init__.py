"""The run record: `run.jsonl`, one JSON object a line, "kind" first. Everything a report says comes from it.

The writer appends one whole line with one write, so a run that is killed loses at most the line it was writing,
and several processes may write to one file. The reader streams, and takes what it can: a torn or unreadable line,
an unknown kind, a missing or odd field becomes a Problem and never ends the reading. A record without an End is
of a run that was cut short, and `Run.complete` says so.
"""

from __future__ import annotations

from harness.record.kinds import (
    AFTER_OTHERS,
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
    Problem,
    Result,
    Row,
    RunStart,
    Scope,
    SetField,
    Setup,
    TargetInfo,
    Universal,
)
from harness.record.reader import read
from harness.record.run import Run, collect, load
from harness.record.verdicts import BAD_VERDICTS, LOST_VERDICTS, NEWS, VERDICTS, News, Verdict, worst, worst_news
from harness.record.writer import FILE_NAME, LINE_MAX_BYTES, Writer, encode

__all__ = [
    "AFTER_OTHERS",
    "BAD_VERDICTS",
    "FILE_NAME",
    "LINE_MAX_BYTES",
    "LOST_VERDICTS",
    "NEWS",
    "SCHEMA",
    "VERDICTS",
    "BaselineRef",
    "Check",
    "ClauseInfo",
    "CodeLine",
    "CpuidRow",
    "End",
    "Event",
    "Evidence",
    "Fresh",
    "HostInfo",
    "Interrupted",
    "Line",
    "News",
    "NsvmInfo",
    "Problem",
    "Result",
    "Row",
    "Run",
    "RunStart",
    "Scope",
    "SetField",
    "Setup",
    "TargetInfo",
    "Universal",
    "Verdict",
    "Writer",
    "collect",
    "encode",
    "load",
    "read",
    "worst",
    "worst_news",
]
