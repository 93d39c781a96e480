"""What was found at working size, once more at the picture's full size: where exactly it came from, and its outline.

Only what was found is looked at there, and only its surroundings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from services.passive.detectors._copy_move.geometry import Floats, Mask, Plane, apply, enlarged, inverse
from services.passive.detectors._copy_move.search import CopiedRegion
from services.passive.detectors._copy_move.verify import outlined

__all__ = ["MAX_PIXELS", "FullSize", "MaskPart", "at_full_size"]

MAX_PIXELS: Final = 2_000_000
"""Most pixels that are looked at, of all regions together; bounds time and memory. A region that does not fit any more
keeps its outline: of one that large a pixel more or less is next to nothing."""
LONGEST: Final = 32_000
"""Longest side of what is looked at, in pixels: OpenCV's maps reach little farther."""
MARGIN: Final = 24
"""Pixels around a region that are looked at."""
REACH: Final = 2.0
"""Pixels of the working size by which the outline may lie off."""
SMOOTH: Final = 9
"""Side of the window, in pixels, whose majority decides at the end: noise frays the outline."""
THREADS: Final = 2

Box = tuple[int, int, int, int]
"""Left, top, right and bottom, half open, in pixels of the picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskPart:
    """A mask of a picture that is False beyond a part of it.

    Attributes:
        mask: bool (h, w).
        left, top: where the part begins, in pixels of the picture.
        pixel: pixels of the picture in one of the mask's, in either direction.
    """

    mask: Mask
    left: int = 0
    top: int = 0
    pixel: float = 1.0

    @property
    def area(self) -> float:
        """Pixels of the picture."""
        return float(np.count_nonzero(self.mask)) * self.pixel**2

    def outlines(self, *, least_area: float) -> list[Floats]:
        """Corners (n, 2) of each piece, in pixels of the picture, of pieces of at least so many pixels."""
        contours, _ = cv2.findContours(self.mask.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        corners = [cv2.approxPolyDP(contour, 1.0, True).reshape(-1, 2) for contour in contours]
        return [
            (piece + 0.5) * self.pixel + [self.left, self.top]
            for piece in corners
            if len(piece) >= 3 and cv2.contourArea(piece) * self.pixel**2 >= least_area
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class FullSize:
    """A region in pixels of the picture.

    Attributes:
        transform: float64 (2, 3), from source to copy.
        translation: from the middle of the source's matched points to where the map takes it: (x, y).
        source, copy: the masks.
        reduced_source, reduced_copy: the same, bool (h, w), of the working size.
    """

    transform: Floats
    translation: tuple[float, float]
    source: MaskPart
    copy: MaskPart
    reduced_source: Mask
    reduced_copy: Mask


def at_full_size(rgb: NDArray[np.uint8], regions: Sequence[CopiedRegion]) -> list[FullSize | None]:
    """The regions in the pixels of the picture, aligned and outlined there.

    Args:
        rgb: uint8 (height, width, 3), the whole picture.
        regions: as they were found at working size, those that matter most first.

    Returns:
        For each of them; None if it is too large (`MAX_PIXELS`, `LONGEST`), or the full size does not bear it out.
    """
    left = MAX_PIXELS
    seen: list[_Surroundings | None] = []
    for region in regions:
        around = _surroundings(rgb.shape, region)
        fits = around is not None and around.pixels <= left and around.longest <= LONGEST
        left -= around.pixels if around is not None and fits else 0
        seen.append(around if fits else None)
    with ThreadPoolExecutor(THREADS) as threads:
        return list(threads.map(lambda pair: pair[1] and _exactly(rgb, *pair), zip(regions, seen, strict=True)))


@dataclass(frozen=True, slots=True)
class _Surroundings:
    """What is looked at of a region.

    Attributes:
        to_full: pixels of the picture in one of the working size, along x and along y.
        back: the map from copy to source, in pixels of the picture.
        source, copy: the boxes.
    """

    to_full: Floats
    back: Floats
    source: Box
    copy: Box

    @property
    def pixels(self) -> int:
        """Of the larger box."""
        return max((right - left) * (bottom - top) for left, top, right, bottom in (self.source, self.copy))

    @property
    def longest(self) -> int:
        """Side, in pixels."""
        return max(max(right - left, bottom - top) for left, top, right, bottom in (self.source, self.copy))


def _surroundings(shape: tuple[int, ...], region: CopiedRegion) -> _Surroundings | None:
    """What has to be looked at of a region in a picture of that shape (height, width); None if nothing is there."""
    to_full = np.array(shape[1::-1]) / region.copy_mask.shape[::-1]
    back = inverse(enlarged(region.transform, to_full))
    x, y, width, height = cv2.boundingRect(region.copy_mask.view(np.uint8))
    copy = _box(np.array([[x, y], [x + width, y + height]]) * to_full, shape)
    left, top, right, bottom = copy
    corners = np.array([[left, top], [right, top], [left, bottom], [right, bottom]], np.float64)
    source = _box(apply(back, corners), shape)
    return _Surroundings(to_full, back, source, copy) if source[0] < source[2] and source[1] < source[3] else None


def _exactly(rgb: NDArray[np.uint8], region: CopiedRegion, around: _Surroundings) -> FullSize | None:
    left, top, right, bottom = around.source
    to_source, to_copy = np.array([left, top]), np.array(around.copy[:2])
    # Between the two parts of the picture, and then between places in it again.
    back = around.back.copy()
    back[:, 2] += back[:, :2] @ to_copy - to_source
    mask = _part_of(region.copy_mask, around.copy, around.to_full)
    reach = math.ceil(REACH * around.to_full.max())
    exact = outlined(_grey(rgb, around.source), _grey(rgb, around.copy), back, mask, reach=reach)
    if exact is None:
        return None
    back, mask = exact
    mask = cv2.medianBlur(mask.view(np.uint8), SMOOTH) > 0
    nearest = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    source_mask = cv2.warpAffine(mask.view(np.uint8), inverse(back), (right - left, bottom - top), flags=nearest) > 0
    back[:, 2] += to_source - back[:, :2] @ to_copy
    transform = inverse(back)
    middle = (region.source_points.mean(axis=0) + 0.5) * around.to_full - 0.5
    x, y = (apply(transform, middle[None])[0] - middle).tolist()
    source_part = MaskPart(mask=source_mask, left=left, top=top)
    copy_part = MaskPart(mask=mask, left=around.copy[0], top=around.copy[1])
    reduced_source, reduced_copy = (
        _reduced(part, around.to_full, region.copy_mask.shape) for part in (source_part, copy_part)
    )
    return FullSize(
        transform=transform,
        translation=(x, y),
        source=source_part,
        copy=copy_part,
        reduced_source=reduced_source,
        reduced_copy=reduced_copy,
    )


def _box(points: Floats, shape: tuple[int, ...]) -> Box:
    """What lies around the points, within a picture of that shape (height, width)."""
    left, top = np.maximum(np.floor(points.min(axis=0)) - MARGIN, 0).astype(int).tolist()
    right, bottom = np.minimum(np.ceil(points.max(axis=0)) + MARGIN, shape[1::-1]).astype(int).tolist()
    return left, top, right, bottom


def _grey(rgb: NDArray[np.uint8], box: Box) -> Plane:
    left, top, right, bottom = box
    part = np.ascontiguousarray(rgb[top:bottom, left:right])
    return cast("Plane", cv2.cvtColor(part, cv2.COLOR_RGB2GRAY).astype(np.float32))


def _part_of(mask: Mask, box: Box, to_full: Floats) -> Mask:
    """The part of a mask of the working size, enlarged."""
    left, top, right, bottom = box
    to_working = np.column_stack([np.diag(1.0 / to_full), (np.array([left, top]) + 0.5) / to_full - 0.5])
    linear = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    levels = cv2.warpAffine(mask.astype(np.float32), to_working, (right - left, bottom - top), flags=linear)
    return levels > 0.5


def _reduced(part: MaskPart, to_full: Floats, shape: tuple[int, ...]) -> Mask:
    """The whole mask, of the working size's shape (h, w): where at least half of the pixels are in it."""
    across, down = (to_full / 2.0).tolist()
    shares = cv2.GaussianBlur(np.pad(part.mask, MARGIN).astype(np.float32), (0, 0), across, sigmaY=down)
    to_part = np.column_stack([np.diag(to_full), 0.5 * to_full - 0.5 - [part.left - MARGIN, part.top - MARGIN]])
    linear = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(shares, to_part, shape[::-1], flags=linear) > 0.5
