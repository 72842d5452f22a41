"""EVENTINJ and EXITINTINFO: packing, names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.svm import (
    Event,
    EventType,
    inject_exception,
    inject_interrupt,
    inject_nmi,
    inject_software,
    pushes_error_code,
    vector_name,
    vector_number,
)


@given(
    st.integers(0, 7), st.integers(0, 255), st.none() | st.integers(0, 0xFFFF_FFFF), st.booleans(),
    st.integers(0, 0x7FFFF).map(lambda n: n << 12),
)  # fmt: skip
def test_round_trip(type_, vector, error_code, valid, reserved):
    event = Event(type_, vector, error_code, valid, reserved)

    assert Event.unpack(event.pack()) == event


@given(st.integers(0, (1 << 64) - 1))
def test_unpack_keeps_everything_but_an_error_code_without_ev(value):
    expected = value if value >> 11 & 1 else value & 0xFFFF_FFFF

    assert Event.unpack(value).pack() == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (inject_exception("#GP", 0), 0x8000_0B0D),
        (inject_exception("#PF", 2), 0x2_8000_0B0E),
        (inject_exception(6), 0x8000_0306),
        (inject_interrupt(0x40), 0x8000_0040),
        (inject_software(0x80), 0x8000_0480),
        (inject_nmi(), 0x8000_0202),
    ],
)
def test_injections(value, expected):
    assert value == expected


@pytest.mark.parametrize("bad", [(8, 0), (0, 256), (3, -1)])
def test_what_does_not_fit_is_refused(bad):
    with pytest.raises(ValueError, match="does not fit"):
        Event(*bad).pack()


def test_error_code_and_reserved_must_fit():
    with pytest.raises(ValueError, match="32 bits"):
        Event(3, 13, 1 << 32).pack()
    with pytest.raises(ValueError, match="outside"):
        Event(3, 13, reserved=1 << 31).pack()


def test_names():
    assert vector_name(13) == "#GP"
    assert vector_name(32) == "vector 32"
    assert vector_number("#gp") == 13
    with pytest.raises(ValueError, match="no exception"):
        vector_number("#XX")


def test_error_code_vectors():
    assert [v for v in range(32) if pushes_error_code(v)] == [8, 10, 11, 12, 13, 14, 17, 21, 29, 30]


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (Event(EventType.EXCEPTION, 14, 2), "exception #PF [2h]"),
        (Event(EventType.INTR, 0x40), "INTR vector 64"),
        (Event(5, 3), "reserved type 5 vector 3"),
        (Event(0, 0, valid=False), "no event"),
    ],
)
def test_text(event, text):
    assert str(event) == text
