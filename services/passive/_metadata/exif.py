"""EXIF: every directory of the TIFF structure, read within bounds.

References: CIPA DC-008-2023 (Exif 3.0); TIFF 6.0, section 2.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any, Final

from PIL import ExifTags

from services.passive._metadata.text import decode

__all__ = ["Exif", "read_exif"]

MAX_ENTRIES: Final = 1_500
"""Most entries, over all directories. A camera writes about 100."""
MAX_DIRECTORIES: Final = 16
MAX_VALUE: Final = 1024 * 1024
"""Longest value in bytes. The settings of a generator, in UserComment, have a few thousand."""
MAX_NUMBERS: Final = 64
"""Most numbers of one value that are kept."""
MAX_PROBLEMS: Final = 20

_SIZES: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 129: 1}
_CODES: Final = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 11: "f", 12: "d", 13: "I"}
_POINTERS: Final = {0x8769: "Exif", 0x8825: "GPS", 0xA005: "Interoperability"}
_MAKER_NOTE: Final = 0x927C
_USER_COMMENT: Final = 0x9286
_WINDOWS_TEXTS: Final = range(0x9C9B, 0x9CA0)
_GPS_TEXTS: Final = {0x1B, 0x1C}


@dataclass(slots=True)
class Exif:
    """What the directories say.

    Attributes:
        directories: "IFD0", "IFD1" (thumbnail), "Exif", "GPS", "Interoperability": tag name to value. A value is a
            str, an int, a float, a tuple of numbers, or bytes.
        problems: what could not be read, a sentence each.
    """

    directories: dict[str, dict[str, Any]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def get(self, name: str, directory: str | None = None) -> Any:
        """The value of a tag in this directory, or in IFD0 or Exif; None if it is absent."""
        for place in (directory,) if directory else ("IFD0", "Exif"):
            if name in self.directories.get(place, {}):
                return self.directories[place][name]
        return None

    def text(self, name: str, directory: str | None = None) -> str:
        """The same as stripped text; empty if it is absent or no text."""
        value = self.get(name, directory)
        return value.strip() if isinstance(value, str) else ""

    def number(self, name: str, directory: str | None = None) -> float | None:
        """The same as a number; of several, the first."""
        value = self.get(name, directory)
        value = value[0] if isinstance(value, tuple) and value else value
        return float(value) if isinstance(value, int | float) else None


def read_exif(tiff: bytes) -> Exif:
    """Reads a TIFF structure; never raises."""
    exif = Exif()
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None or len(tiff) < 8:
        if tiff:
            exif.problems.append("The EXIF block has no TIFF header.")
        return exif
    todo = [("IFD0", int(struct.unpack_from(f"{order}I", tiff, 4)[0]))]
    seen: set[int] = set()
    budget = MAX_ENTRIES
    while todo and len(seen) < MAX_DIRECTORIES and budget > 0:
        name, offset = todo.pop(0)
        if offset in seen or name in exif.directories:
            exif.problems.append(f"The EXIF directory {name} refers to itself or is there twice.")
            continue
        seen.add(offset)
        try:
            budget -= _read_directory(tiff, order, name, offset, exif=exif, todo=todo, budget=budget)
        except struct.error:
            exif.problems.append(f"The EXIF directory {name} ends early.")
    return exif


def _read_directory(
    tiff: bytes, order: str, name: str, offset: int, *, exif: Exif, todo: list[tuple[str, int]], budget: int
) -> int:
    """Reads one directory into `exif`, and puts those that it points to on the list; answers with its entries."""
    values: dict[str, Any] = {}
    exif.directories[name] = values
    count = int(struct.unpack_from(f"{order}H", tiff, offset)[0])
    entries = min(count, budget)
    names = ExifTags.GPSTAGS if name == "GPS" else ExifTags.TAGS
    for index in range(entries):
        place = offset + 2 + 12 * index
        tag, kind, length = struct.unpack_from(f"{order}HHI", tiff, place)
        size = _SIZES.get(kind, 0) * length
        if not size or size > MAX_VALUE:
            continue
        start = place + 8 if size <= 4 else int(struct.unpack_from(f"{order}I", tiff, place + 8)[0])
        raw = tiff[start : start + size]
        if len(raw) < size:
            exif.problems.append(f"A value of the EXIF directory {name} lies outside the file.")
            continue
        if tag in _POINTERS and name in {"IFD0", "Exif"} and kind in {4, 13}:
            todo.append((_POINTERS[tag], int(struct.unpack_from(f"{order}I", raw)[0])))
            continue
        values[names.get(tag, f"0x{tag:04X}")] = _value(raw, tag, kind, order, in_gps=name == "GPS")
    exif.problems[MAX_PROBLEMS:] = []
    if name == "IFD0" and entries == count:
        end = offset + 2 + 12 * count
        (following,) = struct.unpack_from(f"{order}I", tiff, end) if end + 4 <= len(tiff) else (0,)
        if following:
            todo.append(("IFD1", int(following)))
    return max(1, entries)


def _value(raw: bytes, tag: int, kind: int, order: str, *, in_gps: bool) -> Any:
    if kind in {2, 129}:
        return decode(raw.split(b"\x00\x00\x00", 1)[0].rstrip(b"\x00"))
    if not in_gps and tag in _WINDOWS_TEXTS:
        return raw.decode("utf-16-le", "replace").rstrip("\x00")
    if (not in_gps and tag == _USER_COMMENT) or (in_gps and tag in _GPS_TEXTS):
        return _coded_text(raw)
    if kind == 7 or tag == _MAKER_NOTE:
        return raw
    if kind in {5, 10}:
        code = "I" if kind == 5 else "i"
        pairs = struct.unpack(f"{order}{min(len(raw) // 8, MAX_NUMBERS) * 2}{code}", raw[: 8 * MAX_NUMBERS])
        numbers: tuple[float, ...] = tuple(
            above / below if below else 0.0 for above, below in zip(pairs[::2], pairs[1::2], strict=True)
        )
    else:
        width = _SIZES[kind]
        numbers = struct.unpack(
            f"{order}{min(len(raw) // width, MAX_NUMBERS)}{_CODES[kind]}", raw[: width * MAX_NUMBERS]
        )
    return numbers[0] if len(numbers) == 1 else numbers


def _coded_text(raw: bytes) -> str:
    """A text with an 8-byte code of its character set (Exif 3.0, 4.6.6); programs disagree on UTF-16's byte order."""
    code, body = raw[:8], raw[8:]
    if code.startswith(b"UNICODE"):
        big = body[0::2].count(0) >= body[1::2].count(0)
        return body.decode("utf-16-be" if big else "utf-16-le", "replace").rstrip("\x00")
    if code.startswith((b"ASCII\x00", b"JIS\x00")) or code == bytes(8):
        return decode(body).rstrip("\x00 ")
    return decode(raw).rstrip("\x00 ")
