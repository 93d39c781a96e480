"""Reads the metadata of a picture file: the one reader that the metadata detectors share.

Every file is hostile: each part is bounded in size, count and depth, nothing raises, no entity is expanded, nothing is
fetched. What could not be read is listed in `Metadata.problems`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from services.passive._metadata.exif import Exif, read_exif
from services.passive._metadata.iptc import read_iptc
from services.passive._metadata.parts import Parts, inflate, read_parts
from services.passive._metadata.text import as_json, clean, decode
from services.passive._metadata.xmp import Property, Xmp, read_xmp

__all__ = ["Exif", "Metadata", "Property", "Xmp", "as_json", "clean", "decode", "inflate", "read_metadata"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """All that a file says about its picture.

    Attributes:
        parts: the container's parts, unread.
        exif, xmp: what the EXIF block and the XMP packet say.
        iptc: (name, text) of IPTC-IIM datasets.
    """

    parts: Parts
    exif: Exif
    xmp: Xmp
    iptc: tuple[tuple[str, str], ...] = field(default=())

    @property
    def texts(self) -> list[tuple[str, str]]:
        """(keyword, text) of PNG's text chunks."""
        return self.parts.texts

    @property
    def problems(self) -> list[str]:
        """What could not be read, a sentence each."""
        return [*self.parts.problems, *self.exif.problems, *([self.xmp.problem] if self.xmp.problem else [])]

    @property
    def kinds(self) -> list[str]:
        """Which kinds of metadata there are: EXIF, XMP, IPTC, text, comment."""
        present = {
            "EXIF": any(self.exif.directories.values()),
            "XMP": bool(self.xmp.properties),
            "IPTC": bool(self.iptc),
            "text": bool(self.parts.texts),
            "comment": bool(self.parts.comments),
        }
        return [kind for kind, there in present.items() if there]


def read_metadata(content: bytes, image_format: str) -> Metadata:
    """Reads the metadata of a file of the given format ("JPEG", "PNG", "WEBP", "GIF"); never raises."""
    parts = read_parts(content, image_format)
    return Metadata(parts=parts, exif=read_exif(parts.exif), xmp=read_xmp(parts.xmp), iptc=read_iptc(parts.irb))
