"""IPTC-IIM: the datasets inside Photoshop's image resource block 0x0404.

References: IPTC-NAA Information Interchange Model 4.2; Adobe Photoshop File Formats, image resource blocks.
"""

from __future__ import annotations

import struct
from typing import Final

from services.passive._metadata.text import clean, decode

__all__ = ["read_iptc"]

MAX_DATASETS: Final = 400

_NAMES: Final = {
    5: "ObjectName",
    25: "Keywords",
    40: "SpecialInstructions",
    55: "DateCreated",
    60: "TimeCreated",
    62: "DigitalCreationDate",
    63: "DigitalCreationTime",
    65: "OriginatingProgram",
    70: "ProgramVersion",
    80: "By-line",
    90: "City",
    95: "Province-State",
    101: "Country",
    105: "Headline",
    110: "Credit",
    115: "Source",
    116: "CopyrightNotice",
    120: "Caption-Abstract",
}


def read_iptc(irb: bytes) -> tuple[tuple[str, str], ...]:
    """(name, text) of each dataset of the application record; never raises."""
    found: list[tuple[str, str]] = []
    position = 0
    try:
        for _ in range(MAX_DATASETS):
            if irb[position : position + 4] != b"8BIM":
                break
            (kind,) = struct.unpack_from(">H", irb, position + 4)
            name_length = irb[position + 6] + 1
            position += 6 + name_length + (name_length & 1)
            (length,) = struct.unpack_from(">I", irb, position)
            position += 4
            if kind == 0x0404:
                found += _datasets(irb[position : position + length])
            position += length + (length & 1)
    except (struct.error, IndexError):
        pass  # A block that ends early: what was read before it stands.
    return tuple(found[:MAX_DATASETS])


def _datasets(block: bytes) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    position = 0
    while position + 5 <= len(block) and block[position] == 0x1C and len(found) < MAX_DATASETS:
        record, number, length = struct.unpack_from(">BBH", block, position + 1)
        if length & 0x8000:  # an extended dataset: megabytes of it are no text
            break
        if record == 2 and number in _NAMES:
            text = decode(block[position + 5 : position + 5 + length])
            found.append((_NAMES[number], clean(text, 4_000)))
        position += 5 + length
    return found
