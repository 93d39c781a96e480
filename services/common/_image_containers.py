"""The containers that pictures come in (JPEG, PNG, WebP, GIF), walked without decoding a pixel.

`identify` tells the format by the content's first bytes. `read_header` then walks the parts of the file and answers
with a `Header`: all that must be known before memory is given to a picture. `bare` builds the smallest file with the
same pixels: image data and the tables that it needs, first frame only. Only that is given to the decoder, so that no
comment, text, thumbnail, vendor block or second picture can slow it down, fill its memory, or keep it from reading
pixels that are sound.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from services.common.errors import DamagedImage, UnsupportedFormat

__all__ = ["FORMATS", "GifFrame", "Header", "bare", "identify", "png_chunks", "read_gif", "read_header"]

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
"""The formats that this module can walk, in the order in which a person is told of them."""

MAX_PARTS = 250_000
"""Most parts (segments, chunks, sub-blocks) in one file. An honest 60 MB GIF has as many; a file of empty parts, made
to keep its reader busy, has more."""

MAX_SCANS = 100
"""Most scans in one JPEG. Encoders write up to about 12; each costs a pass over all pixels, however few its bytes."""

MAX_PROFILE_BYTES = 4 * 1024 * 1024
"""Longest colour profile that is unpacked; profiles of printing presses have 0.5 to 2 MB."""

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

_OTHER_SIGNATURES = (
    (0, b"BM", "BMP"),
    (0, b"II*\x00", "TIFF"),
    (0, b"MM\x00*", "TIFF"),
    (4, b"ftypavif", "AVIF"),
    (4, b"ftypheic", "HEIC"),
    (4, b"ftypheix", "HEIC"),
    (4, b"ftypmif1", "HEIF"),
    (0, b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (0, b"8BPS", "Photoshop"),
    (0, b"%PDF", "PDF"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a file says about its picture before any pixel is decoded.

    Attributes:
        format: one of `FORMATS`.
        width, height: as stored, before the orientation is applied.
        mode: "1", "L", "LA", "P", "RGB", "RGBA" or "CMYK", as stored.
        bits: per channel, as stored (of the palette's colours for "P").
        frames: 1, or more for an animation.
        has_alpha: True if some pixel may be transparent.
        exif: the TIFF structure of the EXIF block, or empty.
        icc_profile: the embedded colour profile, or empty.
    """

    format: str
    width: int
    height: int
    mode: str
    bits: int
    frames: int = 1
    has_alpha: bool = False
    exif: bytes = b""
    icc_profile: bytes = b""


def identify(content: bytes) -> str:
    """Tells the format by the first bytes: one of `FORMATS`, or the name of another known format, or "" if unknown."""
    if content.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if content.startswith(PNG_SIGNATURE):
        return "PNG"
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return "WEBP"
    if content.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    for offset, signature, name in _OTHER_SIGNATURES:
        if content.startswith(signature, offset):
            return name
    return ""


def read_header(content: bytes, image_format: str) -> Header:
    """Reads the header of `content`, which is of the given one of `FORMATS`.

    Raises:
        DamagedImage: the header is missing, contradicts itself or ends early.
        UnsupportedFormat: the variant of the format is not read here (12-bit or lossless JPEG).
    """
    try:
        return _READERS[image_format](content)
    except (struct.error, IndexError) as error:
        raise DamagedImage(f"The {image_format} file ends within its header.") from error


def bare(content: bytes, image_format: str) -> bytes:
    """The smallest file with the same pixels (of the first frame), for the decoder.

    A GIF's frame is placed at the origin of a canvas of its own size; `read_gif` tells where it belongs.

    Raises:
        DamagedImage: the image data is missing, truncated, or fails its checksum.
    """
    try:
        return _BARE[image_format](content)
    except (struct.error, IndexError) as error:
        raise DamagedImage(f"The {image_format} file ends early.") from error


# --- JPEG -------------------------------------------------------------------------------------------------------------

_SOF_MARKERS = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
_SOF_SUPPORTED = frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA})  # baseline, extended, progressive; Huffman or arithmetic
_SOS, _EOI = 0xDA, 0xD9
# Tables, frame headers, JFIF and Adobe markers (the last two decide on the colour transform).
_JPEG_KEPT = _SOF_MARKERS | {0xC4, 0xCC, 0xDB, 0xDD, 0xE0, 0xEE}
_NEXT_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")


def _jpeg_segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """Yields (marker, start, end) of each segment to the first scan's header, included; start is behind the marker."""
    position = 2
    for _ in range(MAX_PARTS):
        match = _NEXT_MARKER.search(content, position)
        if match is None:
            raise DamagedImage("The JPEG file ends before its image data.")
        marker, start = content[match.end() - 1], match.end()
        if marker == _EOI:
            raise DamagedImage("The JPEG file holds no image data.")
        if marker == 0xD8:
            position = start
            continue
        (length,) = struct.unpack_from(">H", content, start)
        end = start + length
        if length < 2 or end > len(content):
            raise DamagedImage("The JPEG file ends within its header.")
        yield marker, start, end
        if marker == _SOS:
            return
        position = end
    raise DamagedImage("The JPEG file has too many parts.")


def _read_jpeg(content: bytes) -> Header:
    frame: tuple[int, int, int, int] | None = None
    exif = b""
    profile: dict[int, bytes] = {}
    profile_parts = 0
    for marker, start, end in _jpeg_segments(content):
        if marker in _SOF_MARKERS:
            if frame is not None:
                raise DamagedImage("The JPEG file has two frame headers.")
            if marker not in _SOF_SUPPORTED:
                raise UnsupportedFormat(
                    "Lossless and hierarchical JPEG files are not read.", metadata={"format": "JPEG"}
                )
            if end - start < 8:
                raise DamagedImage("The JPEG file has a broken frame header.")
            frame = struct.unpack_from(">BHHB", content, start + 2)
        elif marker == 0xE1 and not exif and content.startswith(b"Exif\x00", start + 2):
            exif = content[start + 8 : end]
        elif marker == 0xE2 and content.startswith(b"ICC_PROFILE\x00", start + 2) and end - start > 16:
            profile[content[start + 14]] = content[start + 16 : end]
            profile_parts = content[start + 15]
    if frame is None:
        raise DamagedImage("The JPEG file has no frame header.")
    bits, height, width, channels = frame
    if bits != 8:
        raise UnsupportedFormat(f"JPEG files with {bits} bits per channel are not read.", metadata={"format": "JPEG"})
    mode = {1: "L", 3: "RGB", 4: "CMYK"}.get(channels)
    if mode is None or not width or not height:
        raise DamagedImage("The JPEG file has a broken frame header.")
    complete = profile_parts and sorted(profile) == list(range(1, profile_parts + 1))
    return Header(
        format="JPEG",
        width=width,
        height=height,
        mode=mode,
        bits=bits,
        exif=exif,
        icc_profile=b"".join(profile[part] for part in sorted(profile)) if complete else b"",
    )


def _bare_jpeg(content: bytes) -> bytes:
    parts = [b"\xff\xd8"]
    scan = len(content)
    for marker, start, end in _jpeg_segments(content):
        if marker == _SOS:
            scan = start - 2
        elif marker in _JPEG_KEPT:
            parts.append(content[start - 2 : end])
    scans, position = 0, scan
    for _ in range(MAX_PARTS):
        match = _NEXT_MARKER.search(content, position)
        if match is None or content[match.end() - 1] == _EOI:
            break
        scans += content[match.end() - 1] == _SOS
        if scans > MAX_SCANS:
            raise DamagedImage("The JPEG file has too many scans.", metadata={"limit": str(MAX_SCANS)})
        length = struct.unpack_from(">H", content, match.end())[0] if match.end() + 2 <= len(content) else 2
        position = match.end() + max(length, 2)
    else:
        raise DamagedImage("The JPEG file has too many parts.")
    parts.append(content[scan : match.end() if match else len(content)])
    return b"".join(parts)


# --- PNG --------------------------------------------------------------------------------------------------------------

_PNG_MODES = {0: "L", 2: "RGB", 3: "P", 4: "LA", 6: "RGBA"}
_PNG_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_TRANSPARENCY_BYTES = {0: 2, 2: 6}
"""Bytes that name the transparent grey or colour."""
_PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"


def png_chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yields (type, start, end) of the data of each chunk; `end` may lie behind the end of a truncated file."""
    position = len(PNG_SIGNATURE)
    for _ in range(MAX_PARTS):
        if position + 8 > len(content):
            return
        length, kind = struct.unpack_from(">I4s", content, position)
        start = position + 8
        yield kind, start, start + length
        if kind == b"IEND":
            return
        position = start + length + 4
    raise DamagedImage("The PNG file has too many parts.")


def _read_png(content: bytes) -> Header:
    width, height, depth, colour = _png_ihdr(content)
    frames, transparent, exif, profile = 1, False, b"", b""
    seen_data = False
    for kind, start, end in png_chunks(content):
        if kind == b"IDAT":
            seen_data = True
        elif kind == b"acTL" and not seen_data and end - start >= 4:
            frames = max(1, struct.unpack_from(">I", content, start)[0])
        elif kind == b"tRNS" and not seen_data:
            transparent = end - start >= _TRANSPARENCY_BYTES.get(colour, 0)
        elif kind == b"iCCP" and not seen_data:
            profile = _inflate_profile(content[start:end])
        elif kind == b"eXIf" and not exif:
            exif = content[start:end]
    mode = "1" if (depth, colour) == (1, 0) else _PNG_MODES[colour]
    return Header(
        format="PNG",
        width=width,
        height=height,
        mode=mode,
        bits=8 if mode == "P" else depth,
        frames=frames,
        has_alpha=transparent or colour >= 4,
        exif=exif,
        icc_profile=profile,
    )


def _png_ihdr(content: bytes) -> tuple[int, int, int, int]:
    length, kind = struct.unpack_from(">I4s", content, len(PNG_SIGNATURE))
    if kind != b"IHDR" or length != 13:
        raise DamagedImage("The PNG file has no header.")
    width, height, depth, colour, compression, filtering, interlace = struct.unpack_from(">IIBBBBB", content, 16)
    sound = 0 < width < 2**31 and 0 < height < 2**31 and depth in _PNG_DEPTHS.get(colour, ())
    if not sound or compression or filtering or interlace > 1:
        raise DamagedImage("The PNG file has a broken header.")
    return width, height, depth, colour


def _inflate_profile(chunk: bytes) -> bytes:
    """The profile in an iCCP chunk (name, 0, method, deflated profile), or empty if it is broken or too long."""
    _, _, packed = chunk.partition(b"\x00")
    try:
        inflater = zlib.decompressobj()
        profile = inflater.decompress(packed[1:], MAX_PROFILE_BYTES)
    except zlib.error:
        return b""
    return profile if inflater.eof else b""


def _bare_png(content: bytes) -> bytes:
    parts = [PNG_SIGNATURE]
    seen_data = has_palette = False
    for kind, start, end in png_chunks(content):
        if seen_data and kind != b"IDAT":
            break
        if kind not in (b"IHDR", b"PLTE", b"tRNS", b"IDAT"):
            continue
        if kind == b"IHDR" and len(parts) > 1:
            # The limits were held against the first; a decoder believes the last, and gives memory for it.
            raise DamagedImage("The PNG file has two headers.")
        if kind == b"tRNS" and end - start < _TRANSPARENCY_BYTES.get(_png_ihdr(content)[3], 0):
            continue  # Too short to name a colour: it says nothing, and a decoder would stumble over it.
        if end + 4 > len(content):
            raise DamagedImage("The PNG file ends within its image data.")
        (checksum,) = struct.unpack_from(">I", content, end)
        if zlib.crc32(memoryview(content)[start - 4 : end]) != checksum:
            raise DamagedImage("The PNG file fails its checksum.")
        seen_data = seen_data or kind == b"IDAT"
        has_palette = has_palette or kind == b"PLTE"
        parts.append(content[start - 8 : end + 4])
    if not seen_data:
        raise DamagedImage("The PNG file holds no image data.")
    if _png_ihdr(content)[3] == 3 and not has_palette:
        raise DamagedImage("The PNG file has no palette.")
    parts.append(_PNG_END)
    return b"".join(parts)


# --- WebP -------------------------------------------------------------------------------------------------------------


def _webp_chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    end_of_file = min(len(content), 8 + int(struct.unpack_from("<I", content, 4)[0]))
    position = 12
    for _ in range(MAX_PARTS):
        if position + 8 > end_of_file:
            return
        kind, length = struct.unpack_from("<4sI", content, position)
        start = position + 8
        yield kind, start, start + length
        position = start + length + (length & 1)
    raise DamagedImage("The WEBP file has too many parts.")


def _read_webp(content: bytes) -> Header:
    size: tuple[int, int] | None = None
    frames, alpha, exif, profile = 0, False, b"", b""
    for kind, start, end in _webp_chunks(content):
        if kind == b"VP8X" and size is None:
            alpha = bool(content[start] & 0x10)
            width = int.from_bytes(content[start + 4 : start + 7], "little") + 1
            height = int.from_bytes(content[start + 7 : start + 10], "little") + 1
            size = width, height
        elif kind == b"VP8 " and size is None:
            if content[start + 3 : start + 6] != b"\x9d\x01\x2a":
                raise DamagedImage("The WEBP file has a broken header.")
            width, height = struct.unpack_from("<HH", content, start + 6)
            size = width & 0x3FFF, height & 0x3FFF
        elif kind == b"VP8L" and size is None:
            (signature, bits) = struct.unpack_from("<BI", content, start)
            if signature != 0x2F:
                raise DamagedImage("The WEBP file has a broken header.")
            size = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
            alpha = bool(bits >> 28 & 1)
        elif kind == b"ANMF":
            frames += 1
        elif kind == b"EXIF" and not exif:
            exif = content[start:end].removeprefix(b"Exif\x00\x00")
        elif kind == b"ICCP" and not profile and end - start <= MAX_PROFILE_BYTES:
            profile = content[start:end]
    if size is None or not all(size):
        raise DamagedImage("The WEBP file has no header.")
    return Header(
        format="WEBP",
        width=size[0],
        height=size[1],
        mode="RGBA" if alpha else "RGB",
        bits=8,
        frames=max(1, frames),
        has_alpha=alpha,
        exif=exif,
        icc_profile=profile,
    )


def _bare_webp(content: bytes) -> bytes:
    (length,) = struct.unpack_from("<I", content, 4)
    if 8 + length > len(content):
        raise DamagedImage("The WEBP file ends within its image data.")
    return content[: 8 + length]


# --- GIF --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class GifFrame:
    """The first frame of a GIF: where it lies on the canvas, and where its parts lie in the file (start, end)."""

    left: int
    top: int
    width: int
    height: int
    flags: int
    control: bytes
    palette: tuple[int, int]
    data: tuple[int, int]


def read_gif(content: bytes) -> tuple[Header, GifFrame, tuple[int, int]]:
    """Walks all blocks of a GIF; answers with its header, its first frame, and where the global palette lies.

    Raises:
        DamagedImage: no frame, or the file ends within a block. A missing trailer is forgiven.
    """
    screen_width, screen_height, flags = struct.unpack_from("<HHB", content, 6)
    position = 13
    global_palette = position, position
    if flags & 0x80:
        global_palette = position, position + (3 << (flags & 7) + 1)
        position = global_palette[1]
    first: GifFrame | None = None
    frames, parts, control = 0, 0, b""
    while position < len(content):
        introducer = content[position]
        if introducer == 0x3B:
            break
        if introducer == 0x21:
            is_control = content[position + 1] == 0xF9
            block = position
            position, parts = _skip_sub_blocks(content, position + 2, parts)
            if is_control and position - block == 8:
                control = content[block:position]
        elif introducer == 0x2C:
            left, top, width, height, frame_flags = struct.unpack_from("<HHHHB", content, position + 1)
            palette_start = position + 10
            data_start = palette_start + (3 << (frame_flags & 7) + 1 if frame_flags & 0x80 else 0)
            position, parts = _skip_sub_blocks(content, data_start + 1, parts)
            if first is None:
                first = GifFrame(
                    left=left,
                    top=top,
                    width=width,
                    height=height,
                    flags=frame_flags,
                    control=control,
                    palette=(palette_start, data_start),
                    data=(data_start, position),
                )
            frames, control = frames + 1, b""
        else:
            raise DamagedImage("The GIF file has a broken block.")
    if first is None or not first.width or not first.height:
        raise DamagedImage("The GIF file holds no image data.")
    width = max(screen_width, first.left + first.width)
    height = max(screen_height, first.top + first.height)
    transparent = bool(first.control and first.control[3] & 1)
    uncovered = (first.width, first.height) != (width, height)
    header = Header(
        format="GIF",
        width=width,
        height=height,
        mode="P",
        bits=8,
        frames=frames,
        has_alpha=transparent or uncovered,
    )
    return header, first, global_palette


def _skip_sub_blocks(content: bytes, position: int, parts: int) -> tuple[int, int]:
    """Walks length-prefixed sub-blocks to behind their terminator; answers with that place and the count so far."""
    while length := content[position]:
        position += 1 + length
        parts += 1
        if parts > MAX_PARTS:
            raise DamagedImage("The GIF file has too many parts.")
    return position + 1, parts + 1


def _read_gif(content: bytes) -> Header:
    return read_gif(content)[0]


def _bare_gif(content: bytes) -> bytes:
    _, frame, global_palette = read_gif(content)
    start, end = global_palette
    return b"".join(
        (
            content[:6],
            struct.pack("<HH", frame.width, frame.height),
            content[10:13],
            content[start:end],
            frame.control,
            b"\x2c" + struct.pack("<HHHHB", 0, 0, frame.width, frame.height, frame.flags),
            content[frame.palette[0] : frame.palette[1]],
            content[frame.data[0] : frame.data[1]],
            b"\x3b",
        )
    )


_READERS = {"JPEG": _read_jpeg, "PNG": _read_png, "WEBP": _read_webp, "GIF": _read_gif}
_BARE = {"JPEG": _bare_jpeg, "PNG": _bare_png, "WEBP": _bare_webp, "GIF": _bare_gif}
