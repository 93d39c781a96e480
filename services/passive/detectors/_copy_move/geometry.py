"""Affine maps of the plane, as float64 (2, 3): (x, y, 1) to (x, y), pixel centres at integers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, cast

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = [
    "MAX_ANISOTROPY",
    "MAX_SCALE",
    "SAME_MAP_PIXELS",
    "CandidateMap",
    "Floats",
    "Mask",
    "Plane",
    "apply",
    "enlarged",
    "errors",
    "inverse",
    "least_squares",
    "min_shift",
    "places",
    "possible",
    "quantile",
    "rotation",
    "scale_of",
    "stretch",
]

Floats = NDArray[np.float64]
Plane = NDArray[np.float32]
Mask = NDArray[np.bool_]

MAX_ANISOTROPY: Final = 1.4
MAX_SCALE: Final = 2.5
"""Maps that stretch one direction more than the other by `MAX_ANISOTROPY`, or enlarge by more than `MAX_SCALE` or its
inverse, are taken for accidents."""

SAME_MAP_PIXELS: Final = 4.0
"""A map that moves the points of another as that one does, but for so many pixels, is the same."""

MIN_SHIFT_PIXELS: Final = 20.0
MIN_SHIFT_SHARE: Final = 0.03
"""What is closer than the larger of `MIN_SHIFT_PIXELS` and this share of the longer side is the same structure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateMap:
    """A map that may carry a copied region onto its copy, and the points (x, y) that say so.

    Attributes:
        transform: of `p` to `q`.
        p, q: float64 (n, 2), matched points.
        way: what found it: clusters of keypoints, few keypoints that bear each other out, or the dense field.
    """

    transform: Floats
    p: Floats
    q: Floats
    way: Literal["keypoints", "small", "dense"]


def min_shift(longer_side: float) -> float:
    """Least distance, in pixels, of two places that may be source and copy."""
    return max(MIN_SHIFT_PIXELS, MIN_SHIFT_SHARE * longer_side)


def inverse(transform: Floats) -> Floats:
    """The map back."""
    return np.asarray(cv2.invertAffineTransform(transform), np.float64)


def apply(transform: Floats, points: Floats) -> Floats:
    """Where points (n, 2) go."""
    return points @ transform[:, :2].T + transform[:, 2]


def enlarged(transform: Floats, factors: Floats) -> Floats:
    """A map found in a reduced picture, between pixels of the whole one; pixels' centres lie at whole numbers.

    Args:
        transform: float64 (2, 3).
        factors: pixels of the picture in one of the reduced one, along x and along y.
    """
    linear = transform[:, :2] * (factors[:, None] / factors[None, :])
    offset = factors * (transform[:, 2] + 0.5) - 0.5 - linear @ (0.5 * factors - 0.5)
    return np.column_stack([linear, offset])


def errors(transform: Floats, p: Floats, q: Floats) -> Floats:
    """Distance of each mapped `p` from its `q`, (n,)."""
    x, y = (apply(transform, p) - q).T
    return cast("Floats", np.sqrt(x * x + y * y))


def least_squares(p: Floats, q: Floats) -> Floats:
    """The map of `p` to `q` with the least squared error."""
    return np.asarray(np.linalg.lstsq(np.column_stack([p, np.ones(len(p))]), q, rcond=None)[0].T, np.float64)


def rotation(linear: Floats) -> float:
    """Radians of the rotation nearest to a 2x2 matrix; of one that mirrors, after a mirroring left to right."""
    if np.linalg.det(linear) < 0:
        linear = linear * [-1.0, 1.0]
    return math.atan2(linear[1, 0] - linear[0, 1], linear[0, 0] + linear[1, 1])


def scale_of(linear: Floats) -> float:
    """Length afterwards divided by length before, the mean of all directions."""
    return math.sqrt(abs(float(np.linalg.det(linear))))


def stretch(linear: Floats) -> float:
    """By how much one direction is stretched more than the other: 0 for a similarity, 0.1 for 10 %."""
    long, short = np.linalg.svd(linear, compute_uv=False).tolist()
    return float(long / max(short, 1e-9) - 1.0)


def possible(transform: Floats, *, mirrored: bool | None = None) -> bool:
    """False for degenerate or extreme maps, and for those that mirror where they should not, or the other way round."""
    linear = transform[:, :2]
    if not np.isfinite(transform).all():
        return False
    determinant = float(np.linalg.det(linear))
    if mirrored is not None and (determinant < 0) is not mirrored:
        return False
    long, short = np.linalg.svd(linear, compute_uv=False).tolist()
    return bool(long < MAX_ANISOTROPY * short and 1 / MAX_SCALE < math.sqrt(long * short) < MAX_SCALE)


def places(points: Floats) -> int:
    """Number of points at least about 3 pixels apart: SIFT gives several keypoints, of several angles, to one place."""
    x, y = np.rint(points.T / 3.0).astype(np.int64)
    # One number a place: NumPy tells those apart far faster than rows.
    return len(np.unique((x << 32) + y))


def quantile(values: NDArray[np.floating], share: float = 0.5) -> float:
    """The value that this share of values (n,) stay below, the median if none is given; between two, a mean of them.

    As NumPy's quantile, which selects several values at once, and that takes ten times as long.
    """
    place = share * (len(values) - 1)
    below = math.floor(place)
    parted = np.partition(values, below)
    low = float(parted[below])
    if place == below:
        return low
    return low + (float(parted[below + 1 :].min()) - low) * (place - below)
