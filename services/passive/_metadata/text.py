"""Text out of a hostile file, made fit to be shown: bounded, one line, without control characters."""

from __future__ import annotations

import unicodedata
from typing import Any, Final

__all__ = ["SHOWN", "as_json", "clean", "decode"]

SHOWN: Final = 240
"""Most characters of a file's own text that are shown at one place."""

MAX_FACTS: Final = 120
"""Most facts of one mapping, or items of one list, that are shown."""

_MAX_DEPTH: Final = 6


def decode(raw: bytes) -> str:
    """Bytes as text: UTF-8 if they are, else Latin-1, which reads anything."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def clean(text: str | bytes, limit: int = SHOWN) -> str:
    """Text for a person: control, format and surrogate characters out, white space single, at most `limit` long."""
    text = decode(text[: 8 * limit]) if isinstance(text, bytes) else text[: 8 * limit]
    shown = "".join(" " if c.isspace() else c for c in text if c.isspace() or unicodedata.category(c)[0] != "C")
    shown = " ".join(shown.split())
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def as_json(value: Any, depth: int = 0) -> Any:
    """A value as bounded JSON: strings cleaned, bytes by their length, deep or long structures cut."""
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return _number(value)
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, dict) and depth < _MAX_DEPTH:
        return {clean(str(key), 80): as_json(item, depth + 1) for key, item in list(value.items())[:MAX_FACTS]}
    if isinstance(value, list | tuple) and depth < _MAX_DEPTH:
        return [as_json(item, depth + 1) for item in value[:MAX_FACTS]]
    return clean(value) if isinstance(value, str) else "…"


def _number(value: int) -> int | str:
    """Beyond 2**53 a JSON number loses digits, and a seed is worth nothing without them; Python limits their count."""
    if abs(value) <= 2**53:
        return value
    return str(value) if value.bit_length() <= 128 else f"a number of {value.bit_length()} bits"
