"""One encoding for all: what every picture goes through before anything is fitted on it.

Public collections differ in size, quality and file format, and these differences tell the classes apart better than
any trace of a generator. So each picture, whatever it shows, gets a crop, a scale and a final encoding from one
distribution, drawn by its id and a seed: equal ids and seeds give equal pixels.

Nothing is ever enlarged: that would mark what was small.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from evaluation.forgery import Encoding
from training.data.pictures import RGB, read_pixels

__all__ = ["MAX_SHORT_SIDE", "MIN_SHORT_SIDE", "Encoded", "encode_alike"]

MIN_SHORT_SIDE: Final = 224
"""Shorter side of the smallest result, in pixels (less only where the picture has less)."""
MAX_SHORT_SIDE: Final = 640
"""Shorter side of the largest result, in pixels: most public generated pictures have 512 to 1024."""
_ASPECTS: Final = (0.75, 1.3334)
"""Width divided by height of a result."""
_MIN_KEPT: Final = 0.6
"""Least share of the side that limits the crop."""
_UNSCALED: Final = 0.35
"""So often the crop is cut at the picture's own scale, where a generator's finest traces are."""
_QUALITIES: Final = (60, 100)


@dataclass(frozen=True, slots=True)
class Encoded:
    """A picture after the common treatment.

    Attributes:
        rgb: its pixels as the file shows them, uint8 (h, w, 3).
        content: the file.
        encoding: of the file.
        scale: of its pixels, relative to the original's.
    """

    rgb: RGB
    content: bytes
    encoding: Encoding
    scale: float


def encode_alike(rgb: RGB, name: str, *, seed: int = 0) -> Encoded:
    """Crops, scales down and encodes a picture as chance, seeded by its name, has it.

    Args:
        rgb: uint8 (h, w, 3).
        name: the picture's id in the manifest.
        seed: another number gives another variant of the same picture.
    """
    digest = hashlib.sha256(f"{name}/{seed}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    piece, scale = _crop_and_scale(rgb, rng)
    encoding = _draw_encoding(rng)
    content = encoding.encode(piece)
    return Encoded(rgb=read_pixels(content), content=content, encoding=encoding, scale=scale)


def _crop_and_scale(rgb: RGB, rng: np.random.Generator) -> tuple[RGB, float]:
    height, width = rgb.shape[:2]
    aspect = math.exp(rng.uniform(math.log(_ASPECTS[0]), math.log(_ASPECTS[1])))
    kept = rng.uniform(_MIN_KEPT, 1.0)
    target = math.exp(rng.uniform(math.log(MIN_SHORT_SIDE), math.log(MAX_SHORT_SIDE)))
    unscaled = rng.random() < _UNSCALED
    across, down = rng.random(2)
    flip = rng.random() < 0.5
    # The largest window of this aspect, then a share of it, but not less than the smallest result needs.
    fit = min(width / aspect, float(height))
    short_of_fit = min(fit, fit * aspect)
    window = max(fit * kept, min(fit, fit * MIN_SHORT_SIDE / short_of_fit))
    short = min(window, window * aspect)
    if unscaled and short > target:
        window *= target / short
        short = target
    size = (max(1, min(width, round(window * aspect))), max(1, min(height, round(window))))
    left, top = round(across * (width - size[0])), round(down * (height - size[1]))
    piece = rgb[top : top + size[1], left : left + size[0]]
    scale = min(1.0, target / short)
    if scale < 1.0:
        shape = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
        piece = np.asarray(cv2.resize(piece, shape, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    return np.ascontiguousarray(piece[:, ::-1] if flip else piece), scale


def _draw_encoding(rng: np.random.Generator) -> Encoding:
    """Mostly JPEG, some WebP, some without loss."""
    quality = int(rng.integers(_QUALITIES[0], _QUALITIES[1] + 1))
    kind, full_colour = rng.random(2)
    if kind < 0.75:
        return Encoding(quality=quality, subsampling="4:4:4" if full_colour < 0.35 else "4:2:0")
    return Encoding(format="webp", quality=quality) if kind < 0.9 else Encoding(format="png")
