"""Text of unknown origin (consoles, logs, test ids) made fit to be shown: bounded, and nothing in it acts."""

from __future__ import annotations

REPLACEMENT_NOTE = "[... {} characters left out ...]"


def visible(text: str, keep: str = "") -> str:
    r"""`text` with every character that does not print spelt out: \x1b, \u202e. Those in `keep` stay.

    What comes back holds no control, bidirectional, surrogate, private or unassigned character, so that it is valid
    in XML 1.0, harmless to a terminal, and reads in the order in which it was written.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else _spelt(c) for c in text)


def _spelt(character: str) -> str:
    match character:
        case "\n":
            return "\\n"
        case "\r":
            return "\\r"
        case "\t":
            return "\\t"
    number = ord(character)
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def printable(data: bytes, limit: int = 4096) -> str:
    """The end of `data`, at most `limit` bytes of it, with everything but plain text escaped; lines are kept."""
    tail = data[-limit:].replace(b"\r\n", b"\n")
    return "".join(chr(byte) if byte == 0x0A or 0x20 <= byte < 0x7F else f"\\x{byte:02x}" for byte in tail)


def line(text: str, limit: int = 400) -> str:
    """One line of at most about `limit` characters."""
    text = text.strip("\r\n")
    if len(text) > limit:
        text = f"{text[: limit - 1]}…"
    return visible(text)


def block(text: str, limit: int = 6000) -> str:
    """Lines, of at most about `limit` characters: the end of a log says more than its beginning, so the end is kept."""
    text = text.replace("\r\n", "\n").strip("\n")
    if len(text) > limit:
        text = REPLACEMENT_NOTE.format(len(text) - limit) + "\n" + text[-limit:]
    return visible(text, keep="\n\t")


def ends(text: str, limit: int = 8000) -> str:
    """Lines, of at most about `limit` characters: the beginning, where a cause is named, and the end of a long text."""
    text = text.replace("\r\n", "\n").strip("\n")
    if len(text) > limit:
        head = limit * 2 // 5
        left_out = REPLACEMENT_NOTE.format(len(text) - limit)
        text = f"{text[:head]}\n{left_out}\n{text[len(text) - (limit - head) :]}"
    return visible(text, keep="\n\t")
