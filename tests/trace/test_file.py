"""A trace is read as it was written; what is damaged, cut short or no trace is refused in one line."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import pytest

from harness.link.hello import Hello
from harness.scenario.steps import Op, Record, Status
from harness.svm import Cpuid
from harness.trace.answers import Lost, Recorded, pack
from harness.trace.file import SYNTHETIC, Header, TraceError, read_header, read_trace, write_trace

HELLO = Hello(1, 0, 1, bytes(16), 9, 0, 0, 4096, 4096, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, Cpuid({(0, 0): (1, 2, 3, 4)}))
ANSWER = [Record(Op.MEM_READ, Status.OK, 3, b"abc")]
LOST = Lost("CRASH", "reset", "it was reset")
HEADER = Header(
    target="metal:zen4", nature="silicon", family=0x19, model=0x11, baselines=("metal",), l0_version=(1, 2),
    witnesses={"core.a": (3, 0)},
)  # fmt: skip


def recorded(test: str = "suites/t.py::a", **more: object) -> Recorded:
    return Recorded(test, "metal:zen4", "CRASH", "new", pack(HELLO, [ANSWER, LOST]), "gone", asked=("1", "2"), **more)  # type: ignore[arg-type]


def test_a_trace_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "t.nsvmtrace"
    skipped = Recorded("suites/t.py::b", "metal:zen4", "SKIP", "skipped", reason="AVIC is missing")
    write_trace(path, HEADER, [skipped, recorded(watchdog_us=5, after_others=True)])
    trace = read_trace(path)

    assert read_header(path) == trace.header
    assert (trace.header.cpu, trace.header.silicon) == ("family 19h model 11h", True)
    assert (trace.header.tests, trace.header.witnesses) == (2, {"core.a": (3, 0)})
    one = trace.entries["suites/t.py::a"]
    assert (one.verdict, one.news, one.reason, one.asked) == ("CRASH", "new", "gone", ["1", "2"])
    assert (one.watchdog_us, one.after_others) == (5, True)
    assert one.calls() == [ANSWER, LOST]
    assert trace.hello(one) == trace.hello(trace.entries["suites/t.py::b"]) == HELLO
    assert trace.entries["suites/t.py::b"].calls() == []


def test_a_hello_stands_there_once(tmp_path: Path) -> None:
    path = tmp_path / "t.nsvmtrace"
    write_trace(path, HEADER, [recorded(f"suites/t.py::{n}") for n in range(5)])

    header = json.loads(lzma.decompress(path.read_bytes()).splitlines()[0])
    assert len(header["hellos"]) == 1


def test_nothing_answered_is_no_trace(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no test was answered"):
        write_trace(tmp_path / "t", HEADER, [])
    assert not list(tmp_path.iterdir())


def change(path: Path, at: int, **changed: object) -> None:
    """Another value in one line of a trace."""
    lines = lzma.decompress(path.read_bytes()).splitlines()
    lines[at] = json.dumps({**json.loads(lines[at]), **changed}).encode()
    path.write_bytes(lzma.compress(b"\n".join(lines) + b"\n"))


@pytest.mark.parametrize(
    ("at", "changed", "complaint"),
    [
        (0, {"format": "tar"}, "is no trace of nsvm"),
        (0, {"version": 2}, "of version 2; this nsvm reads version 1"),
        (0, {"tests": 2}, "cut short: it has 1 of 2 tests"),
        (0, {"nature": "gold"}, "silicon or synthetic, not 'gold'"),
        (0, {"hellos": ["AAAA"]}, "is damaged"),
        (0, {"witnesses": 7}, "is damaged"),
        (1, {"asked": ["1"]}, "2 answers to 1 questions"),
        (1, {"hello": 4}, "a hello that is not there"),
    ],
)
def test_a_damaged_trace_is_refused(tmp_path: Path, at: int, changed: dict[str, object], complaint: str) -> None:
    path = tmp_path / "t.nsvmtrace"
    write_trace(path, HEADER, [recorded()])
    change(path, at, **changed)

    with pytest.raises(TraceError, match=complaint):
        read_trace(path)


def test_what_a_later_version_adds_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "t.nsvmtrace"
    write_trace(path, HEADER, [recorded()])
    change(path, 0, weather="fine")

    assert read_trace(path).header.nature == "silicon"


@pytest.mark.parametrize("content", [b"", b"text", lzma.compress(b""), lzma.compress(b"7\n"), lzma.compress(b"{}\n")])
def test_what_is_no_trace_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "t"
    path.write_bytes(content)

    with pytest.raises(TraceError, match="no trace of nsvm"):
        read_trace(path)


def test_a_file_that_is_cut_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.nsvmtrace"
    write_trace(path, HEADER, [recorded(f"suites/t.py::{n}") for n in range(50)])
    path.write_bytes(path.read_bytes()[:-40])

    with pytest.raises(TraceError, match="no trace of nsvm, or damaged"):
        read_trace(path)
    with pytest.raises(TraceError, match="No such file"):
        read_trace(tmp_path / "nowhere")


def test_an_answer_that_is_damaged_is_refused_when_it_is_wanted(tmp_path: Path) -> None:
    path = tmp_path / "t.nsvmtrace"
    write_trace(path, HEADER, [recorded()])
    change(path, 1, calls=["AAAA", "!"])

    with pytest.raises(TraceError, match=r"answers to suites/t\.py::a cannot be read"):
        read_trace(path).entries["suites/t.py::a"].calls()


def test_clauses_show_what_silicon_has_witnessed(tmp_path: Path) -> None:
    from harness.cli.clauses import _hardware

    write_trace(tmp_path / "a.nsvmtrace", HEADER, [recorded()])
    against = {"core.a": (2, 1), "core.b": (1, 0)}
    write_trace(tmp_path / "b.nsvmtrace", Header(target="m", nature="silicon", witnesses=against), [recorded()])
    write_trace(
        tmp_path / "c.nsvmtrace", Header(target="q", nature=SYNTHETIC, witnesses={"core.c": (9, 0)}), [recorded()]
    )

    assert _hardware(tmp_path) == {
        "core.a": ["family 19h model 11h", "family 00h model 00h contradicts it in 1 of 3"],
        "core.b": ["family 00h model 00h"],
    }
