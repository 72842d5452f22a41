"""Bytes in a record: compressed, as text. What is read back is bounded, whatever the text holds."""

from __future__ import annotations

import base64
import zlib


def pack(data: bytes) -> str:
    """The bytes as text."""
    return base64.b64encode(zlib.compress(data, 9)).decode()


def unpack(text: str, size: int) -> bytes | None:
    """The bytes again if there are exactly `size` of them; None for anything else."""
    try:
        data = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), size + 1)
    except (ValueError, zlib.error):
        return None
    return data if len(data) == size else None
