"""The parts of a picture file that are not pixels: found by walking the container, unpacked within bounds.

Nothing here raises on a damaged or hostile file: what cannot be read is left out, and `Parts.problems` says so.

References: ITU-T T.81 Annex B (JPEG); W3C PNG third edition, 11.3.3 (tEXt, zTXt, iTXt); RFC 9649 (WebP);
    GIF89a; Adobe XMP Specification Part 3 (ISO 16684-1) for where XMP lies in each of them.
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass, field
from typing import Final

from services.common._image_containers import png_chunks
from services.common.errors import PentimentoError
from services.passive._metadata.text import clean, decode

__all__ = ["MAX_TEXT", "Parts", "inflate", "read_parts"]

MAX_TEXT: Final = 4 * 1024 * 1024
"""Most bytes of one text, inflated. A large ComfyUI workflow has 1 MB."""
MAX_TEXTS: Final = 200
"""Most texts and comments of one file."""
MAX_INFLATED: Final = 8 * 1024 * 1024
"""Most bytes that the compressed texts of one file are inflated to, all together."""
MAX_SEGMENTS: Final = 4_000
"""Most JPEG segments, or WebP chunks, that are walked."""
MAX_XMP: Final = 2 * 1024 * 1024
"""Longest XMP packet that is read."""
MAX_LISTED: Final = 80
"""Most part names that are kept in `Parts.structure`."""

_NEXT_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")
_MARKER_NAMES: Final = {0xC4: "DHT", 0xCC: "DAC", 0xDA: "SOS", 0xDB: "DQT", 0xDD: "DRI", 0xFE: "COM"}
_XMP_HEADER: Final = b"http://ns.adobe.com/xap/1.0/\x00"
_IRB_HEADER: Final = b"Photoshop 3.0\x00"


@dataclass(slots=True, kw_only=True)
class Parts:
    """What a file holds beside its pixels.

    Attributes:
        exif: the TIFF structure of the EXIF block, or empty.
        xmp: the XMP packet, or empty.
        irb: Photoshop's image resource blocks, or empty.
        texts: (keyword, text) of PNG's text chunks.
        comments: JPEG COM segments, GIF comment blocks.
        structure: names of the parts in the order of the file ("APP1 Exif", "DQT", "IDAT", ...), repeats once.
        trailing_bytes: bytes behind the end of the picture.
        problems: what could not be read, a sentence each.
    """

    exif: bytes = b""
    xmp: bytes = b""
    irb: bytes = b""
    texts: list[tuple[str, str]] = field(default_factory=list)
    comments: list[str] = field(default_factory=list)
    structure: list[str] = field(default_factory=list)
    trailing_bytes: int = 0
    problems: list[str] = field(default_factory=list)

    def note(self, name: str) -> None:
        """Adds a part's name to `structure`, unless it repeats the one before."""
        if len(self.structure) < MAX_LISTED and self.structure[-1:] != [name]:
            self.structure.append(name)

    def complain(self, problem: str) -> None:
        """Adds a problem, once."""
        if problem not in self.problems and len(self.problems) < MAX_LISTED:
            self.problems.append(problem)


def read_parts(content: bytes, image_format: str) -> Parts:
    """Walks a file of the given format ("JPEG", "PNG", "WEBP", "GIF") and answers with what is not pixels."""
    parts = Parts()
    walk = {"JPEG": _walk_jpeg, "PNG": _walk_png, "WEBP": _walk_webp, "GIF": _walk_gif}.get(image_format)
    if walk is not None:
        try:
            walk(content, parts)
        except (struct.error, IndexError, PentimentoError):
            parts.complain("The file's structure ends early or is broken.")
    if len(parts.xmp) > MAX_XMP:
        parts.xmp = b""
        parts.complain("The XMP packet is too long to be read.")
    return parts


def inflate(packed: bytes, limit: int, *, window: int = zlib.MAX_WBITS) -> bytes | None:
    """The first `limit` bytes of a deflated stream; None if it is broken."""
    try:
        return zlib.decompressobj(window).decompress(packed, max(1, limit))
    except zlib.error:
        return None


def _walk_jpeg(content: bytes, parts: Parts) -> None:
    position = 2
    for _ in range(MAX_SEGMENTS):
        match = _NEXT_MARKER.search(content, position)
        if match is None:
            return
        marker, start = content[match.end() - 1], match.end()
        if marker in {0xD8, 0xD9}:
            position = start
            continue
        (length,) = struct.unpack_from(">H", content, start)
        body = content[start + 2 : start + max(2, length)]
        parts.note(_jpeg_part(marker, body, parts))
        if marker == 0xDA:
            break
        position = start + max(2, length)
    else:
        parts.complain("The JPEG file has too many segments.")
    end = content.rfind(b"\xff\xd9")
    parts.trailing_bytes = len(content) - end - 2 if end >= 0 else 0


def _jpeg_part(marker: int, body: bytes, parts: Parts) -> str:
    """Keeps what a segment holds; answers with its name."""
    if 0xE0 <= marker <= 0xEF:
        return _jpeg_application(marker - 0xE0, body, parts)
    if marker == 0xFE and len(parts.comments) < MAX_TEXTS:
        parts.comments.append(decode(body))
    if 0xC0 <= marker <= 0xCF and marker not in _MARKER_NAMES:
        return f"SOF{marker - 0xC0}"
    return _MARKER_NAMES.get(marker, f"marker {marker:02X}")


def _jpeg_application(number: int, body: bytes, parts: Parts) -> str:
    if number == 1 and body.startswith(b"Exif\x00"):
        parts.exif = parts.exif or body[6:]
        return "APP1 Exif"
    if number == 1 and body.startswith(_XMP_HEADER):
        parts.xmp = parts.xmp or body[len(_XMP_HEADER) :]
        return "APP1 XMP"
    if number == 13 and body.startswith(_IRB_HEADER):
        parts.irb += body[len(_IRB_HEADER) :]
        return "APP13 Photoshop"
    label = clean(re.split(rb"[^ -~]", body[:24], maxsplit=1)[0], 24)
    return f"APP{number} {label}".strip()


def _walk_png(content: bytes, parts: Parts) -> None:
    budget = MAX_INFLATED
    end_of_picture = 0
    for kind, start, end in png_chunks(content):
        parts.note(clean(kind, 8))
        if end > len(content):
            parts.complain("The PNG file ends within a chunk.")
            return
        if kind == b"eXIf":
            parts.exif = parts.exif or content[start:end].removeprefix(b"Exif\x00\x00")
        elif kind in {b"tEXt", b"zTXt", b"iTXt"}:
            budget -= _png_text(kind, content[start : min(end, start + MAX_TEXT)], parts, budget)
        elif kind == b"IEND":
            end_of_picture = end + 4
    if end_of_picture:
        parts.trailing_bytes = max(0, len(content) - end_of_picture)


def _png_text(kind: bytes, chunk: bytes, parts: Parts, budget: int) -> int:
    """Keeps a text chunk; answers with the number of bytes that it was inflated to."""
    keyword, _, rest = chunk.partition(b"\x00")
    packed = kind == b"zTXt"
    if kind == b"zTXt":
        rest = rest[1:]
    elif kind == b"iTXt":
        packed = rest[:1] == b"\x01"
        rest = rest[2:].split(b"\x00", 2)[-1]
    if len(parts.texts) >= MAX_TEXTS or (packed and budget <= 0):
        parts.complain("The PNG file holds more text than is read.")
        return 0
    if packed:
        inflated = inflate(rest, min(MAX_TEXT, budget))
        if inflated is None:
            parts.complain("A compressed text of the PNG file is broken.")
            return 0
        if len(inflated) >= min(MAX_TEXT, budget):
            parts.complain("A compressed text of the PNG file is too long to be read whole.")
        rest = inflated
    name = clean(keyword, 79)
    if name == "XML:com.adobe.xmp":
        parts.xmp = parts.xmp or rest
    elif name.lower().startswith("raw profile type ") and (raw := _raw_profile(rest)):
        _keep_raw_profile(name.lower(), raw, parts)
    else:
        parts.texts.append((name, decode(rest)))
    return len(rest) if packed else 0


def _raw_profile(text: bytes) -> bytes:
    """ImageMagick's way of putting EXIF, IPTC and XMP into a PNG: a name, a length, and hexadecimal digits."""
    fields = text.split(None, 2)
    if len(fields) < 3:
        return b""
    try:
        return bytes.fromhex(fields[2].decode("ascii", "ignore"))
    except ValueError:
        return b""


def _keep_raw_profile(name: str, raw: bytes, parts: Parts) -> None:
    if name.endswith(("exif", "app1")):
        if raw.startswith(_XMP_HEADER):
            parts.xmp = parts.xmp or raw[len(_XMP_HEADER) :]
        else:
            parts.exif = parts.exif or raw.removeprefix(b"Exif\x00\x00")
    elif name.endswith(("iptc", "8bim")):
        parts.irb = parts.irb or raw
    elif name.endswith("xmp"):
        parts.xmp = parts.xmp or raw


def _walk_webp(content: bytes, parts: Parts) -> None:
    end_of_file = min(len(content), 8 + int(struct.unpack_from("<I", content, 4)[0]))
    parts.trailing_bytes = len(content) - end_of_file
    position = 12
    for _ in range(MAX_SEGMENTS):
        if position + 8 > end_of_file:
            return
        kind, length = struct.unpack_from("<4sI", content, position)
        body = content[position + 8 : position + 8 + length]
        parts.note(clean(kind, 8).strip())
        if kind == b"EXIF":
            parts.exif = parts.exif or body.removeprefix(b"Exif\x00\x00")
        elif kind == b"XMP ":
            parts.xmp = parts.xmp or body
        position += 8 + length + (length & 1)
    parts.complain("The WebP file has too many chunks.")


def _walk_gif(content: bytes, parts: Parts) -> None:
    """Finds comments and XMP by their headers; the blocks between are image data."""
    start = content.find(b"\x21\xff\x0bXMP DataXMP")
    if start >= 0:
        end = content.find(b"<?xpacket end", start)
        parts.xmp = content[start + 14 : end if end >= 0 else start + 14 + MAX_XMP]
        parts.note("XMP")
    for match in re.finditer(rb"\x21\xfe", content):
        text, position = b"", match.end()
        while position < len(content) and (length := content[position]) and len(text) < 64 * 1024:
            text += content[position + 1 : position + 1 + length]
            position += 1 + length
        # Image data may hold the same two bytes; what follows is then hardly ever text.
        if len(text) >= 4 and all(32 <= byte < 127 or byte in b"\t\r\n" for byte in text):
            parts.comments.append(decode(text))
            parts.note("comment")
        if len(parts.comments) >= MAX_TEXTS:
            return
