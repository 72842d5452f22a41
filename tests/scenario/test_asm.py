"""Assembly: bytes and labels are those that `as` gives alone, in whatever company a snippet is assembled."""

from __future__ import annotations

import pytest

from harness.scenario.asm import Assembler, AssemblyError, Snippet


@pytest.fixture
def assembler(tmp_path):
    return Assembler(tmp_path / "cache")


def test_bytes_and_labels(assembler):
    done = assembler.one(Snippet("start: nop\nafter: ud2", 64, 0x1000))

    assert done.code == b"\x90\x0f\x0b"
    assert done.labels == {"start": 0x1000, "after": 0x1001}


@pytest.mark.parametrize(("bits", "code"), [(16, "b83412"), (32, "66b83412"), (64, "66b83412")])
def test_each_mode_has_its_own_encoding(assembler, bits, code):
    assert assembler.one(Snippet("mov ax, 0x1234", bits, 0)).code.hex() == code


def test_same_labels_in_many_snippets_do_not_meet(assembler):
    snippets = [Snippet("nop\n" * n + "here: jmp here", 64, 0x2000 * n) for n in range(1, 20)]

    done = assembler.many(snippets)

    assert [each.labels["here"] for each in done] == [0x2000 * n + n for n in range(1, 20)]
    assert {each.code[-2:] for each in done} == {b"\xeb\xfe"}
    assert assembler.processes == 1


def test_absolute_addresses_of_labels_are_resolved(assembler):
    done = assembler.one(Snippet("mov eax, offset there\nthere: nop", 64, 0x80_0000))

    assert done.code == b"\xb8" + (0x80_0005).to_bytes(4, "little") + b"\x90"


def test_numeric_labels_stay_within_their_snippet(assembler):
    first, second = assembler.many([Snippet("1: jmp 1b", 64, 0), Snippet("nop\n1: jmp 1b", 64, 0)])

    assert (first.code, second.code) == (b"\xeb\xfe", b"\x90\xeb\xfe")


def test_a_label_may_be_called_like_an_instruction(assembler):
    done = assembler.one(Snippet("hlt: hlt; cpuid: data16 cpuid\njmp cpuid", 64, 0))

    assert done.code == b"\xf4\x66\x0f\xa2\xeb\xfb"
    assert done.labels == {"hlt": 0, "cpuid": 1}


def test_two_labels_may_name_one_place(assembler):
    done = assembler.one(Snippet("nop\nfirst: second: third:\nhlt; mov eax, fs:[ebx]", 64, 0))

    assert done.labels == {"first": 1, "second": 1, "third": 1}


def test_cache_serves_another_assembler(assembler, tmp_path):
    snippet = Snippet("x: cpuid", 64, 0x500)
    assembler.one(snippet)
    other = Assembler(tmp_path / "cache")

    assert other.one(snippet).labels == {"x": 0x500}
    assert other.processes == 0


def test_damaged_cache_entry_is_made_anew(assembler, tmp_path):
    snippet = Snippet("cpuid", 64, 0)
    assembler.one(snippet)
    for path in (tmp_path / "cache").rglob("*"):
        if path.is_file():
            path.write_text('{"code": "zz')

    assert Assembler(tmp_path / "cache").one(snippet).code == b"\x0f\xa2"


def test_complaint_names_the_line(assembler):
    with pytest.raises(AssemblyError, match=r"line 2 `frobnicate rax`"):
        assembler.many([Snippet("nop", 64, 0), Snippet("nop\nfrobnicate rax", 64, 0)])


def test_prefetch_keeps_the_good_ones(assembler):
    good, bad = Snippet("good: nop", 64, 0), Snippet("frobnicate", 64, 0)

    assembler.prefetch([good, bad])
    before = assembler.processes

    assert assembler.one(good).code == b"\x90"
    assert assembler.processes == before
