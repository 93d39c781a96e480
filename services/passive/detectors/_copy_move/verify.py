"""One candidate map against the pixels: what it carries onto what, and how exactly the two agree.

1. The map is refined on the pixels around the points that it was found by (Lucas and Kanade 1981; Baker and Matthews
   2004).
2. The source is warped onto the copy, and the two are correlated locally (zero-mean normalised cross-correlation,
   ZNCC): the grey levels, and the **fine detail**, which in smooth areas is all that there is. The mask is where they
   agree, connected to the points. Where it goes on beyond what was looked at, more is; where it lies upon its own
   source, the map is given up.
3. What the windows of the correlation added around the mask is taken off again: where the levels differ.
4. Measurements over the mask say how exactly: they are what tells a copy from a look-alike (`repetition`).

What is found so in a reduced picture is aligned and outlined once more at full size (`outlined`).

References:
    B. D. Lucas and T. Kanade, "An iterative image registration technique with an application to stereo vision", IJCAI
        1981, pages 674-679.
    S. Baker and I. Matthews, "Lucas-Kanade 20 years on: a unifying framework", 2004. 10.1023/B:VISI.0000011205.11775.fd
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from services.passive.detectors._copy_move.geometry import (
    CandidateMap,
    Floats,
    Mask,
    Plane,
    apply,
    inverse,
    min_shift,
    places,
    possible,
    quantile,
    stretch,
)

__all__ = ["MAX_OVERLAP", "MIN_AREA", "NO_TEXTURE", "Measurements", "Verified", "outlined", "verify"]

STEPS: Final = 3
"""Steps of the refinement; more change next to nothing."""
BAND_SIGMAS: Final = (1.0, 4.0)
"""Maps are refined on what lies between these Gaussians (pixels): finer is noise, coarser is light."""
MAX_CORRECTION: Final = 8.0
"""A refinement that moves a corner of the mask by more pixels than this has gone astray."""
MAX_ALIGNED: Final = 10_000
"""Pixels that a map is refined by, at most."""
OUTLIER: Final = 2.0
"""A difference so many times the median has half the weight of none."""

NEARLY_MOVED: Final = 0.2
"""Largest difference from the identity of a map of which the plain shift is tried as well."""

DETAIL_SIGMA: Final = 2.0
"""Fine detail is what a Gaussian of this sigma (pixels) removes."""
MIN_AREA: Final = 80
"""Smallest mask, in pixels of the working size."""
MAX_OVERLAP: Final = 0.25
"""Share of the mask that may lie in its own source. What overlaps more is a symmetric figure or a pattern that goes on:
a copy covers what it was put on, so it cannot lie on its source and match it."""
HOPELESS_OVERLAP: Final = 0.4
"""Share from which on it is not waited for the mask's exact edge, nor for where else it goes on."""

TIGHT_WINDOW: Final = 3
TIGHT_LEVELS: Final = 3.0
"""The mask's edge lies where the levels differ, over a window of so many pixels, by more than so many times what they
differ by at the median, and by as many levels on top; half of the slope is allowed for."""

MARGIN: Final = 16
NEAR_MARGIN: Final = 24.0
"""Pixels around the mask that are looked at when it is measured; and around the points, for the map to be aligned, and
of small and dense maps for a first look: most of them are no copies, and then no more has to be looked at."""
NO_TEXTURE: Final = -1.0
"""The wobble of two regions in which too little is distinct to tell how far places lie off."""
EVEN_LEVELS: Final = 9
SHADING_SIGMA: Final = 3.0
SHADING_MARGIN: Final = 6
"""Slow brightness is what a Gaussian of this sigma (pixels) leaves; it is compared so many pixels inside the mask."""
LEAST_GAIN: Final = 0.2
"""Contrasts that differ more than this count as this."""
WOBBLE_WINDOW: Final = 15
LEAST_CORNER: Final = 0.3
"""Side of the windows, in pixels, whose displacement is measured, and the least squared slope in any direction, in grey
levels a pixel, that makes it measurable."""

ALIGN_WINDOW: Final = 11
ALIGN_SHAPE: Final = 0.8
"""Maps are aligned on what agrees at least so well in windows of so many pixels, and may lie off by a few as yet."""
WINDOW: Final = 9
"""Side, in pixels, of the windows in which the two are compared."""
LEAST_SHAPE: Final = 0.75
LEAST_DETAIL: Final = 0.4
"""Least correlation of the grey levels, or of the fine detail, of a pixel of the mask."""
SHAPE_FLOOR: Final = 4.0
DETAIL_FLOOR: Final = 0.1
"""What is added to their variances, so that noise alone is not correlated."""
GROWN: Final = 7
"""Masks are grown by a disc of this diameter (pixels), for near the edge windows see what is beyond."""
LEAST_BORNE_OUT: Final = 0.5
"""Share of a known mask's inside that must agree at full size for its outline to be drawn anew."""
LEAST_CONTRAST: Final = 2.0
"""Least standard deviation of a mask, in grey levels: what is even could come from anywhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurements:
    """How exactly two regions agree, over the mask.

    Attributes:
        middle: correlation of the detail between 1 and 2 pixels, -1 to 1.
        flat_fine: correlation of what a Gaussian of 1 pixel removes (mostly noise and compression), over the smoother
            half of the mask, where there is no shape to agree by.
        shifted: the largest `middle` when one region is moved by 3 pixels: high where an edge or stripe goes on.
        lowest: the correlation of the fine detail that nine of ten places exceed: look-alikes agree in places.
        wobble: pixels by which places of the one lie off those of the other, median; `NO_TEXTURE` where nothing tells.
        grain_ratio: difference of the finest detail over the smoother half, as a share of what two independent grains
            would leave; about 1 for look-alikes.
        residue: grey levels, median absolute difference once brightness and contrast are made equal.
        noise: grey levels, median absolute value of the finest detail over the smoother half.
        gain: natural logarithm of the ratio of the contrasts that makes them equal, without its sign.
        offset: grey levels, difference of the mean brightness.
        shading: grey levels, the difference of slow brightness that nine of ten places stay below, once brightness and
            contrast are made equal: compression leaves it alone, and things of a kind are never lit alike everywhere.
        chroma, chroma_most: absolute difference of the colour (the larger of Cr and Cb), median and what nine of ten
            places stay below.
        beyond: correlation of the detail in a ring around the mask, where that of a copy ends.
        cliff: how much higher it is just inside the mask.
        stretch: by how much the map stretches one direction more than the other.
        change: largest difference of the map's linear part from the identity.
        contrast: grey levels, standard deviation in the copy.
        even: largest share of the copy's pixels within `EVEN_LEVELS` grey levels: high for letters on paper, which are
            alike because they are letters.
        area: pixels of the mask.
        inliers: matched points at different places.
    """

    middle: float
    flat_fine: float
    shifted: float
    lowest: float
    wobble: float
    grain_ratio: float
    residue: float
    noise: float
    gain: float
    offset: float
    shading: float
    chroma: float
    chroma_most: float
    beyond: float
    cliff: float
    stretch: float
    change: float
    contrast: float
    even: float
    area: float
    inliers: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """A map that the pixels bear out.

    Attributes:
        candidate: the map as it was found.
        whole: whether all of it was looked at, not a part.
        transform: float64 (2, 3), refined.
        source_mask, copy_mask: bool (height, width).
        measurements: how exactly the two agree.
    """

    candidate: CandidateMap
    whole: bool
    transform: Floats
    source_mask: Mask
    copy_mask: Mask
    measurements: Measurements


def verify(
    grey: Plane, chroma: Sequence[Plane], candidate: CandidateMap, *, part: Mask | None = None
) -> Verified | None:
    """Warps the source onto the copy and correlates the two; None if too little agrees or it is symmetric.

    Args:
        grey: float32 (h, w), grey levels.
        chroma: the two planes of colour, alike, blurred a little.
        candidate: the map, in pixels of `grey`.
        part: of the map's points, those around which it is verified and no further; None for all that it holds for.
    """
    height, width = grey.shape
    p, at = (candidate.p, candidate.q) if part is None else (candidate.p[part], candidate.q[part])
    refined = _refined(grey, candidate, p, at)
    for margin in (MARGIN,) if part is not None else _margins(candidate):
        top, bottom, left, right = _surroundings(at, margin, (height, width))
        if min(right - left, bottom - top) < WINDOW:
            return None
        copy = np.ascontiguousarray(grey[top:bottom, left:right])
        q = at - [left, top]
        back = _from_corner(refined, left, top)
        source, comparable, mask = _compared(grey, copy, back, corner=(left, top), q=q)
        if _overlap(mask, back, corner=(left, top)) > HOPELESS_OVERLAP:
            return None
        if not _goes_on(mask, (top == 0, bottom == height, left == 0, right == width)):
            break
    if np.count_nonzero(mask) < MIN_AREA:
        return None
    mask = _tightened(source, copy, mask, q)
    area = int(np.count_nonzero(mask))
    if area < MIN_AREA or copy[mask].std() < LEAST_CONTRAST:
        return None
    if _overlap(mask, back, corner=(left, top)) > MAX_OVERLAP:
        return None
    copy_mask = np.zeros(grey.shape, np.bool_)
    copy_mask[top:bottom, left:right] = mask
    source_mask = _moved(mask, back, (height, width))
    to_copy = inverse(back)
    to_copy[:, 2] += [left, top]

    near = _around(mask)
    measurements = _measure(
        source[near],
        copy[near],
        mask=mask[near],
        comparable=comparable[near],
        colours=_colour_difference(chroma, to_copy, mask, corner=(left, top)),
        candidate=candidate,
        linear=to_copy[:, :2],
    )
    return Verified(
        candidate=candidate,
        whole=part is None,
        transform=to_copy,
        source_mask=source_mask,
        copy_mask=copy_mask,
        measurements=measurements,
    )


def outlined(source: Plane, copy: Plane, back: Floats, mask: Mask, *, reach: int) -> tuple[Floats, Mask] | None:
    """The exact map and mask of a copy that are known roughly: from a reduced picture.

    Args:
        source: float32 (h, w), grey levels: what lies around the source.
        copy: float32 (height, width), the same of the copy.
        back: the map from pixels of `copy` to those of `source`.
        mask: bool (height, width), the copy.
        reach: pixels by which its outline may lie off.

    Returns:
        The same, exactly; None if the two do not agree in most of what is the copy's for sure.
    """
    around = _dilated(mask, 2 * reach + 1)
    sure = _eroded(mask, 2 * reach + 1)
    sure = sure if np.count_nonzero(sure) >= MIN_AREA else mask
    back = _aligned(source, copy, back, _alike_in(sure, source, copy, back))
    moved = _warped(source, back, (copy.shape[1], copy.shape[0]))
    nearest = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    comparable = cv2.warpAffine(np.ones(source.shape, np.uint8), back, copy.shape[::-1], flags=nearest) > 0
    alike = _alike(moved, copy) & comparable & around
    if np.count_nonzero(alike & sure) < LEAST_BORNE_OUT * np.count_nonzero(sure):
        return None
    inside = np.argwhere(sure)[:, ::-1].astype(np.float64)
    # What is too even to agree is the copy's as long as its levels do.
    exact = _tightened(moved, copy, mask | (_connected(alike, inside, GROWN) & around), inside)
    return back, sure | exact


def _margins(candidate: CandidateMap) -> tuple[float, ...]:
    """Pixels around the points that are looked at, more where it goes on; first little, if few such maps are copies."""
    extent = float(np.ptp(candidate.q, axis=0).max())
    margins = (0.1 * extent + 3 * MARGIN, 0.75 * extent + 3 * MARGIN)
    return margins if candidate.way == "keypoints" else (NEAR_MARGIN, *margins)


def _refined(grey: Plane, candidate: CandidateMap, p: Floats, q: Floats) -> Floats:
    """The map from copy to source, aligned on the pixels around the points q of the copy, which match the p."""
    top, bottom, left, right = _surroundings(q, NEAR_MARGIN, (grey.shape[0], grey.shape[1]))
    copy = np.ascontiguousarray(grey[top:bottom, left:right])
    hull = _hull(q - [left, top], copy.shape)
    back = _from_corner(inverse(candidate.transform), left, top)
    back = _moved_if_better(grey, copy, back, hull, points=(p, q - [left, top]))
    back = _aligned(grey, copy, back, _alike_in(hull, grey, copy, back))
    return _from_corner(back, -left, -top)


def _from_corner(back: Floats, left: float, top: float) -> Floats:
    """The map from the part of the picture that starts there, by the map from the whole of it."""
    moved = back.copy()
    moved[:, 2] += moved[:, :2] @ [left, top]
    return moved


def _surroundings(points: Floats, margin: float, shape: tuple[int, int]) -> tuple[int, int, int, int]:
    """First and last row and column, half open, of what lies within `margin` pixels around the points."""
    left, top = np.maximum(np.floor(points.min(axis=0) - margin), 0).astype(int).tolist()
    right, bottom = np.minimum(np.ceil(points.max(axis=0) + margin) + 1, shape[::-1]).astype(int).tolist()
    return top, bottom, left, right


def _goes_on(mask: Mask, ends: tuple[bool, bool, bool, bool]) -> bool:
    """Whether the mask comes near an edge (top, bottom, left, right) beyond which the picture does not end."""
    edges = mask[:MARGIN], mask[-MARGIN:], mask[:, :MARGIN], mask[:, -MARGIN:]
    return any(not end and bool(edge.any()) for end, edge in zip(ends, edges, strict=True))


def _compared(
    grey: Plane, copy: Plane, back: Floats, *, corner: tuple[int, int], q: Floats
) -> tuple[Plane, Mask, Mask]:
    """The source warped onto the copy, where the two can be compared, and where they agree: all as large as `copy`.

    Args:
        grey: the picture.
        copy: the part of it that starts at `corner` (x, y).
        back: the map from the part to the picture.
        corner: see `copy`.
        q: the matched points, in pixels of the part.
    """
    (height, width), (rows, columns) = grey.shape, copy.shape
    source = _warped(grey, back, (columns, rows))
    x, y = np.arange(columns, dtype=np.float32), np.arange(rows, dtype=np.float32)[:, None]
    from_x, from_y = (np.float32(a) * x + (np.float32(b) * y + np.float32(c)) for a, b, c in back)
    comparable = (from_x >= 0) & (from_x <= width - 1) & (from_y >= 0) & (from_y <= height - 1)
    # A region does not count as a copy of itself.
    apart = (from_x - x - corner[0]) ** 2 + (from_y - y - corner[1]) ** 2
    comparable &= apart > (min_shift(max(height, width)) / 2) ** 2

    return source, comparable, _connected(_alike(source, copy) & comparable, q, GROWN)


def _alike(source: Plane, copy: Plane) -> Mask:
    """Where the grey levels agree, or the fine detail."""
    alike = _zncc(source, copy, WINDOW, floor=SHAPE_FLOOR) > LEAST_SHAPE
    fine_source, fine_copy = source - _blur(source, DETAIL_SIGMA), copy - _blur(copy, DETAIL_SIGMA)
    return alike | (_zncc(fine_source, fine_copy, WINDOW, floor=DETAIL_FLOOR) > LEAST_DETAIL)


def _warped(grey: Plane, back: Floats, size: tuple[int, int]) -> Plane:
    """`grey` as `back` takes it to a picture of that size (width, height)."""
    cubic = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return cast("Plane", cv2.warpAffine(grey, back, size, flags=cubic, borderMode=cv2.BORDER_REPLICATE))


def _moved(mask: Mask, back: Floats, shape: tuple[int, int]) -> Mask:
    """Where `back` takes the mask to in a picture of that shape (height, width)."""
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
    corners = apply(back, np.array([[x, y], [x + width, y], [x, y + height], [x + width, y + height]], np.float64))
    left, top = np.clip(np.floor(corners.min(axis=0)), 0, shape[::-1]).astype(int).tolist()
    right, bottom = np.clip(np.ceil(corners.max(axis=0)) + 1, 0, shape[::-1]).astype(int).tolist()
    moved = np.zeros(shape, np.bool_)
    if left < right and top < bottom:
        # The map from the source's place to the copy's.
        forth = _from_corner(inverse(back), left, top)
        nearest = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
        part = cv2.warpAffine(mask.view(np.uint8), forth, (right - left, bottom - top), flags=nearest)
        moved[top:bottom, left:right] = part > 0
    return moved


def _overlap(mask: Mask, back: Floats, *, corner: tuple[int, int]) -> float:
    """Share of the mask, of the part of the picture that starts at `corner` (x, y), that lies in its own source."""
    nearest = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    forth = _from_corner(inverse(back), *corner)
    source = cv2.warpAffine(mask.view(np.uint8), forth, mask.shape[::-1], flags=nearest)
    return float(np.count_nonzero(source[mask])) / max(int(np.count_nonzero(mask)), 1)


def _around(mask: Mask) -> tuple[slice, slice]:
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
    return slice(max(0, y - MARGIN), y + height + MARGIN), slice(max(0, x - MARGIN), x + width + MARGIN)


def _colour_difference(
    chroma: Sequence[Plane], to_copy: Floats, mask: Mask, *, corner: tuple[int, int]
) -> tuple[float, float]:
    """Absolute difference under the mask, which starts at `corner` (x, y), of the copy.

    Returns the median and the 90th percentile: the larger of the planes'.
    """
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
    where = mask[y : y + height, x : x + width]
    x, y = x + corner[0], y + corner[1]
    back = _from_corner(inverse(to_copy), x, y)
    linear = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    differences = []
    for plane in chroma:
        source = cv2.warpAffine(plane, back, (width, height), flags=linear, borderMode=cv2.BORDER_REPLICATE)
        differences.append(np.abs(source - plane[y : y + height, x : x + width])[where])
    return max(map(quantile, differences)), max(quantile(difference, 0.9) for difference in differences)


def _measure(
    source: Plane,
    copy: Plane,
    *,
    mask: Mask,
    comparable: Mask,
    colours: tuple[float, float],
    candidate: CandidateMap,
    linear: Floats,
) -> Measurements:
    """How exactly source and copy agree over the mask; all planes have one shape."""
    source_1, copy_1 = _blur(source, 1.0), _blur(copy, 1.0)
    source_2, copy_2 = _blur(source, DETAIL_SIGMA), _blur(copy, DETAIL_SIGMA)
    noise_source, noise_copy = source - source_1, copy - copy_1
    band_source, band_copy = source_1 - source_2, copy_1 - copy_2
    # Not so near to the outline that a window would see what lies beyond it, if that leaves enough.
    core = next((core for side in (9, 5) if np.count_nonzero(core := _eroded(mask, side)) >= MIN_AREA / 2), mask)
    slope = _mean(band_copy * band_copy + band_source * band_source, 7)
    flat = core & (slope <= quantile(slope[core]))
    ring = _dilated(mask, 25) & ~_dilated(mask, 9) & comparable
    rim = core & ~_eroded(core, 9)
    detail = _zncc(source - source_2, copy - copy_2, 9, floor=0.3)
    beyond = quantile(detail[ring]) if ring.any() else 0.0
    inside = quantile(detail[rim]) if rim.any() else 0.0
    even_source, even_copy = _even(band_source), _even(band_copy)
    noise = quantile(np.abs(noise_copy[flat])) + quantile(np.abs(noise_source[flat]))
    left = quantile(np.abs(noise_copy[flat] - noise_source[flat]))
    gain, offset, residue = _light(source[core], copy[core])
    slow = _blur(copy - np.float32(gain) * source, SHADING_SIGMA)
    inner = _eroded(mask, 2 * SHADING_MARGIN + 1)
    inner = inner if np.count_nonzero(inner) >= MIN_AREA / 2 else core
    shades = slow[inner]
    return Measurements(
        middle=_correlation(even_source, even_copy, core),
        flat_fine=_correlation(_even(noise_source), _even(noise_copy), flat),
        shifted=_correlation_shifted(even_source, even_copy, core),
        lowest=quantile(detail[core], 0.1),
        wobble=_wobble(source_1 - _blur(source, 4.0), copy_1 - _blur(copy, 4.0), core),
        grain_ratio=(left + 0.05) / (noise / math.sqrt(2.0) + 0.05),
        residue=residue,
        noise=noise / 2.0,
        gain=abs(math.log(gain)),
        offset=abs(offset),
        shading=quantile(np.abs(shades - np.float32(quantile(shades))), 0.9),
        chroma=colours[0],
        chroma_most=colours[1],
        beyond=beyond,
        cliff=inside - beyond,
        stretch=stretch(linear),
        change=float(np.abs(linear - np.eye(2)).max()),
        contrast=float(copy[mask].std()),
        even=_even_share(copy[mask]),
        area=float(np.count_nonzero(mask)),
        inliers=float(min(places(candidate.p), places(candidate.q))),
    )


def _hull(points: Floats, shape: tuple[int, ...]) -> Mask:
    """What lies between the points, and a little more."""
    hull = np.zeros(shape, np.uint8)
    cv2.fillConvexPoly(hull, cv2.convexHull(np.round(points).astype(np.int32)), 1)
    return _dilated(hull > 0, 9)


def _moved_if_better(grey: Plane, copy: Plane, back: Floats, hull: Mask, *, points: tuple[Floats, Floats]) -> Floats:
    """The map from copy to source, or the plain shift that most points share if that fits better.

    Most copies are moved only, by whole pixels, and then nothing is as exact; in smooth areas matches, and with them
    the fitted map, are off by a pixel here and there.
    """
    p, q = points
    if np.abs(back[:, :2] - np.eye(2)).max() > NEARLY_MOVED:
        return back
    shifts, counts = np.unique(np.rint(p - q), axis=0, return_counts=True)
    moved = np.column_stack([np.eye(2), shifts[counts.argmax()]])
    return max((back, moved), key=lambda transform: _agreement(grey, copy, transform, hull))


def _agreement(grey: Plane, copy: Plane, back: Floats, hull: Mask) -> float:
    """Correlation of the fine detail of copy and source around the matched points, -1 to 1."""
    x, y, width, height = cv2.boundingRect(hull.view(np.uint8))
    source, part = _warped(grey, _from_corner(back, x, y), (width, height)), copy[y : y + height, x : x + width]
    one, other = _even(source - _blur(source, DETAIL_SIGMA)), _even(part - _blur(part, DETAIL_SIGMA))
    return _correlation(one, other, hull[y : y + height, x : x + width])


def _alike_in(hull: Mask, grey: Plane, copy: Plane, back: Floats) -> Mask:
    """What of the hull looks alike already: enough to align by; the whole of it, if that is too little."""
    near = _around(hull)
    part = copy[near]
    shifted = _from_corner(back, near[1].start, near[0].start)
    source = _warped(grey, shifted, (part.shape[1], part.shape[0]))
    alike = np.zeros_like(hull)
    alike[near] = hull[near] & _eroded(_zncc(source, part, ALIGN_WINDOW, floor=SHAPE_FLOOR) > ALIGN_SHAPE, 5)
    return alike if np.count_nonzero(alike) >= MIN_AREA / 2 else hull


def _aligned(grey: Plane, copy: Plane, back: Floats, where: Mask) -> Floats:
    """The map from copy to source, refined on the pixels of a mask; as it was, if that makes them no more alike.

    Gauss-Newton on all six numbers of the map, brightness and contrast made equal, with less weight for what differs
    much: the mask may reach beyond the copy.
    """
    near = _around(where)
    left, top = near[1].start, near[0].start
    copy, core = copy[near], _thinned(where[near])
    size = (copy.shape[1], copy.shape[0])
    start = _from_corner(back, left, top)
    band = _band(copy)
    levels = band[core]
    rows, columns = np.nonzero(core)
    middle = np.array([columns.mean(), rows.mean()])
    reach = max(float(np.ptp(columns)), float(np.ptp(rows)), 1.0)
    x, y = ((columns - middle[0]) / reach).astype(np.float32), ((rows - middle[1]) / reach).astype(np.float32)
    corners = middle + np.array([[-0.5, -0.5], [0.5, -0.5], [-0.5, 0.5], [0.5, 0.5]]) * reach

    current, best, least = start, start, math.inf
    for step in range(STEPS + 1):
        moved = _band(_warped(grey, current, size))
        from_source = moved[core]
        spread = max(float((from_source * from_source).sum()), 1e-3)
        gain = np.float32(max(float((from_source * levels).sum()) / spread, LEAST_GAIN))
        difference = levels - gain * from_source
        typical = quantile(np.abs(difference))
        if typical < least:
            best, least = current, typical
        if step == STEPS:
            break
        both = 0.5 * (band + gain * moved)
        across = cv2.Sobel(both, cv2.CV_32F, 1, 0, ksize=3, scale=1 / 8)[core]
        down = cv2.Sobel(both, cv2.CV_32F, 0, 1, ksize=3, scale=1 / 8)[core]
        slopes = np.stack([across * x, across * y, across, down * x, down * y, down])
        weighted = slopes / (1.0 + (difference / np.float32(OUTLIER * typical + 0.3)) ** 2)
        # By einsum, not by BLAS, whose threads spin for longer than so little takes.
        normal = np.einsum("in,jn->ij", weighted, slopes).astype(np.float64)
        normal[np.diag_indices(6)] += 1e-4 * np.trace(normal) / 6 + 1e-6
        change = np.linalg.solve(normal, np.einsum("in,n->i", weighted, difference)).reshape(2, 3)
        linear = np.eye(2) + change[:, :2] / reach
        correction = np.column_stack([linear, change[:, 2] + middle - linear @ middle])
        current = np.column_stack([current[:, :2] @ linear, apply(current, correction[:, 2])])
        if not possible(current) or np.abs(apply(current, corners) - apply(start, corners)).max() > MAX_CORRECTION:
            break
    if best is start:
        return back
    return _from_corner(best, -left, -top)


def _thinned(mask: Mask) -> Mask:
    """At most about `MAX_ALIGNED` pixels of the mask, evenly."""
    step = math.ceil(math.sqrt(np.count_nonzero(mask) / MAX_ALIGNED))
    thin = np.zeros_like(mask)
    thin[::step, ::step] = mask[::step, ::step]
    return thin


def _band(plane: Plane) -> Plane:
    fine, coarse = BAND_SIGMAS
    return _blur(plane, fine) - _blur(plane, coarse)


def _tightened(source: Plane, copy: Plane, mask: Mask, q: Floats) -> Mask:
    """The mask without the rim where brightness and contrast made equal leave more than they do inside."""
    core = _eroded(mask, 9)
    core = core if np.count_nonzero(core) >= MIN_AREA else mask
    gain, _, residue = _light(source[core], copy[core])
    near = _around(mask)
    part, inside = copy[near], mask[near]
    difference = np.abs(part - copy[core].mean() - np.float32(gain) * (source[near] - source[core].mean()))
    slope = np.abs(cv2.Sobel(part, cv2.CV_32F, 1, 0, ksize=3, scale=1 / 8))
    slope += np.abs(cv2.Sobel(part, cv2.CV_32F, 0, 1, ksize=3, scale=1 / 8))
    left_over = _mean(np.maximum(difference - 0.5 * slope, 0.0), TIGHT_WINDOW)
    alike = inside & (left_over < TIGHT_LEVELS * (residue + 1.0))
    tight = mask.copy()
    tight[near] &= _connected(alike, q - [near[1].start, near[0].start], grow=1, least=1)
    return tight if np.count_nonzero(tight) >= MIN_AREA else mask


def _connected(alike: Mask, points: Floats, grow: int, least: int = 2) -> Mask:
    """The parts of `alike` that hold at least so many of `points`, without holes, grown back to the windows' edge."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    opened = cv2.morphologyEx(alike.view(np.uint8), cv2.MORPH_OPEN, disc)
    count, labels = cv2.connectedComponents(opened)
    height, width = alike.shape
    columns, rows = np.clip(np.round(points).astype(np.int64), 0, [width - 1, height - 1]).T
    hits = np.bincount(labels[rows, columns], minlength=count)
    hits[0] = 0
    kept = (hits >= least)[labels].astype(np.uint8)
    grown = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (grow, grow))
    kept = cast("NDArray[np.uint8]", cv2.dilate(cv2.morphologyEx(kept, cv2.MORPH_CLOSE, disc, iterations=2), grown))
    outlines, _ = cv2.findContours(kept, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = np.zeros(alike.shape, np.uint8)
    cv2.drawContours(filled, outlines, -1, 1, cv2.FILLED)
    return filled > 0


def _blur(plane: Plane, sigma: float) -> Plane:
    return cast("Plane", cv2.GaussianBlur(plane, (0, 0), sigma))


def _mean(plane: Plane, window: int) -> Plane:
    return cast("Plane", cv2.blur(plane, (window, window), borderType=cv2.BORDER_REFLECT))


def _zncc(a: Plane, b: Plane, window: int, *, floor: float) -> Plane:
    """Local zero-mean normalised cross-correlation; `floor` is added to the variances, so that flat areas give 0."""
    mean_a, mean_b = _mean(a, window), _mean(b, window)
    variance_a = np.maximum(_mean(a * a, window) - mean_a * mean_a, 0.0) + floor
    variance_b = np.maximum(_mean(b * b, window) - mean_b * mean_b, 0.0) + floor
    return cast("Plane", (_mean(a * b, window) - mean_a * mean_b) / np.sqrt(variance_a * variance_b))


def _even(plane: Plane) -> Plane:
    """A residual with the same strength everywhere, so that no single edge decides."""
    return cast("Plane", plane / np.sqrt(_mean(plane * plane, 9) + 0.05))


def _eroded(mask: Mask, side: int) -> Mask:
    return cv2.erode(mask.view(np.uint8), np.ones((side, side), np.uint8)) > 0


def _dilated(mask: Mask, side: int) -> Mask:
    return cv2.dilate(mask.view(np.uint8), np.ones((side, side), np.uint8)) > 0


def _light(source: Plane, copy: Plane) -> tuple[float, float, float]:
    """The gain that makes contrasts equal, by how much the copy is brighter, and `residue`; of pixels (n,)."""
    mean_source, mean_copy = float(source.mean()), float(copy.mean())
    spread = float(((source - mean_source) ** 2).mean())
    gain = float(((source - mean_source) * (copy - mean_copy)).mean()) / max(spread, 1e-3)
    residue = quantile(np.abs(copy - mean_copy - gain * (source - mean_source)))
    return max(gain, LEAST_GAIN), mean_copy - mean_source, residue


def _even_share(levels: Plane) -> float:
    """Largest share of grey levels (n,) that lie within `EVEN_LEVELS` of each other."""
    counts = np.bincount(levels.astype(np.uint8), minlength=256)
    return float(np.convolve(counts, np.ones(EVEN_LEVELS)).max()) / len(levels)


def _wobble(source: Plane, copy: Plane, where: Mask) -> float:
    """Median distance, in pixels, by which distinct places are displaced beyond what all are (Lucas and Kanade 1981).

    B. D. Lucas and T. Kanade, "An iterative image registration technique with an application to stereo vision", IJCAI
    1981, pages 674-679.
    """
    both = source + copy
    across = cv2.Sobel(both, cv2.CV_32F, 1, 0, ksize=3, scale=1 / 16)
    down = cv2.Sobel(both, cv2.CV_32F, 0, 1, ksize=3, scale=1 / 16)
    difference = copy - source
    xx, xy, yy, x, y = (
        _mean(cast("Plane", plane), WOBBLE_WINDOW)
        for plane in (across * across, across * down, down * down, across * difference, down * difference)
    )
    determinant, trace = xx * yy - xy * xy, xx + yy
    least = trace / 2 - np.sqrt(np.maximum(trace * trace / 4 - determinant, 0.0))
    distinct = where & (least > LEAST_CORNER)
    if np.count_nonzero(distinct) < 30:
        return NO_TEXTURE
    scale = 1.0 / determinant[distinct]
    to_x = (yy[distinct] * x[distinct] - xy[distinct] * y[distinct]) * scale
    to_y = (xx[distinct] * y[distinct] - xy[distinct] * x[distinct]) * scale
    to_x -= np.float32(quantile(to_x))
    to_y -= np.float32(quantile(to_y))
    return quantile(np.sqrt(to_x * to_x + to_y * to_y))


def _correlation(a: Plane, b: Plane, where: Mask) -> float:
    """Correlation of two residuals over an area, -1 to 1."""
    return _correlation_of(a[where], b[where])


def _correlation_of(one: Plane, other: Plane) -> float:
    """The same of what lies in the area, (n,) each."""
    strength = math.sqrt(float((one * one).sum()) * float((other * other).sum()))
    return float((one * other).sum()) / strength if strength > 1e-6 else 0.0


_SHIFT: Final = 3
_SHIFTS: Final = ((0, 3), (3, 0), (2, 2), (2, -2), (0, -3), (-3, 0), (-2, -2), (-2, 2))
"""Moves (y, x) by about `_SHIFT` pixels."""


def _correlation_shifted(a: Plane, b: Plane, where: Mask) -> float:
    """The largest correlation of two residuals over an area when `a` is moved by about 3 pixels, in any direction."""
    height, width = a.shape
    around = cast("Plane", cv2.copyMakeBorder(a, _SHIFT, _SHIFT, _SHIFT, _SHIFT, cv2.BORDER_WRAP))
    other = b[where]
    return max(
        _correlation_of(around[_SHIFT - y : _SHIFT - y + height, _SHIFT - x : _SHIFT - x + width][where], other)
        for y, x in _SHIFTS
    )
