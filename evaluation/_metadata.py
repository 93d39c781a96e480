"""Taking metadata out of a file, and putting another file's into it, without touching a pixel."""

from __future__ import annotations

import struct
import zlib

import numpy as np

from evaluation.forgery import Encoding
from services.common import _image_containers as containers
from services.common.images import ImageLimits, Picture, decode_image, inspect_image

__all__ = ["LIMITS", "decode", "strip_metadata", "transplant_exif"]

LIMITS = ImageLimits(
    max_bytes=512 * 1024 * 1024, max_pixels=200_000_000, formats=frozenset({"JPEG", "PNG", "WEBP", "GIF"})
)
"""An evaluation measures whatever it is given; a deployment's limits are not the question."""

_ORIENTATION = 0x0112
_SHORT = 3
_WEBP_METADATA = (b"EXIF", b"XMP ", b"C2PA")
_MAX_ICC_PART = 65_000


def decode(content: bytes) -> Picture:
    """The picture as every detector sees it (`services.common.images`), whatever its size."""
    return decode_image(content, LIMITS)


def strip_metadata(content: bytes) -> bytes:
    """The same pixels without EXIF, XMP, comments, texts and provenance manifests.

    What decides on the pixels stays: colour profile and orientation (in an EXIF block that says nothing else). JPEG,
    PNG and WebP keep their coded pixels bit by bit; a GIF becomes a PNG of its first frame.
    """
    kind = containers.identify(content)
    if kind in ("JPEG", "PNG"):
        profile = containers.read_header(content, kind).icc_profile
        orientation = inspect_image(content, LIMITS).exif_orientation
        exif = _orientation_only(orientation) if orientation != 1 else b""
        return _assembled(content, kind, exif=exif, icc_profile=profile)
    if kind == "WEBP":
        return _stripped_webp(content)
    return Encoding(format="png").encode(np.asarray(decode(content).rgb))


def transplant_exif(content: bytes, camera_file: bytes) -> bytes:
    """The picture with the EXIF block of a camera's JPEG in place of its own metadata.

    A JPEG or PNG keeps its coded pixels bit by bit; anything else, and a picture that is stored rotated, becomes a
    JPEG of quality 95 first. The block's orientation is set to upright, as who forges would.

    Raises:
        ValueError: the camera file is no JPEG with an EXIF block.
    """
    exif = b""
    if containers.identify(camera_file) == "JPEG":
        exif = containers.read_header(camera_file, "JPEG").exif
    if not exif:
        raise ValueError("the camera file is no JPEG with an EXIF block")
    kind = containers.identify(content)
    if kind not in ("JPEG", "PNG") or inspect_image(content, LIMITS).exif_orientation != 1:
        content = Encoding(quality=95, subsampling="4:4:4").encode(np.asarray(decode(content).rgb))
        kind = "JPEG"
    profile = containers.read_header(content, kind).icc_profile
    return _assembled(content, kind, exif=_upright(exif), icc_profile=profile)


def _orientation_entry(tiff: bytes) -> tuple[str, int] | None:
    """Byte order, and place of the entry that holds the orientation, in a TIFF structure; None if there is none."""
    order = {b"II*\x00": "<", b"MM\x00*": ">"}.get(tiff[:4])
    if order is None:
        return None
    try:
        (directory,) = struct.unpack_from(f"{order}I", tiff, 4)
        (entries,) = struct.unpack_from(f"{order}H", tiff, directory)
        for entry in range(entries):
            position = directory + 2 + 12 * entry
            tag, kind, _, _ = struct.unpack_from(f"{order}HHIH", tiff, position)
            if (tag, kind) == (_ORIENTATION, _SHORT):
                return order, position
    except struct.error:
        pass
    return None


def _upright(tiff: bytes) -> bytes:
    found = _orientation_entry(tiff)
    if found is None:
        return tiff
    order, position = found
    changed = bytearray(tiff)
    struct.pack_into(f"{order}H", changed, position + 8, 1)
    return bytes(changed)


def _orientation_only(orientation: int) -> bytes:
    """A TIFF structure with one directory of one entry."""
    return struct.pack("<2sHIHHHIHHI", b"II", 42, 8, 1, _ORIENTATION, _SHORT, 1, orientation, 0, 0)


def _assembled(content: bytes, kind: str, *, exif: bytes, icc_profile: bytes) -> bytes:
    """The bare JPEG or PNG with an EXIF block and a colour profile (either may be empty)."""
    bare = containers.bare(content, kind)
    if kind == "PNG":
        # After the signature (8 bytes) and IHDR (25): both chunks must precede the image data.
        chunks = _png_chunk(b"iCCP", b"icc\x00\x00" + zlib.compress(icc_profile)) if icc_profile else b""
        return bare[:33] + chunks + (_png_chunk(b"eXIf", exif) if exif else b"") + bare[33:]
    parts = [_jpeg_segment(0xE1, b"Exif\x00\x00" + exif)] if exif else []
    pieces = [icc_profile[start : start + _MAX_ICC_PART] for start in range(0, len(icc_profile), _MAX_ICC_PART)]
    for number, piece in enumerate(pieces, start=1):
        parts.append(_jpeg_segment(0xE2, b"ICC_PROFILE\x00" + bytes([number, len(pieces)]) + piece))
    # JFIF's own segment, where there is one, comes first.
    split = 2
    if bare[2:4] == b"\xff\xe0":
        split = 4 + int(struct.unpack_from(">H", bare, 4)[0])
    ending = b"" if bare.endswith(b"\xff\xd9") else b"\xff\xd9"
    return bare[:split] + b"".join(parts) + bare[split:] + ending


def _jpeg_segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _stripped_webp(content: bytes) -> bytes:
    orientation = inspect_image(content, LIMITS).exif_orientation
    parts, position = [], 12
    while position + 8 <= len(content):
        kind, length = struct.unpack_from("<4sI", content, position)
        end = position + 8 + length + (length & 1)
        chunk = bytearray(content[position:end])
        if kind == b"VP8X":
            chunk[8] &= ~0x0C & 0xFF  # no EXIF, no XMP
            chunk[8] |= 0x08 if orientation != 1 else 0
        if kind not in _WEBP_METADATA:
            parts.append(bytes(chunk))
        position = end
    if orientation != 1:
        block = _orientation_only(orientation)
        parts.append(b"EXIF" + struct.pack("<I", len(block)) + block)
    body = b"WEBP" + b"".join(parts)
    return b"RIFF" + struct.pack("<I", len(body)) + body
