"""What went over a link lately, for people to read: bounded, printable."""

from __future__ import annotations

from collections import deque

from harness.link.frames import (
    ENCODED_MAX,
    NOTE_MAX,
    BadFrame,
    Decoded,
    Message,
    MessageType,
    Noise,
    RefusedReason,
)
from harness.text import printable

TEXT_KEPT = 16 * 1024  # bytes on the console that are no frame
NOTES_KEPT = 32
FRAMES_KEPT = 24
SHOWN_BYTES = 24  # of a frame


class Transcript:
    """The last frames both ways, the last notes, the end of the console's text."""

    def __init__(self) -> None:
        self._text = bytearray()
        self._notes: deque[str] = deque(maxlen=NOTES_KEPT)
        self._frames: deque[tuple[str, Decoded]] = deque(maxlen=FRAMES_KEPT)

    def sent(self, message: Message) -> None:
        """Remembers what was sent."""
        self._frames.append(("->", message))

    def came(self, item: Decoded) -> None:
        """Remembers what came."""
        if not isinstance(item, Noise):
            self._frames.append(("<-", item))
        if not isinstance(item, Message):
            self._text += item.data[-TEXT_KEPT:]
            del self._text[:-TEXT_KEPT]
        elif item.type == MessageType.NOTE:
            self._notes.append(printable(item.body, NOTE_MAX))

    @property
    def notes(self) -> tuple[str, ...]:
        """What the executor wanted a person to know."""
        return tuple(self._notes)

    def forget_notes(self) -> None:
        """They have been read."""
        self._notes.clear()

    def text(self, pending: bytes) -> str:
        """The end of what is no frame, `pending` being the last that came."""
        return printable(bytes(self._text) + pending)

    @property
    def frames(self) -> tuple[str, ...]:
        """The last messages both ways, oldest first, one line each."""
        return tuple(f"{way} {show(item)}" for way, item in self._frames)


def reason_name(reason: int) -> str:
    """A REFUSED reason in words."""
    return RefusedReason(reason).name if reason in RefusedReason._value2member_map_ else f"reason {reason}"


def show(item: Decoded) -> str:
    """One line about one item."""
    if isinstance(item, Noise):
        return f"noise, {len(item.data)} bytes"
    if isinstance(item, BadFrame):
        return f"bad frame, {item.reason}, {min(len(item.data), ENCODED_MAX)} bytes: {item.data[:SHOWN_BYTES].hex(' ')}"
    name = MessageType(item.type).name if item.type in MessageType._value2member_map_ else f"type {item.type:02x}h"
    if item.type == MessageType.NOTE:
        return f"NOTE: {printable(item.body, NOTE_MAX)}"
    if item.type == MessageType.REFUSED and item.body:
        return f"REFUSED seq {item.seq}: {reason_name(item.body[0])}"
    part = ""
    body = item.body
    if item.type == MessageType.ANSWER and len(body) >= 4:
        part = f" {int.from_bytes(body[:2], 'little') + 1}/{int.from_bytes(body[2:4], 'little')}"
        body = body[4:]
    more = " ..." if len(body) > SHOWN_BYTES else ""
    return f"{name} seq {item.seq}{part}, {len(body)} bytes: {body[:SHOWN_BYTES].hex(' ')}{more}"
