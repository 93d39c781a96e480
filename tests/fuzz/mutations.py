"""How a file is damaged: blindly, byte by byte, or as somebody would who knows the format.

The second kind changes, drops, repeats, exchanges and adds parts (JPEG segments, PNG and WebP chunks) and puts lengths
and checksums right again, for a reader that stops at the first wrong length never shows what lies behind it.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Final

from services.common._image_containers import PNG_SIGNATURE

__all__ = ["LARGEST", "mutate"]

LARGEST: Final = 1024 * 1024
"""Most bytes of a mutated file."""

Part = tuple[bytes, bytes]
"""A segment or chunk: its name (a marker, a type) and its body."""

_NUMBERS: Final = (0, 1, 2, 3, 7, 8, 12, 63, 64, 127, 128, 255, 256, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF,
                   0x80000000, 0xFFFFFFF0, 0xFFFFFFFF)  # fmt: skip
_WORDS: Final = (
    b"parameters\x00", b"prompt\x00", b"workflow\x00", b"Comment\x00", b"AIGC\x00", b"stealth_pnginfo", b"8BIM\x04\x04",
    b"Exif\x00\x00II*\x00\x08\x00\x00\x00", b"Exif\x00\x00MM\x00*\x00\x00\x00\x08", b"\x1c\x02\x78\x7f\xff", b"{", b"[",
    b'{"nodes":[', b'":{"', b"\xff\xd8\xff", b"\xff\xd9", b"\xff\xda", b"\xff\x00", b"<!DOCTYPE a [", b"&a;",
    b"<rdf:li>", b"]]>", b"Steps: 9, Seed: ", b"UNICODE\x00", b"Raw profile type exif\x00",
    b"XML:com.adobe.xmp\x00\x01\x00", b"digitalsourcetype/trainedAlgorithmicMedia", b"jumb", b"jumd", b"c2pa",
    b"NaN", b"1e999", b"9" * 40, b"\x00" * 16,
)  # fmt: skip


def mutate(content: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """A damaged copy; `others` are files that parts may be taken from."""
    damaged = content
    for _ in range(1 + min(int(rng.expovariate(0.8)), 6)):
        by_parts = _CONTAINERS.get(_kind(damaged))
        if by_parts is not None and rng.random() < 0.6:
            damaged = by_parts(damaged, others, rng)
        else:
            damaged = _bytes(damaged, others, rng)
    return damaged[:LARGEST]


def _kind(content: bytes) -> str:
    if content.startswith(b"\xff\xd8"):
        return "JPEG"
    if content.startswith(PNG_SIGNATURE):
        return "PNG"
    return "WEBP" if content[:4] == b"RIFF" and content[8:12] == b"WEBP" else ""


def _bytes(content: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """One blind change somewhere."""
    if not content:
        return rng.randbytes(8)
    body = bytearray(content)
    # Headers lie at the beginning, and what is read there decides most.
    reach = len(body) if rng.random() < 0.5 else min(len(body), 600)
    place = rng.randrange(reach)
    length = min(len(body) - place, 1 + int(rng.expovariate(0.05)))
    match rng.randrange(9):
        case 0:
            body[place] ^= 1 << rng.randrange(8)
        case 1:
            body[place] = rng.choice((0, 1, 0x7F, 0x80, 0xFE, 0xFF, rng.randrange(256)))
        case 2:
            code = rng.choice((">H", "<H", ">I", "<I"))
            number = rng.choice(_NUMBERS) & (0xFFFF if code[1] == "H" else 0xFFFFFFFF)
            body[place : place + struct.calcsize(code)] = struct.pack(code, number)
        case 3:
            body[place:place] = rng.choice(_WORDS)
        case 4:
            word = rng.choice(_WORDS)
            body[place : place + len(word)] = word
        case 5:
            del body[place : place + length]
        case 6:
            body[place:place] = bytes(body[place : place + length]) * rng.choice((1, 1, 2, 50))
        case 7:
            other = rng.choice(others)
            start = rng.randrange(max(1, len(other)))
            body[place : place + length] = other[start : start + length]
        case _:
            del body[place:]
    return bytes(body)


def _parts(parts: list[Part], donated: Sequence[Part], others: Sequence[bytes], rng: random.Random) -> list[Part]:
    """One change to a list of parts; the first (a header) stays first."""
    if not parts:
        return parts
    at = rng.randrange(len(parts))
    name, body = parts[at]
    match rng.randrange(8):
        case 0:
            del parts[at]
        case 1:
            parts.insert(rng.randrange(len(parts) + 1), parts[at])
        case 2:
            parts[at : at + 1] = [parts[at]] * rng.choice((2, 3, 200))
        case 3 if donated:
            parts.insert(rng.randrange(len(parts) + 1), rng.choice(donated))
        case 4:
            other = rng.randrange(len(parts))
            parts[at], parts[other] = parts[other], parts[at]
        case _:
            parts[at] = (name, _bytes(body, others, rng))
    return parts


def _jpeg(content: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    parts, rest = _read_jpeg(content)
    donated = [part for part in _read_jpeg(rng.choice(others))[0] if part[0] not in {b"\xc0", b"\xc2"}]
    changed = _parts(parts, donated, others, rng)
    written = [b"\xff" + name + struct.pack(">H", len(body[:65533]) + 2) + body[:65533] for name, body in changed]
    return b"\xff\xd8" + b"".join(written) + rest


def _read_jpeg(content: bytes) -> tuple[list[Part], bytes]:
    """The segments before the first scan, and all that follows."""
    parts: list[Part] = []
    position = 2
    while content[:2] == b"\xff\xd8" and position + 4 <= len(content) and content[position] == 0xFF:
        end = position + 2 + int.from_bytes(content[position + 2 : position + 4], "big")
        if content[position + 1] == 0xDA or end > len(content) or end < position + 4:
            break
        parts.append((content[position + 1 : position + 2], content[position + 4 : end]))
        position = end
    return parts, content[position:]


def _png(content: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    changed = _parts(_read_png(content), _read_png(rng.choice(others)), others, rng)
    written = [
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in changed
    ]
    return PNG_SIGNATURE + b"".join(written)


def _read_png(content: bytes) -> list[Part]:
    parts: list[Part] = []
    position = len(PNG_SIGNATURE)
    while content.startswith(PNG_SIGNATURE) and position + 8 <= len(content):
        length = int.from_bytes(content[position : position + 4], "big")
        parts.append((content[position + 4 : position + 8], content[position + 8 : position + 8 + length]))
        position += 12 + length
    return parts


def _webp(content: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    changed = _parts(_read_webp(content), _read_webp(rng.choice(others)), others, rng)
    written = [name + struct.pack("<I", len(body)) + body + b"\x00" * (len(body) & 1) for name, body in changed]
    inner = b"WEBP" + b"".join(written)
    return b"RIFF" + struct.pack("<I", len(inner)) + inner


def _read_webp(content: bytes) -> list[Part]:
    parts: list[Part] = []
    position = 12
    while _kind(content) == "WEBP" and position + 8 <= len(content):
        length = int.from_bytes(content[position + 4 : position + 8], "little")
        parts.append((content[position : position + 4], content[position + 8 : position + 8 + length]))
        position += 8 + length + (length & 1)
    return parts


_CONTAINERS: Final[dict[str, Callable[[bytes, Sequence[bytes], random.Random], bytes]]] = {
    "JPEG": _jpeg,
    "PNG": _png,
    "WEBP": _webp,
}
