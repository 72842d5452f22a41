"""Scenarios: what is compiled for a boot leaves exactly the memory that was asked for, in fewer bytes."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.guest import images
from harness.scenario import places, steps
from harness.scenario.scenario import Page, Scenario, Templates, compile_items, differing_runs, memory
from tests.fake_l1 import FakeL1

pages = st.dictionaries(st.integers(0, 4095), st.integers(0, 255), max_size=12)


def page_of(changes: dict[int, int], ground: bytes = bytes(4096)) -> bytes:
    page = bytearray(ground)
    for at, byte in changes.items():
        page[at] = byte
    return bytes(page)


@given(old=pages, new=pages, join=st.integers(0, 20))
def test_differing_runs_cover_the_differences_and_little_more(old, new, join):
    before, after = page_of(old), page_of(new)

    runs = differing_runs(before, after, join)

    patched = bytearray(before)
    for start, end in runs:
        assert before[start] != after[start]
        assert before[end - 1] != after[end - 1]
        patched[start:end] = after[start:end]
    assert bytes(patched) == after
    assert all(right[0] - left[1] > join for left, right in pairwise(runs))


@given(first=pages, second=pages)
def test_pages_arrive_whole_with_and_without_a_template(first, second):
    template = images.vmcb_image("long64")
    machine, templates = FakeL1(), Templates()
    for changes in (first, second):
        wanted = page_of(changes, bytes(template.data))
        for like in (bytes(template.data), None):
            compiled = compile_items([Page(places.VMCB, wanted, like)], templates)
            machine.respond(steps.encode_list(compiled))
            assert bytes(machine.memory[places.VMCB : places.VMCB + 4096]) == wanted


def test_a_template_makes_the_second_page_small():
    good = bytes(images.vmcb_image("long64").data)
    templates = Templates()
    first = steps.encode_list(compile_items([Page(places.VMCB, good, good)], templates))

    second = steps.encode_list(compile_items([Page(places.VMCB, page_of({0x58: 0}, good), good)], templates))

    assert len(first) > 300
    assert len(second) < 64


def test_more_templates_than_slots_still_work():
    templates, machine = Templates(), FakeL1()
    for n in range(200):
        wanted = page_of({0: n, 9: 1})
        machine.respond(steps.encode_list(compile_items([Page(places.VMCB, wanted, wanted)], templates)))
        assert bytes(machine.memory[places.VMCB : places.VMCB + 4096]) == wanted


def patterned(period: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=period, max_size=period).map(lambda piece: piece * (4096 // period))


@given(
    data=st.one_of(st.binary(max_size=9000), st.sampled_from([2, 4, 8, 16, 64]).flatmap(patterned)),
    again=st.integers(1, 3),
)
def test_memory_arrives_whole_whatever_it_holds(data, again):
    machine, templates = FakeL1(), Templates()
    for n in range(again):
        addr = places.SCRATCH + 0x10000 * n + 24
        machine.memory[addr - 1 : addr + len(data) + 1] = b"\x5a" * (len(data) + 2)
        machine.respond(steps.encode_list(compile_items(memory(addr, data), templates)))
        assert bytes(machine.memory[addr - 1 : addr + len(data) + 1]) == b"\x5a" + data + b"\x5a"


def test_what_is_written_in_bulk_goes_over_the_line_once():
    table = bytes(n * n >> 3 & 0xFF for n in range(5000))
    templates = Templates()
    first, second = (len(steps.encode_list(compile_items(memory(places.SCRATCH, table), templates))) for _ in range(2))

    assert first > 4000
    assert second < 80


@pytest.mark.parametrize("piece", [b"\x00", b"\xff", b"\x0f\x01\xd9\x90", bytes(range(16))])
def test_what_repeats_itself_is_small_even_the_first_time(piece):
    compiled = compile_items(memory(places.SCRATCH, piece * (4096 // len(piece))), Templates())

    assert len(steps.encode_list(compiled)) < 400


@pytest.mark.parametrize("change", ["page", "step", "order"])
def test_digest_notices_any_change(change):
    items = [Page(places.VMCB, page_of({5: 7})), steps.rdmsr(0xC0000080)]
    changed = {
        "page": [Page(places.VMCB, page_of({5: 8})), items[1]],
        "step": [items[0], steps.rdmsr(0xC0000081)],
        "order": items[::-1],
    }

    assert Scenario(changed[change]).digest() != Scenario(items).digest()
