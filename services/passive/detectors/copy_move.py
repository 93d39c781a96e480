"""Copy-move: a part of the picture that appears in it twice, found by keypoints and verified by correlation.

1. **Keypoints**: SIFT (Lowe 2004) with a lowered contrast threshold, so that weak texture counts too. Of too many, the
   strongest of each cell of a grid are kept, so that one busy corner does not use up the budget.
2. **Matching**: each keypoint's neighbours among the others' descriptors (approximate, seeded), without those close by
   in the picture; a gap in the distances tells how many of them are copies (g2NN, Amerini 2011).
3. **Clustering**: DBSCAN (Ester 1996) on what a copied region's matches share: both places, the change of scale and the
   rotation.
4. **Geometry**: RANSAC (Fischler 1981) fits an affine map to each cluster; impossible maps, and maps that disagree with
   SIFT's own scale and rotation, are dropped; the fit is refined on the pixels (ECC, Evangelidis 2008).
5. **Verification**: one region is warped onto the other, and their *fine detail* is correlated locally (zero-mean
   normalised cross-correlation, ZNCC). Windows, fences and letters repeat in shape, but their grain, their light and
   their geometry agree less exactly than those of a copy. A logistic model of three measurements is the score.
6. **Mask**: where the correlation is high, connected to the matches.

Not found: copies without keypoints (sky, water, skin), mirrored copies, and those rescaled by more than `MAX_SCALE`.
Which of the two regions is the copy is a guess: the smoother one, since pasting often interpolates.

References:
    D. G. Lowe, "Distinctive image features from scale-invariant keypoints", 2004. 10.1023/B:VISI.0000029664.99615.94
    I. Amerini et al., "A SIFT-based forensic method for copy-move attack detection and transformation recovery", 2011.
        10.1109/TIFS.2011.2129512
    V. Christlein et al., "An evaluation of popular copy-move forgery detection approaches", 2012.
        10.1109/TIFS.2012.2218597
    M. Ester et al., "A density-based algorithm for discovering clusters in large spatial databases with noise",
        KDD 1996, pages 226-231.
    M. A. Fischler and R. C. Bolles, "Random sample consensus", 1981. 10.1145/358669.358692
    G. D. Evangelidis and E. Z. Psarakis, "Parametric image alignment using enhanced correlation coefficient
        maximization", 2008. 10.1109/TPAMI.2008.113
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Final, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import DBSCAN

from services.common.detection import Applicability, Finding, Point, Question, Region, RegionRole, Technique
from services.common.images import Picture
from services.passive.detectors import registry

__all__ = ["CopiedRegion", "CopyMoveResult", "detect_copy_move", "find_copy_moves"]

Floats = NDArray[np.float64]
Plane = NDArray[np.float32]
Indices = NDArray[np.int64]
Mask = NDArray[np.bool_]

# --- What it can look at ---

MIN_SIDE: Final = 64
"""Shortest side in pixels: below it a copy leaves hardly any keypoint."""
MIN_KEYPOINTS: Final = 20
"""Fewer keypoints than this and the picture is too plain to say anything."""

# --- Keypoints and matching ---

MAX_KEYPOINTS: Final = 6_000
"""Most keypoints that are matched; bounds time. A textured 1920x1080 picture has 35,000."""
KEYPOINTS_PER_CELL: Final = 8
"""Keypoints that a cell of the grid may keep before the strongest of the whole picture fill up the rest."""
CONTRAST_THRESHOLD: Final = 0.004
"""SIFT's contrast threshold; Lowe's (in OpenCV's units) is 0.04. In a trial on the calibration split 0.01 with a
`GAP_RATIO` of 0.6 gave regions to verify in 83 of 169 copy-moves, 0.004 with 0.75 in 97."""
NEIGHBOURS: Final = 10
"""Neighbours that are looked up for each keypoint."""
SEARCH_CHECKS: Final = 96
"""Leaves visited by the approximate search; 64 find 93%, 128 find 95% of nearest neighbours on unrelated texture."""
GAP_RATIO: Final = 0.8
"""A neighbour is a match if its distance is below this share of the next one's (Lowe 2004, section 7.1)."""
MAX_CLONES: Final = 4
"""Most matches of one keypoint."""
MAX_DISTANCE: Final = 0.8
"""Largest Euclidean distance of matched descriptors, which have unit length."""
MIN_SHIFT_PIXELS: Final = 20.0
MIN_SHIFT_SHARE: Final = 0.03
"""Matches closer than the larger of `MIN_SHIFT_PIXELS` and this share of the longer side are the same structure."""

# --- Clusters and geometry ---

CLUSTER_REACH: Final = 0.08
"""DBSCAN's radius for the place of either end, as a share of the picture's diagonal."""
CLUSTER_REACH_OCTAVES: Final = 0.8
CLUSTER_REACH_CHORD: Final = 0.6
"""The same for the change of scale (octaves) and the rotation (chord of the unit circle; 0.6 is 35 degrees)."""
MIN_INLIERS: Final = 4
"""Fewest matches, at different places, that carry a map: one more than an affine map has free points."""
INLIER_PIXELS: Final = 2.0
INLIER_SHARE: Final = 0.004
"""Largest error of an inlier: the larger of `INLIER_PIXELS` and this share of the longer side."""
OCTAVE_TOLERANCE: Final = 0.6
ANGLE_TOLERANCE: Final = math.radians(25.0)
"""Largest difference between a match's own scale and rotation (SIFT) and the map's."""
MAX_ANISOTROPY: Final = 1.4
MAX_SCALE: Final = 2.5
"""Maps that stretch one direction more than the other by `MAX_ANISOTROPY`, or enlarge by more than `MAX_SCALE` or its
inverse, are taken for accidents."""
MAX_MAPS: Final = 10
"""Most maps that are verified; bounds time in pictures full of repetition."""
MAX_CLUSTERS: Final = 40
MAPS_PER_CLUSTER: Final = 3
"""Clusters that are searched, largest first, and maps taken from each."""
ECC_MAX_PIXELS: Final = 120_000
"""Regions with a larger bounding box are not refined on the pixels: their matches already fix the map well."""
ECC_MAX_SHIFT: Final = 6.0
"""A refinement that moves a matched point by more pixels than this has gone astray."""

# --- Verification ---

ZNCC_WINDOW: Final = 11
ZNCC_THRESHOLD: Final = 0.8
"""Side of the window (pixels) and least correlation of a pixel of the mask."""
DETAIL_SIGMA: Final = 2.0
DETAIL_WINDOW: Final = 15
"""Fine detail is what a Gaussian of this sigma (pixels) removes; it is correlated in this window."""
MIN_AREA: Final = 80
"""Smallest mask, in pixels of the working size."""
MAX_OVERLAP: Final = 0.25
"""Share of the mask that may lie in its own source. What overlaps more is a symmetric figure or a pattern that goes on:
a copy covers what it was put on, so it cannot lie on its source and match it."""

SCORE_INTERCEPT: Final = -2.2
SCORE_DETAIL: Final = 9.2
SCORE_STRETCH: Final = -16.8
SCORE_DIFFERENCE: Final = -1.66
"""Logistic regression (balanced classes) on 679 candidate regions of the training split: copies planted in 510
photographs (translated, rotated, rescaled, JPEG 75-92) against what repeats in 873 honest ones,
before `MAX_OVERLAP` was applied. The weights are of the correlation of the fine detail, of the stretch of the map
(honest repetition is seen in perspective), and of the logarithm of the difference of the pixels (light differs between
two windows)."""
MAX_STRETCH: Final = 0.2
"""More stretch than this counts as this."""

DECISION_SCORE: Final = 0.5
"""From this score on a region is reported."""

LIKELIHOOD_RATIOS: Final[tuple[tuple[float, float], ...]] = ((0.8, 1.4), (0.5, 0.7), (0.0, 0.0))
"""Least score and log10 likelihood ratio, from `find_copy_moves` on the evaluation data's calibration split: 190 honest
photographs (BSDS500, ImageNet, COCO, CASIA 2 authentic and others), of which none reached 0.5, and 169 copy-moves
(110 planted in the same photographs, 37 of CASIA 2, 22 of CG-1050), of which 70 reached 0.8 and 14 more 0.5. With no
false alarm the rate may be 3/190 (rule of three), so the ratios are 70/169 and 14/169 over that: 10^1.4 and 10^0.7.
Nothing found says next to nothing: half of the copies were missed, and there are other ways to edit."""

MAX_DRAWN_MATCHES: Final = 200
MAX_DRAWN_REGIONS: Final = 24

_SEED: Final = 1
_KDTREE: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CopiedRegion:
    """A region that appears twice. Coordinates are those of the array: (0, 0) is the centre of its first pixel.

    Attributes:
        transform: float64 (2, 3), maps (x, y, 1) of the source to (x, y) of the copy.
        source_mask, copy_mask: bool (height, width).
        source_points, copy_points: float64 (n, 2), the matched points (x, y).
        inliers: number of matched points at different places.
        rotation_degrees: from source to copy, -180 to 180, positive is clockwise as seen.
        scale: length in the copy divided by length in the source.
        zncc: -1 to 1, correlation of the fine detail (median over the matched area).
        stretch: 0 or more, by how much the map stretches one direction more than the other (0.1 = 10%).
        difference: grey levels, median difference of source and copy.
        area_px: pixels of `copy_mask`.
        score: 0-1.
    """

    transform: Floats
    source_mask: Mask
    copy_mask: Mask
    source_points: Floats
    copy_points: Floats
    inliers: int
    rotation_degrees: float
    scale: float
    zncc: float
    stretch: float
    difference: float
    area_px: int
    score: float

    @property
    def translation(self) -> tuple[float, float]:
        """From the middle of the source's matched points to that of the copy's: (x, y), pixels."""
        x, y = (self.copy_points.mean(axis=0) - self.source_points.mean(axis=0)).tolist()
        return x, y


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyMoveResult:
    """What `find_copy_moves` saw.

    Attributes:
        keypoints: number of keypoints that were matched.
        matches: number of pairs of similar keypoints before any geometry.
        regions: verified repetitions, highest score first; also those whose score says that they are honest.
    """

    keypoints: int
    matches: int
    regions: tuple[CopiedRegion, ...] = ()

    @property
    def score(self) -> float:
        """0-1: that of the most suspicious region; 0 without any."""
        return max((region.score for region in self.regions), default=0.0)


@dataclass(frozen=True, slots=True)
class _Keypoints:
    """places (n, 2) as (x, y) in pixels; sizes (n,) in pixels; angles (n,) in radians; descriptors float32 (n, 128)."""

    places: Floats
    sizes: Floats
    angles: Floats
    descriptors: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.places)


@dataclass(frozen=True, slots=True)
class _Matches:
    """n pairs of keypoints: places p and q (n, 2), and what changes from p to q: scale in octaves, angle in radians."""

    p: Floats
    q: Floats
    octaves: Floats
    rotations: Floats

    def __len__(self) -> int:
        return len(self.p)


def find_copy_moves(
    rgb: NDArray[np.uint8],
    *,
    max_keypoints: int = MAX_KEYPOINTS,
    contrast_threshold: float = CONTRAST_THRESHOLD,
    gap_ratio: float = GAP_RATIO,
) -> CopyMoveResult:
    """Finds regions that appear twice; the module's docstring gives the steps.

    Args:
        rgb: uint8 (height, width, 3), at most about 2 megapixels (time and memory grow with it).
        max_keypoints: most keypoints that are matched.
        contrast_threshold: SIFT's, in OpenCV's units.
        gap_ratio: 0-1, see `GAP_RATIO`.

    The same array gives the same answer. OpenCV's generator of random numbers (of this thread) is seeded.
    """
    grey = cast("NDArray[np.uint8]", cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY))
    keypoints = _find_keypoints(grey, max_keypoints=max_keypoints, contrast_threshold=contrast_threshold)
    if len(keypoints) < MIN_KEYPOINTS:
        return CopyMoveResult(keypoints=len(keypoints), matches=0)
    shape = (grey.shape[0], grey.shape[1])
    matches = _match(keypoints, max(shape), gap_ratio=gap_ratio)
    if len(matches) < MIN_INLIERS:
        return CopyMoveResult(keypoints=len(keypoints), matches=len(matches))
    plane = grey.astype(np.float32)
    regions = [
        region
        for transform, inliers in _fit_maps(matches, _cluster(matches, math.hypot(*shape)), max(shape))
        if (region := _verify(plane, transform, inliers)) is not None
    ]
    return CopyMoveResult(
        keypoints=len(keypoints),
        matches=len(matches),
        regions=tuple(sorted(regions, key=lambda region: -region.score)),
    )


@registry.detector(
    name="copy_move",
    version="1",
    title="Copy-move (SIFT + DBSCAN)",
    question=Question.EDITED,
    techniques=(Technique.COPY_MOVE,),
    papers=(
        "10.1023/B:VISI.0000029664.99615.94",
        "10.1109/TIFS.2011.2129512",
        "10.1109/TIFS.2012.2218597",
        "10.1109/TPAMI.2008.113",
    ),
    parameters={
        "max_keypoints": MAX_KEYPOINTS,
        "contrast_threshold": CONTRAST_THRESHOLD,
        "gap_ratio": GAP_RATIO,
        "min_inliers": MIN_INLIERS,
        "cluster_reach": CLUSTER_REACH,
        "zncc_threshold": ZNCC_THRESHOLD,
        "decision_score": DECISION_SCORE,
    },
)
def detect_copy_move(picture: Picture) -> Finding:
    """Finds parts of the picture that were copied within it, also rotated or rescaled.

    Keypoints are found and compared at working size. Both regions are marked, for which of them is the copy is a guess.
    Does not apply to pictures with a side of less than `MIN_SIDE` pixels or with fewer than `MIN_KEYPOINTS` keypoints.
    """
    rgb = picture.working
    height, width = rgb.shape[:2]
    if min(height, width) < MIN_SIDE:
        return Finding.not_applicable(
            f"The picture is too small to look for copied regions ({picture.info.width} x {picture.info.height} "
            f"pixels; at least {MIN_SIDE} a side are needed)."
        )
    result = find_copy_moves(rgb)
    if result.keypoints < MIN_KEYPOINTS:
        return Finding.not_applicable(
            f"The picture is too plain to look for copied regions: {result.keypoints} distinctive points, "
            f"{MIN_KEYPOINTS} are needed."
        )
    found = [region for region in result.regions if region.score >= DECISION_SCORE]
    heat = np.zeros((height, width), np.float32)
    for region in reversed(result.regions):
        heat[region.source_mask | region.copy_mask] = region.score
    return Finding(
        applicability=Applicability.APPLIED,
        score=result.score,
        explanation=_explain(result, found, picture.scale),
        log10_likelihood_ratio=_log10_likelihood_ratio(result.score),
        technique=Technique.COPY_MOVE if found else None,
        heat_map=heat,
        regions=_outlines(found, picture.scale),
        details={
            "keypoints": result.keypoints,
            "matches": result.matches,
            "clusters": [_facts(region, picture.scale) for region in result.regions],
            "matched_points": _drawn_matches(found, picture.scale),
        },
    )


# --- Steps ---


def _find_keypoints(grey: NDArray[np.uint8], *, max_keypoints: int, contrast_threshold: float) -> _Keypoints:
    """SIFT keypoints of a grey picture, at most `max_keypoints`, spread over it."""
    sift = cv2.SIFT.create(contrastThreshold=contrast_threshold)
    found = sift.detect(grey, None)
    if len(found) > max_keypoints:
        places = np.array([point.pt for point in found])
        response = np.array([point.response for point in found])
        side = math.sqrt(grey.size * KEYPOINTS_PER_CELL / max_keypoints)
        column, row = (places // side).astype(np.int64).T
        cell = row * grey.shape[1] + column
        # The rank of each keypoint within its cell, strongest first.
        by_cell = np.lexsort((-response, cell))
        rank = np.empty(len(found), np.int64)
        rank[by_cell] = np.arange(len(found)) - np.searchsorted(cell[by_cell], cell[by_cell])
        spread = np.lexsort((-response, np.maximum(rank, KEYPOINTS_PER_CELL - 1)))
        found = [found[i] for i in np.sort(spread[:max_keypoints]).tolist()]
    if not found:
        return _Keypoints(np.empty((0, 2)), np.empty(0), np.empty(0), np.empty((0, 128), np.float32))
    kept, raw = sift.compute(grey, found)
    descriptors = np.asarray(raw, np.float32)
    descriptors /= np.maximum(np.linalg.norm(descriptors, axis=1, keepdims=True), 1e-6)
    return _Keypoints(
        places=np.array([point.pt for point in kept], np.float64),
        sizes=np.array([point.size for point in kept], np.float64),
        angles=np.radians([point.angle for point in kept]),
        descriptors=descriptors,
    )


def _match(keypoints: _Keypoints, longer_side: int, *, gap_ratio: float) -> _Matches:
    """Pairs of keypoints that look alike and are apart in the picture (g2NN)."""
    # FLANN draws its trees with OpenCV's generator; seeded, the same picture gives the same matches.
    cv2.setRNGSeed(_SEED)
    search = cv2.flann_Index(  # type: ignore[attr-defined]  # missing from OpenCV's stubs
        keypoints.descriptors, {"algorithm": _KDTREE, "trees": 4}
    )
    wanted = min(NEIGHBOURS, len(keypoints))
    near, squared = search.knnSearch(keypoints.descriptors, wanted, params={"checks": SEARCH_CHECKS})
    distance = np.sqrt(np.maximum(squared, 0.0)).astype(np.float64)
    shift = np.linalg.norm(keypoints.places[near] - keypoints.places[:, None], axis=2)
    distance[shift < max(MIN_SHIFT_PIXELS, MIN_SHIFT_SHARE * longer_side)] = np.inf
    order = np.argsort(distance, axis=1, kind="stable")
    near = np.take_along_axis(near, order, axis=1)
    distance = np.take_along_axis(distance, order, axis=1)
    # Behind the last neighbour that was looked up, there is another at least as far.
    farthest = np.where(np.isfinite(distance), distance, 0.0).max(axis=1, keepdims=True)
    behind = np.where(np.isfinite(distance[:, 1:]), distance[:, 1:], farthest)
    ranks = min(MAX_CLONES, wanted - 1)
    gap = distance[:, :ranks] < gap_ratio * behind[:, :ranks]
    accepted = np.where(gap.any(axis=1), ranks - np.argmax(gap[:, ::-1], axis=1), 0)
    matched = (np.arange(ranks) < accepted[:, None]) & (distance[:, :ranks] < MAX_DISTANCE)
    a, rank = np.nonzero(matched)
    b = near[a, rank]
    return _Matches(
        p=keypoints.places[a],
        q=keypoints.places[b],
        octaves=np.log2(keypoints.sizes[b] / keypoints.sizes[a]),
        rotations=keypoints.angles[b] - keypoints.angles[a],
    )


def _cluster(matches: _Matches, diagonal: float) -> Indices:
    """DBSCAN's label of each match, -1 for noise. A match and its reverse fall into different clusters."""
    reach = CLUSTER_REACH * diagonal
    features = np.column_stack(
        [
            matches.p / reach,
            matches.q / reach,
            matches.octaves / CLUSTER_REACH_OCTAVES,
            np.cos(matches.rotations) / CLUSTER_REACH_CHORD,
            np.sin(matches.rotations) / CLUSTER_REACH_CHORD,
        ]
    )
    return cast("Indices", DBSCAN(eps=1.0, min_samples=MIN_INLIERS - 1).fit_predict(features).astype(np.int64))


def _fit_maps(matches: _Matches, labels: Indices, longer_side: int) -> list[tuple[Floats, _Matches]]:
    """Affine maps that clusters of matches agree on, each with its inliers; a map and its inverse are one."""
    reach = max(INLIER_PIXELS, INLIER_SHARE * longer_side)
    sizes = np.bincount(labels[labels >= 0])
    free = np.ones(len(matches), np.bool_)
    maps: list[tuple[Floats, _Matches]] = []
    for label in np.argsort(-sizes, kind="stable")[:MAX_CLUSTERS].tolist():
        for _ in range(MAPS_PER_CLUSTER):
            members = (labels == label) & free
            fitted = _fit_map(matches, members, free, reach)
            if fitted is None:
                break
            transform, inliers = fitted
            reverse = free & ~inliers & (_errors(_inverse(transform), matches.p, matches.q) < 1.5 * reach)
            free &= ~inliers & ~reverse
            maps.append((transform, _join(matches, inliers, reverse)))
            if len(maps) == MAX_MAPS:
                return maps
    return maps


def _fit_map(matches: _Matches, members: Mask, free: Mask, reach: float) -> tuple[Floats, Mask] | None:
    """The affine map of most of `members`, refitted to all `free` matches that follow it, and which those are."""
    if members.sum() < MIN_INLIERS:
        return None
    # OpenCV's RANSAC starts from the same seed at every call.
    guess, _ = cv2.estimateAffine2D(
        matches.p[members],
        matches.q[members],
        method=cv2.RANSAC,
        ransacReprojThreshold=reach,
        maxIters=500,
        confidence=0.999,
        refineIters=0,
    )
    if guess is None or not _possible(transform := np.asarray(guess, np.float64)):
        return None
    inliers = np.zeros(len(matches), np.bool_)
    for _ in range(3):
        linear = transform[:, :2]
        octaves = 0.5 * math.log2(np.linalg.det(linear))
        turned = np.abs(np.angle(np.exp(1j * (matches.rotations - _rotation(linear)))))
        inliers = (
            free
            & (_errors(transform, matches.p, matches.q) < reach)
            & (np.abs(matches.octaves - octaves) < OCTAVE_TOLERANCE)
            & (turned < ANGLE_TOLERANCE)
        )
        if min(_places(matches.p[inliers]), _places(matches.q[inliers])) < MIN_INLIERS:
            return None
        refitted = _least_squares(matches.p[inliers], matches.q[inliers])
        if not _possible(refitted):
            return None
        transform = refitted
    return transform, inliers


def _verify(grey: Plane, transform: Floats, inliers: _Matches) -> CopiedRegion | None:
    """Warps the source onto the copy and correlates the two; None if too little agrees or it is symmetric."""
    height, width = grey.shape
    low, high = inliers.q.min(axis=0), inliers.q.max(axis=0)
    margin = 0.75 * float((high - low).max()) + 48.0
    left, top = np.maximum(np.floor(low - margin), 0).astype(int).tolist()
    right, bottom = np.minimum(np.ceil(high + margin) + 1, [width, height]).astype(int).tolist()
    copy = grey[top:bottom, left:right]
    size = (right - left, bottom - top)
    q = inliers.q - [left, top]

    hull = np.zeros(copy.shape, np.uint8)
    cv2.fillConvexPoly(hull, cv2.convexHull(np.round(q).astype(np.int32)), 1)
    hull = cast("NDArray[np.uint8]", cv2.dilate(hull, np.ones((13, 13), np.uint8)))
    back = _inverse(transform)
    back[:, 2] += back[:, :2] @ [left, top]
    back = _refine(grey, copy, back, hull, q)

    cubic = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    source = cast("Plane", cv2.warpAffine(grey, back, size, flags=cubic, borderMode=cv2.BORDER_REPLICATE))
    rows, columns = np.indices(copy.shape)
    x = back[0, 0] * columns + back[0, 1] * rows + back[0, 2]
    y = back[1, 0] * columns + back[1, 1] * rows + back[1, 2]
    comparable = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    # A region does not count as a copy of itself.
    comparable &= np.hypot(x - columns - left, y - rows - top) > MIN_SHIFT_PIXELS / 2

    alike = (_zncc(source, copy, ZNCC_WINDOW, floor=4.0) > ZNCC_THRESHOLD) & comparable
    mask = _connected(alike, q)
    matched = (hull > 0) & comparable
    area = int(mask.sum())
    if area < MIN_AREA or not matched.any():
        return None
    detail = _zncc(_detail(source, DETAIL_SIGMA), _detail(copy, DETAIL_SIGMA), DETAIL_WINDOW, floor=0.5)
    zncc = float(np.median(detail[matched]))
    difference = float(np.median(np.abs(source - copy)[mask]))
    long, short = np.linalg.svd(back[:, :2], compute_uv=False).tolist()
    stretch = long / short - 1.0

    copy_mask = np.zeros(grey.shape, np.bool_)
    copy_mask[top:bottom, left:right] = mask
    to_copy = _inverse(back)
    to_copy[:, 2] += [left, top]
    nearest = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    source_mask = cv2.warpAffine(copy_mask.astype(np.uint8), to_copy, (width, height), flags=nearest) > 0
    if (source_mask & copy_mask).sum() > MAX_OVERLAP * area:
        return None
    region = CopiedRegion(
        transform=to_copy,
        source_mask=source_mask,
        copy_mask=copy_mask,
        source_points=inliers.p,
        copy_points=inliers.q,
        inliers=min(_places(inliers.p), _places(inliers.q)),
        rotation_degrees=math.degrees(_rotation(to_copy[:, :2])),
        scale=math.sqrt(abs(float(np.linalg.det(to_copy[:, :2])))),
        zncc=zncc,
        stretch=stretch,
        difference=difference,
        area_px=area,
        score=_score(zncc=zncc, stretch=stretch, difference=difference),
    )
    return region if _sharpness(grey, region.source_mask) >= _sharpness(grey, copy_mask) else _reversed(region)


def _score(*, zncc: float, stretch: float, difference: float) -> float:
    """0-1: how much a repetition looks like a copy and not like two things of a kind."""
    logit = (
        SCORE_INTERCEPT
        + SCORE_DETAIL * zncc
        + SCORE_STRETCH * min(stretch, MAX_STRETCH)
        + SCORE_DIFFERENCE * math.log2(difference + 0.5)
    )
    return 1.0 / (1.0 + math.exp(-logit))


def _refine(grey: Plane, copy: Plane, back: Floats, hull: NDArray[np.uint8], q: Floats) -> Floats:
    """The map from copy to source, refined on the pixels; as it was, if that fails, wanders off or costs too much."""
    x, y, width, height = cv2.boundingRect(hull)
    if width * height > ECC_MAX_PIXELS:
        return back
    start = back.copy()
    start[:, 2] += start[:, :2] @ [x, y]
    try:
        _, found = cv2.findTransformECC(
            copy[y : y + height, x : x + width],
            grey,
            start.astype(np.float32),
            cv2.MOTION_AFFINE,
            (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 25, 1e-4),
            hull[y : y + height, x : x + width],
            5,
        )
    except cv2.error:  # it says so when it does not converge
        return back
    refined = np.asarray(found, np.float64)
    refined[:, 2] -= refined[:, :2] @ [x, y]
    moved = np.abs(_apply(refined, q) - _apply(back, q)).max()
    return refined if moved < ECC_MAX_SHIFT and _possible(refined) else back


def _connected(alike: Mask, points: Floats) -> Mask:
    """The parts of `alike` that hold at least two of `points`, without holes, grown back to the windows' edge."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    opened = cv2.morphologyEx(alike.astype(np.uint8), cv2.MORPH_OPEN, disc)
    count, labels = cv2.connectedComponents(opened)
    height, width = alike.shape
    columns, rows = np.clip(np.round(points).astype(np.int64), 0, [width - 1, height - 1]).T
    hits = np.bincount(labels[rows, columns], minlength=count)
    hits[0] = 0
    kept = (hits >= 2)[labels].astype(np.uint8)
    kept = cast("NDArray[np.uint8]", cv2.dilate(cv2.morphologyEx(kept, cv2.MORPH_CLOSE, disc, iterations=2), disc))
    outlines, _ = cv2.findContours(kept, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = np.zeros(alike.shape, np.uint8)
    cv2.drawContours(filled, outlines, -1, 1, cv2.FILLED)
    return filled > 0


# --- Small geometry and filters ---


def _inverse(transform: Floats) -> Floats:
    return np.asarray(cv2.invertAffineTransform(transform), np.float64)


def _apply(transform: Floats, points: Floats) -> Floats:
    return points @ transform[:, :2].T + transform[:, 2]


def _errors(transform: Floats, p: Floats, q: Floats) -> Floats:
    return cast("Floats", np.linalg.norm(_apply(transform, p) - q, axis=1))


def _least_squares(p: Floats, q: Floats) -> Floats:
    """The affine map with the least squared error."""
    return np.asarray(np.linalg.lstsq(np.column_stack([p, np.ones(len(p))]), q, rcond=None)[0].T, np.float64)


def _rotation(linear: Floats) -> float:
    """Radians, of the rotation nearest to a 2x2 matrix."""
    return math.atan2(linear[1, 0] - linear[0, 1], linear[0, 0] + linear[1, 1])


def _possible(transform: Floats) -> bool:
    """False for mirrored, degenerate or extreme maps."""
    linear = transform[:, :2]
    if not np.isfinite(transform).all() or np.linalg.det(linear) <= 0:
        return False
    long, short = np.linalg.svd(linear, compute_uv=False).tolist()
    return bool(long / short < MAX_ANISOTROPY and 1 / MAX_SCALE < math.sqrt(long * short) < MAX_SCALE)


def _places(points: Floats) -> int:
    """Number of points at least about 3 pixels apart: SIFT gives several keypoints, of several angles, to one place."""
    return len(np.unique(np.round(points / 3.0), axis=0))


def _join(matches: _Matches, forward: Mask, reverse: Mask) -> _Matches:
    """The matches of one map, those found from the copy's side turned round."""
    return _Matches(
        p=np.concatenate([matches.p[forward], matches.q[reverse]]),
        q=np.concatenate([matches.q[forward], matches.p[reverse]]),
        octaves=np.concatenate([matches.octaves[forward], -matches.octaves[reverse]]),
        rotations=np.concatenate([matches.rotations[forward], -matches.rotations[reverse]]),
    )


def _reversed(region: CopiedRegion) -> CopiedRegion:
    return replace(
        region,
        transform=_inverse(region.transform),
        source_mask=region.copy_mask,
        copy_mask=region.source_mask,
        source_points=region.copy_points,
        copy_points=region.source_points,
        rotation_degrees=-region.rotation_degrees,
        scale=1.0 / region.scale,
        area_px=int(region.source_mask.sum()),
    )


def _blur(plane: Plane, window: int) -> Plane:
    return cast("Plane", cv2.blur(plane, (window, window), borderType=cv2.BORDER_REFLECT))


def _zncc(a: Plane, b: Plane, window: int, *, floor: float) -> Plane:
    """Local zero-mean normalised cross-correlation; `floor` is added to the variances, so that flat areas give 0."""
    mean_a, mean_b = _blur(a, window), _blur(b, window)
    variance_a = np.maximum(_blur(a * a, window) - mean_a * mean_a, 0.0) + floor
    variance_b = np.maximum(_blur(b * b, window) - mean_b * mean_b, 0.0) + floor
    return cast("Plane", (_blur(a * b, window) - mean_a * mean_b) / np.sqrt(variance_a * variance_b))


def _detail(plane: Plane, sigma: float) -> Plane:
    return cast("Plane", plane - cv2.GaussianBlur(plane, (0, 0), sigma))


def _sharpness(grey: Plane, mask: Mask) -> float:
    """Mean square of the finest detail (sigma 1 pixel) under the mask."""
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    part = np.s_[y : y + height, x : x + width]
    if not width:
        return 0.0
    return float(np.mean(_detail(grey[part], 1.0)[mask[part]] ** 2))


# --- In words and for drawing ---


def _log10_likelihood_ratio(score: float) -> float:
    return next(ratio for least, ratio in LIKELIHOOD_RATIOS if score >= least)


def _explain(result: CopyMoveResult, found: list[CopiedRegion], scale: float) -> str:
    if not found:
        if result.regions:
            return (
                "No copied region was found: some parts look alike, but not as exactly as a copy would "
                f"({result.keypoints:,} points compared)."
            )
        return f"No copied region was found ({result.keypoints:,} points compared)."
    first = found[0]
    changes = []
    if abs(first.rotation_degrees) >= 1.0:
        changes.append(f"rotated {abs(first.rotation_degrees):.0f} degrees")
    if abs(first.scale - 1.0) >= 0.03:
        enlarged = first.scale > 1.0
        changes.append(f"{'enlarged' if enlarged else 'reduced'} {max(first.scale, 1 / first.scale):.2f} times")
    area = first.area_px / scale**2
    sentence = (
        f"A region of {area:,.0f} pixels appears twice: {' and '.join(changes) or 'shifted'} "
        f"({first.inliers} matching points, correlation of the fine detail {first.zncc:.2f})."
    )
    if len(found) > 1:
        sentence += f" {len(found) - 1} more such {'pair' if len(found) == 2 else 'pairs'} of regions."
    return sentence


def _facts(region: CopiedRegion, scale: float) -> dict[str, Any]:
    """What a report says of a region; lengths in pixels of the full-size picture."""
    x, y = region.translation
    return {
        "inliers": region.inliers,
        "rotation_degrees": round(region.rotation_degrees, 2),
        "scale": round(region.scale, 4),
        "translation": [round(x / scale, 1), round(y / scale, 1)],
        "area_px": round(region.area_px / scale**2),
        "zncc": round(region.zncc, 4),
        "score": round(region.score, 4),
    }


def _outlines(found: list[CopiedRegion], scale: float) -> tuple[Region, ...]:
    """Outlines of all found regions, most suspect first, in pixels of the full-size picture."""
    outlines = []
    for region in found:
        for role, mask in ((RegionRole.COPY, region.copy_mask), (RegionRole.SOURCE, region.source_mask)):
            contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
            for contour in contours:
                corners = cv2.approxPolyDP(contour, 1.0, True).reshape(-1, 2)
                if len(corners) >= 3 and cv2.contourArea(corners) >= MIN_AREA / 2:
                    polygon = tuple(Point(x, y) for x, y in ((corners + 0.5) / scale).tolist())
                    outlines.append(Region(role=role, polygon=polygon, score=region.score))
    return tuple(outlines[:MAX_DRAWN_REGIONS])


def _drawn_matches(found: list[CopiedRegion], scale: float) -> list[list[float]]:
    """At most `MAX_DRAWN_MATCHES` of the matched points, [x, y, x, y] from source to copy, in full-size pixels."""
    if not found:
        return []
    pairs = np.concatenate([np.hstack([region.source_points, region.copy_points]) for region in found])
    step = math.ceil(len(pairs) / MAX_DRAWN_MATCHES)
    return cast("list[list[float]]", np.round((pairs[::step] + 0.5) / scale, 1).tolist())
