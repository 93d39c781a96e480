"""How a picture becomes a file: the same way for a forgery and for its pristine twin."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["Encoding", "Format", "Subsampling", "jpeg_round_trip"]

Format = Literal["png", "jpeg", "webp"]
Subsampling = Literal["4:4:4", "4:2:2", "4:2:0"]

_PILLOW_SUBSAMPLING: Final[dict[str, int]] = {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """A file format with its settings; files carry no metadata.

    Attributes:
        format: "png" (lossless), "jpeg" or "webp" (lossy).
        quality: 1-100, of JPEG and WebP.
        subsampling: of JPEG's colour planes.
    """

    format: Format = "jpeg"
    quality: int = 90
    subsampling: Subsampling = "4:2:0"

    def __post_init__(self) -> None:
        if self.format not in get_args(Format) or self.subsampling not in get_args(Subsampling):
            raise ValueError(f"no such encoding: {self.format} {self.subsampling}")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"quality {self.quality} is outside 1-100")

    @property
    def suffix(self) -> str:
        """The ending of a file's name: .png, .jpg or .webp."""
        return ".jpg" if self.format == "jpeg" else f".{self.format}"

    @classmethod
    def drawn(cls, rng: np.random.Generator, *, lowest_quality: int = 60, highest_quality: int = 98) -> Encoding:
        """A random encoding as pictures on the web have: mostly JPEG, some WebP, some PNG."""
        quality = int(rng.integers(lowest_quality, highest_quality + 1))
        subsampling: Subsampling = "4:4:4" if rng.random() < 0.3 else "4:2:0"
        kind = rng.random()
        image_format: Format = "jpeg" if kind < 0.8 else "webp" if kind < 0.9 else "png"
        return cls(format=image_format, quality=quality, subsampling=subsampling)

    def encode(self, rgb: NDArray[np.uint8]) -> bytes:
        """The file of uint8 pixels, (h, w, 3)."""
        image = Image.fromarray(np.ascontiguousarray(rgb))
        buffer = io.BytesIO()
        if self.format == "png":
            image.save(buffer, "PNG", compress_level=1)
        elif self.format == "webp":
            image.save(buffer, "WEBP", quality=self.quality, method=2)
        else:
            image.save(buffer, "JPEG", quality=self.quality, subsampling=_PILLOW_SUBSAMPLING[self.subsampling])
        return buffer.getvalue()


def jpeg_round_trip(rgb: NDArray[np.uint8], quality: int, subsampling: Subsampling = "4:2:0") -> NDArray[np.uint8]:
    """The pixels after being saved as JPEG and opened again, uint8 (h, w, 3)."""
    content = Encoding(quality=quality, subsampling=subsampling).encode(rgb)
    return np.array(Image.open(io.BytesIO(content)), dtype=np.uint8)
