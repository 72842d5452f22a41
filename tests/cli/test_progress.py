"""Progress is read from what pytest prints and from the record as it grows."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from harness.cli.progress import Counts, Lines, Tail, planned_tests


@pytest.mark.parametrize(
    ("output", "planned"),
    [
        (b"", None),
        (b"collecting ... collected 12 items\n", 12),
        (b"collected 1 item\n", 1),
        (b"collected 120 items / 100 deselected / 20 selected\n", 20),
        (b"created: 2/2 workers\n2 workers [433 items]\n", 433),
        (b"1 worker [5 items]\n", 5),
        (b"a test says: 7 things [9 items]\n", None),
    ],
)
def test_the_number_of_planned_tests(output: bytes, planned: int | None) -> None:
    assert planned_tests(output) == planned


def test_a_record_is_read_as_it_grows_by_whole_lines_only(tmp_path: Path) -> None:
    record = tmp_path / "run.jsonl"
    tail = Tail(record)
    assert tail.poll() == []

    record.write_bytes(b'{"kind": "run"}\n{"kind": "re')
    assert tail.poll() == [{"kind": "run"}]

    with open(record, "ab") as file:
        file.write(b'sult"}\nnoise\n[1]\n')
    assert tail.poll() == [{"kind": "result"}]
    assert tail.poll() == []


def result(test: str, verdict: str, news: str, reason: str = "") -> dict[str, str]:
    return {"kind": "result", "test": test, "verdict": verdict, "news": news, "reason": reason}


def test_what_a_person_waits_for_is_told_at_once_and_the_rest_counted() -> None:
    counts = Counts("qemu-tcg")

    assert counts.take(result("t::a", "PASS", "ok")) is None
    assert counts.take(result("t::b", "FAIL", "known")) is None
    assert counts.take(result("t::c", "SKIP", "skipped")) is None
    assert counts.take(result("t::d", "HANG", "new", "nothing came")) == "new HANG   t::d: nothing came"
    assert counts.take(result("t::e", "ERROR", "ok", "no code")) == "ERROR      t::e: no code"
    neighbour = [{"clause": "core.exit.x", "news": "known"}, {"clause": "core.a", "news": "mended"}]
    mended = result("t::f", "FAIL", "mended", "core.exit.x: got 1") | {"checks": neighbour}
    assert counts.take(mended) == "mended     t::f: core.a"
    assert counts.take({"kind": "event", "what": "crash", "detail": "gone"}) is None

    assert len(counts.tests) == 6
    assert counts.summary() == "1 new, 1 mended, 1 lost, 1 known, 1 skipped"


def test_what_a_target_said_cannot_act_on_the_terminal() -> None:
    told = Counts("qemu-tcg").take(result("t::a[\x1b]0;x\x07]", "FAIL", "new", "got \x1b[2J\u202e" + "x" * 9000))

    assert told is not None and told.isprintable() and len(told) < 700
    assert r"got \x1b[2J\u202e" in told


def test_a_log_gets_a_line_for_each_new_thing_up_to_a_bound_and_one_at_the_end() -> None:
    stream = io.StringIO()
    lines = Lines(stream)
    counts = Counts("bochs", total=3)
    counts.take(json.loads(json.dumps(result("t::a", "PASS", "ok"))))
    lines.show(counts)
    for number in range(100):
        lines.line(f"new FAIL t::{number}")
    lines.close()

    told = stream.getvalue().splitlines()
    assert len(told) == 14
    assert told[-2] == "  and 88 more: the report has them all"
    assert told[-1].startswith("bochs: 1/3 tests, nothing new, ")
