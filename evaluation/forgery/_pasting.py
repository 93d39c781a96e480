"""Putting a piece into a picture: under an affine map, with soft edges, never over the border."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from evaluation.forgery._regions import outline
from evaluation.forgery._registry import RGB, Mask

__all__ = [
    "INTERPOLATIONS",
    "Matrix",
    "Piece",
    "affine",
    "blend",
    "match_colours",
    "place",
    "room",
    "shaded",
    "similarity",
]

Floats = NDArray[np.float32]
Matrix = NDArray[np.float64]

INTERPOLATIONS: Final[dict[str, int]] = {
    "linear": cv2.INTER_LINEAR,
    "cubic": cv2.INTER_CUBIC,
    "lanczos": cv2.INTER_LANCZOS4,
}
_RING: Final = 12
"""Width in pixels of the surroundings whose colours a piece is matched to."""
_SPREAD_LIMITS: Final = (0.6, 1.6)
"""How far matching may change a piece's contrast."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A piece at its place: `pixels` float32 (h, w, 3), `mask` bool (h, w), with its top left corner at (`x`, `y`)."""

    pixels: Floats
    mask: Mask
    x: int
    y: int

    @property
    def window(self) -> tuple[slice, slice]:
        """The rows and columns of the picture that the piece's rectangle covers."""
        height, width = self.mask.shape
        return slice(self.y, self.y + height), slice(self.x, self.x + width)

    def full_mask(self, height: int, width: int) -> Mask:
        """The piece's mask in a picture of the given size, bool (height, width)."""
        full = np.zeros((height, width), bool)
        full[self.window] = self.mask
        return full


def similarity(*, scale: float, rotation: float, mirrored: bool) -> Matrix:
    """A linear map of (x, y), float64 (2, 2): mirror left to right, then scale, then rotate by `rotation` degrees."""
    cosine, sine = math.cos(math.radians(rotation)), math.sin(math.radians(rotation))
    if rotation % 90 == 0:
        cosine, sine = round(cosine), round(sine)
    return scale * np.array([[cosine, -sine], [sine, cosine]]) @ np.diag([-1.0 if mirrored else 1.0, 1.0])


def affine(linear: Matrix, centre: NDArray[np.float64], target: NDArray[np.float64]) -> Matrix:
    """The map, float64 (2, 3), with the given linear part that takes the point `centre` to `target`.

    Where no resampling is needed (mirrored or turned by right angles only) whole pixels go to whole pixels.
    """
    shift = target - linear @ centre
    if np.array_equal(linear, np.rint(linear)):
        shift = np.rint(shift)
    return np.concatenate([linear, shift[:, None]], axis=1)


def room(
    points: NDArray[np.float64], linear: Matrix, size: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]] | None:
    """Where a piece fits: its centre, and the lowest and highest (x, y) that the centre may go to.

    Args:
        points: the piece's outline, float64 (n, 2).
        linear: float64 (2, 2), applied about the centre.
        size: (height, width) of the picture.

    Returns:
        Three points, float64 (2,); or None where the piece is larger than the picture.
    """
    centre = np.rint(points.mean(axis=0))
    moved = (points - centre) @ linear.T
    low, high = 1.0 - moved.min(axis=0), np.array([size[1] - 2, size[0] - 2]) - moved.max(axis=0)
    return None if (high < low).any() else (centre, low, high)


def place(
    source: RGB,
    mask: Mask,
    matrix: Matrix,
    size: tuple[int, int],
    *,
    interpolation: str = "cubic",
) -> Piece | None:
    """Warps the masked part of `source` into a picture of `size` (height, width).

    Args:
        source: uint8 (h, w, 3).
        mask: bool (h, w), at least one pixel.
        matrix: float64 (2, 3), from (x, y) of the source to (x, y) of the picture; pixel centres are at integers.
        size: of the picture.
        interpolation: a key of `INTERPOLATIONS`.

    Returns:
        The piece, or None if a part of it would leave the picture.
    """
    points = outline(mask) @ matrix[:, :2].T + matrix[:, 2]
    low, high = np.floor(points.min(axis=0)).astype(int), np.ceil(points.max(axis=0)).astype(int)
    if (low < 0).any() or high[0] > size[1] - 1 or high[1] > size[0] - 1:
        return None
    local = matrix.copy()
    local[:, 2] -= low
    window = int(high[0] - low[0] + 1), int(high[1] - low[1] + 1)
    flags = INTERPOLATIONS[interpolation]
    pixels = cv2.warpAffine(source, local, window, flags=flags, borderMode=cv2.BORDER_REFLECT_101)
    inside = cv2.warpAffine(mask.astype(np.float32), local, window, flags=cv2.INTER_LINEAR)
    return Piece(pixels=pixels.astype(np.float32), mask=inside > 0.5, x=int(low[0]), y=int(low[1]))


def _soft_edge(mask: Mask, feather: float) -> Floats:
    """Opacity, float32 (h, w) in 0-1: 0 outside the mask, rising to 1 over `feather` pixels inside it."""
    if feather <= 0:
        return mask.astype(np.float32)
    distance = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    return np.asarray(np.minimum(distance / (feather + 1.0), 1.0), dtype=np.float32)


def blend(picture: RGB, piece: Piece, feather: float) -> RGB:
    """A copy of the picture with the piece in it; nothing changes outside the piece's mask."""
    result = picture.copy()
    opacity = _soft_edge(piece.mask, feather)[..., None]
    below = picture[piece.window].astype(np.float32)
    mixed = below + opacity * (np.clip(piece.pixels, 0.0, 255.0) - below)
    result[piece.window] = np.rint(mixed).astype(np.uint8)
    return result


def match_colours(picture: RGB, piece: Piece, strength: float) -> Piece:
    """Moves mean and spread of the piece's colours towards those around its place (in CIELAB).

    `strength` 0 leaves it alone, 1 matches fully. E. Reinhard et al., "Color transfer between images", 2001,
    10.1109/38.946629.
    """
    height, width = picture.shape[:2]
    rows = slice(max(0, piece.y - _RING), min(height, piece.y + piece.mask.shape[0] + _RING))
    columns = slice(max(0, piece.x - _RING), min(width, piece.x + piece.mask.shape[1] + _RING))
    ring = ~piece.full_mask(height, width)[rows, columns]
    around = cv2.cvtColor(picture[rows, columns].astype(np.float32) / 255.0, cv2.COLOR_RGB2LAB)[ring]
    lab = cv2.cvtColor(np.clip(piece.pixels, 0.0, 255.0) / 255.0, cv2.COLOR_RGB2LAB)
    own = lab[piece.mask]
    spread = np.clip(around.std(axis=0) / (own.std(axis=0) + 1e-3), *_SPREAD_LIMITS)
    matched = (lab - own.mean(axis=0)) * spread + around.mean(axis=0)
    mixed = (lab + strength * (matched - lab)).astype(np.float32)
    pixels = np.clip(cv2.cvtColor(mixed, cv2.COLOR_LAB2RGB), 0.0, 1.0) * np.float32(255.0)
    return Piece(pixels=pixels, mask=piece.mask, x=piece.x, y=piece.y)


def shaded(piece: Piece, levels: float, direction: float) -> Piece:
    """The piece with its brightness changing evenly by `levels` grey levels across it, from -`levels` / 2 on.

    `direction` is an angle in radians; 0 is to the right, and a quarter turn is down.
    """
    height, width = piece.mask.shape
    x, y = np.linspace(-0.5, 0.5, width), np.linspace(-0.5, 0.5, height)[:, None]
    across = (math.cos(direction) * x + math.sin(direction) * y).astype(np.float32)
    return replace(piece, pixels=piece.pixels + np.float32(levels) * across[..., None])
