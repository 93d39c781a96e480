"""Candidate maps out of matched keypoints.

1. **Keypoints**: SIFT (Lowe 2004) with a lowered contrast threshold, so that weak texture counts too. Of too many, the
   strongest of each cell of a grid are kept, so that one busy corner does not use up the budget. They are found in the
   picture doubled in size, and described at the same blur in the picture as it is.
2. **Matching**: each keypoint's neighbours among the others' descriptors (approximate, seeded), without those close by
   in the picture; a gap in the distances tells how many of them are copies (g2NN, Amerini 2011). A second time with
   mirrored descriptors: those of a mirrored patch are the same numbers in another order.
3. **Clustering**: DBSCAN (Ester 1996) on what a copied region's matches share: both places, the change of scale and the
   rotation.
4. **Geometry**: RANSAC (Fischler 1981) fits an affine map to each cluster; impossible maps, and maps that disagree with
   SIFT's own scale and rotation, are dropped.
5. **Small copies** hold too few keypoints for a cluster, and these are seldom distinct enough for g2NN. There every
   keypoint's nearest neighbour counts, gap or not: its place, scale and rotation say where the keypoints around it must
   lie, and the pairs that most of their surroundings follow so are maps too (semi-local constraints, Schmid and Mohr
   1997, 10.1109/34.589215).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import DBSCAN
from sklearn.neighbors import BallTree

from services.passive.detectors._copy_move.geometry import (
    CandidateMap,
    Floats,
    Mask,
    Plane,
    errors,
    inverse,
    least_squares,
    min_shift,
    places,
    possible,
    rotation,
)

__all__ = [
    "CONTRAST_THRESHOLD",
    "GAP_RATIO",
    "MAX_KEYPOINTS",
    "KeypointPairs",
    "Keypoints",
    "Matched",
    "find_keypoints",
    "find_small_maps",
    "match_keypoints",
]

Indices = NDArray[np.int64]

MAX_KEYPOINTS: Final = 6_000
"""Most keypoints that are matched; bounds time. A textured 1920x1080 picture has 35,000."""
KEYPOINTS_PER_CELL: Final = 8
"""Keypoints that a cell of the grid may keep before the strongest of the whole picture fill up the rest."""
CONTRAST_THRESHOLD: Final = 0.004
"""SIFT's contrast threshold; Lowe's (in OpenCV's units) is 0.04. In a trial on the calibration split 0.01 with a
`GAP_RATIO` of 0.6 gave regions to verify in 83 of 169 copy-moves, 0.004 with 0.75 in 97."""
DESCRIBED_SIGMA: Final = 0.8 * 2 ** (1 / 3)
"""Blur of the first layer of the scale space that keypoints are described in, in pixels. It is that of the first layer
that keypoints are found in, in a picture doubled in size; so each layer is found again with half as many pixels a side,
and a descriptor costs a quarter."""
DOUBLING_SHIFT: Final = 0.25
"""Pixels by which OpenCV misplaces keypoints, to the right and down: it doubles the picture about the corner of its
first pixel, but halves places about the centre of that."""
NEIGHBOURS: Final = 8
"""Neighbours that are looked up for each keypoint."""
SEARCH_LENGTH: Final = 32
SEARCH_CHECKS: Final = 40
"""Components of the descriptors that the approximate search goes by, and leaves that it visits: the double of a
keypoint is far nearer than anything else, and so is found among the first. One tree of so few components finds more of
the true neighbours than four trees of all 128 numbers, in two thirds of the time. They are waves over a descriptor's
cells and directions, nearly its principal components, and need no eigenvectors: for those NumPy's BLAS wakes threads
that then spin for longer than all of the search takes."""
MAX_FOR_AXES: Final = 1_000
"""Descriptors that the components are chosen by, at most."""
GAP_RATIO: Final = 0.8
"""A neighbour is a match if its distance is below this share of the next one's (Lowe 2004, section 7.1)."""
MAX_CLONES: Final = 4
"""Most matches of one keypoint."""
MAX_DISTANCE: Final = 0.8
"""Largest Euclidean distance of matched descriptors, which have unit length."""

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
MAX_MAPS: Final = 10
"""Most maps that are verified; bounds time in pictures full of repetition."""
MAX_CLUSTERS: Final = 40
MAPS_PER_CLUSTER: Final = 3
"""Clusters that are searched, largest first, and maps taken from each."""

MAX_NEAREST_DISTANCE: Final = 0.9
MAX_NEAREST_OCTAVES: Final = 1.15
"""A keypoint and its nearest neighbour are a pair if their descriptors are no farther apart, and their sizes differ by
no more octaves."""
SUPPORT_REACH: Final = 60.0
"""Pixels around a pair, at both ends together, in which others may support it."""
SUPPORT_PIXELS: Final = 1.5
SUPPORT_SHARE: Final = 0.12
"""A pair supports another if it lies where that one's scale and rotation say, but for `SUPPORT_PIXELS` and this share
of their distance: of one keypoint alone, rotation and scale are known roughly."""
SUPPORT_OCTAVES: Final = 0.7
SUPPORT_CHORD: Final = 0.5
"""And if its scale (octaves) and rotation (chord of the unit circle) differ by no more."""
SUPPORTED_AT_ONCE: Final = 1_000
"""Pairs whose supporters are sought at once; bounds memory."""
LEAST_SUPPORT: Final = 0.7
"""Least support of a pair that gives a map; a pair that lies exactly where it should supports by 1."""
SAME_SMALL: Final = 30.0
"""Pixels within which, along x and y and at both ends, a pair of less support says the same."""
MAX_SMALL_MAPS: Final = 8
"""Most maps of small copies that are verified; bounds time. Of 89 copies of train that nothing led to, 27 are among so
many."""

_SEED: Final = 1
_KDTREE: Final = 1

_MIRRORED: Final = np.arange(128).reshape(4, 4, 8)[::-1][..., -np.arange(8) % 8].ravel()
"""Order of a SIFT descriptor's numbers that makes it the descriptor of the mirrored patch: the rows of its 4 x 4 cells
from bottom to top, its 8 directions the other way round."""


@dataclass(frozen=True, slots=True)
class Keypoints:
    """places (n, 2) as (x, y) in pixels; sizes (n,) in pixels; angles (n,) in radians; descriptors float32 (n, 128)."""

    places: Floats
    sizes: Floats
    angles: Floats
    descriptors: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.places)

    @classmethod
    def none(cls) -> Keypoints:
        """No keypoints."""
        return cls(np.empty((0, 2)), np.empty(0), np.empty(0), np.empty((0, 128), np.float32))


@dataclass(frozen=True, slots=True)
class KeypointPairs:
    """n pairs of keypoints: places p and q (n, 2), and what changes from p to q: scale in octaves, angle in radians.

    If `mirrored`, the angle is that of the rotation after a mirroring left to right.
    """

    p: Floats
    q: Floats
    octaves: Floats
    rotations: Floats
    mirrored: bool

    def __len__(self) -> int:
        return len(self.p)

    def __getitem__(self, kept: Indices | Mask) -> KeypointPairs:
        return KeypointPairs(self.p[kept], self.q[kept], self.octaves[kept], self.rotations[kept], self.mirrored)

    @classmethod
    def of(cls, keypoints: Keypoints, a: Indices, b: Indices, *, mirrored: bool) -> KeypointPairs:
        """Those of the keypoints number `a` with number `b`, (n,) each."""
        before = math.pi - keypoints.angles[a] if mirrored else keypoints.angles[a]
        return cls(
            p=keypoints.places[a],
            q=keypoints.places[b],
            octaves=np.log2(keypoints.sizes[b] / keypoints.sizes[a]),
            rotations=keypoints.angles[b] - before,
            mirrored=mirrored,
        )

    @classmethod
    def none(cls, *, mirrored: bool) -> KeypointPairs:
        """No pairs."""
        return cls(np.empty((0, 2)), np.empty((0, 2)), np.empty(0), np.empty(0), mirrored)


def find_keypoints(grey: NDArray[np.uint8], *, max_keypoints: int, contrast_threshold: float) -> Keypoints:
    """SIFT keypoints of a grey picture, at most `max_keypoints`, spread over it."""
    detector = cv2.SIFT.create(contrastThreshold=contrast_threshold)
    found = detector.detect(grey, None)
    kept = _spread(found, grey, max_keypoints)
    if not kept:
        return Keypoints.none()
    describer = cv2.SIFT.create(sigma=DESCRIBED_SIGMA)
    described, raw = describer.compute(grey, [_in_coarser_octave(found[i]) for i in kept])
    descriptors = np.asarray(raw, np.float32)
    descriptors /= np.maximum(np.linalg.norm(descriptors, axis=1, keepdims=True), 1e-6)
    return Keypoints(
        places=np.array([point.pt for point in described], np.float64),
        sizes=np.array([point.size for point in described], np.float64),
        angles=np.radians([point.angle for point in described]),
        descriptors=descriptors,
    )


def _in_coarser_octave(point: cv2.KeyPoint) -> cv2.KeyPoint:
    """The same keypoint, its layer named as it is in the scale space of `DESCRIBED_SIGMA`, and where it really lies."""
    # OpenCV packs the octave, -1 for the doubled picture, into the lowest byte and the layer, from 1, into the next.
    octave, layer = (point.octave + 1) & 0xFF, ((point.octave >> 8) & 0xFF) - 1
    x, y = point.pt
    return cv2.KeyPoint(
        x - DOUBLING_SHIFT, y - DOUBLING_SHIFT, point.size, point.angle, point.response, octave | layer << 8
    )


def _spread(found: Sequence[cv2.KeyPoint], grey: NDArray[np.uint8], max_keypoints: int) -> list[int]:
    """Which keypoints are kept: the strongest of each cell of a grid, then those of the whole picture."""
    if len(found) <= max_keypoints:
        return list(range(len(found)))
    centres = np.array([point.pt for point in found])
    response = np.array([point.response for point in found])
    side = math.sqrt(grey.size * KEYPOINTS_PER_CELL / max_keypoints)
    column, row = (centres // side).astype(np.int64).T
    cell = row * grey.shape[1] + column
    # The rank of each keypoint within its cell, strongest first.
    by_cell = np.lexsort((-response, cell))
    rank = np.empty(len(found), np.int64)
    rank[by_cell] = np.arange(len(found)) - np.searchsorted(cell[by_cell], cell[by_cell])
    spread = np.lexsort((-response, np.maximum(rank, KEYPOINTS_PER_CELL - 1)))
    return cast("list[int]", np.sort(spread[:max_keypoints]).tolist())


@dataclass(frozen=True, slots=True, kw_only=True)
class Matched:
    """What a picture's keypoints say.

    Attributes:
        count: number of matches that are distinct (g2NN).
        maps: those that clusters of them follow.
        nearest: each keypoint and what resembles it most elsewhere, however much else does.
    """

    count: int
    maps: list[CandidateMap]
    nearest: KeypointPairs


def match_keypoints(
    keypoints: Keypoints, shape: tuple[int, int], *, gap_ratio: float, mirrored: bool = False
) -> Matched:
    """Matches keypoints with each other: for copies as they are, or for mirrored ones.

    OpenCV's generator of random numbers (of this thread) is seeded.
    """
    if len(keypoints) <= MIN_INLIERS:
        return Matched(count=0, maps=[], nearest=KeypointPairs.none(mirrored=mirrored))
    longer_side, diagonal = max(shape), math.hypot(*shape)
    # FLANN draws its trees with OpenCV's generator; seeded, the same picture gives the same matches.
    cv2.setRNGSeed(_SEED)
    axes = _telling_axes(keypoints.descriptors)
    index = cv2.flann_Index(  # type: ignore[attr-defined]  # missing from OpenCV's stubs
        _along(axes, keypoints.descriptors), {"algorithm": _KDTREE, "trees": 1}
    )
    near, distance = _neighbours(keypoints, index, axes, longer_side, mirrored=mirrored)
    matches = _distinct(keypoints, near, distance, gap_ratio=gap_ratio, mirrored=mirrored)
    maps = [] if len(matches) < MIN_INLIERS else _fit_maps(matches, _cluster(matches, diagonal), longer_side)
    a = np.flatnonzero(distance[:, 0] < MAX_NEAREST_DISTANCE)
    return Matched(count=len(matches), maps=maps, nearest=KeypointPairs.of(keypoints, a, near[a, 0], mirrored=mirrored))


@cache
def _waves() -> Plane:
    """The waves (128, 128) that a descriptor's 4 x 4 cells of 8 directions are sums of, each of unit length."""
    place = np.arange(4)
    across = np.cos(np.pi * np.outer(place, place + 0.5) / 4)
    turn = 2 * np.pi * np.outer(np.arange(8) // 2 + np.arange(8) % 2, np.arange(8)) / 8
    around = np.where(np.arange(8)[:, None] % 2, np.sin(turn), np.cos(turn))
    around[7] = np.cos(np.pi * np.arange(8))
    axes = np.kron(across, np.kron(across, around))
    return np.asarray(axes / np.linalg.norm(axes, axis=1, keepdims=True), np.float32)


def _telling_axes(descriptors: Plane) -> Plane:
    """Of the waves, those (`SEARCH_LENGTH`, 128) in which the descriptors differ most; a part of them tells."""
    part = descriptors[:: math.ceil(len(descriptors) / MAX_FOR_AXES)]
    spread = _along(_waves(), part).var(axis=0)
    return np.ascontiguousarray(_waves()[np.argsort(-spread, kind="stable")[:SEARCH_LENGTH]])


def _along(axes: Plane, descriptors: Plane) -> Plane:
    """Descriptors (n, 128) along `axes` (m, 128): (n, m)."""
    # Not by NumPy, whose BLAS wakes threads for it that then spin for longer than all of this takes.
    nothing = np.empty(0, np.float32)
    return cast("Plane", cv2.gemm(np.ascontiguousarray(descriptors), axes, 1.0, nothing, 0.0, flags=cv2.GEMM_2_T))


def _neighbours(
    keypoints: Keypoints, index: Any, axes: Plane, longer_side: int, *, mirrored: bool
) -> tuple[Indices, Floats]:
    """Of each keypoint, those that resemble it most, nearest first, and how far they are: infinitely, if close by.

    Both are (n, `NEIGHBOURS`), or fewer where there are fewer keypoints.
    """
    sought = keypoints.descriptors[:, _MIRRORED] if mirrored else keypoints.descriptors
    wanted = min(NEIGHBOURS, len(keypoints))
    near, _ = index.knnSearch(_along(axes, sought), wanted, params={"checks": SEARCH_CHECKS})
    cosine = np.einsum("ik,ijk->ij", sought, keypoints.descriptors[near])
    distance = np.sqrt(np.maximum(2.0 - 2.0 * cosine, 0.0)).astype(np.float64)
    shift = np.linalg.norm(keypoints.places[near] - keypoints.places[:, None], axis=2)
    distance[shift < min_shift(longer_side)] = np.inf
    order = np.argsort(distance, axis=1, kind="stable")
    return np.take_along_axis(near, order, axis=1), np.take_along_axis(distance, order, axis=1)


def _distinct(
    keypoints: Keypoints, near: Indices, distance: Floats, *, gap_ratio: float, mirrored: bool
) -> KeypointPairs:
    """Pairs of keypoints that look alike as nothing else does (g2NN)."""
    # Behind the last neighbour that was looked up, there is another at least as far.
    farthest = np.where(np.isfinite(distance), distance, 0.0).max(axis=1, keepdims=True)
    behind = np.where(np.isfinite(distance[:, 1:]), distance[:, 1:], farthest)
    ranks = min(MAX_CLONES, distance.shape[1] - 1)
    gap = distance[:, :ranks] < gap_ratio * behind[:, :ranks]
    accepted = np.where(gap.any(axis=1), ranks - np.argmax(gap[:, ::-1], axis=1), 0)
    matched = (np.arange(ranks) < accepted[:, None]) & (distance[:, :ranks] < MAX_DISTANCE)
    a, rank = np.nonzero(matched)
    return KeypointPairs.of(keypoints, a, near[a, rank], mirrored=mirrored)


def _from_here(matches: KeypointPairs, members: Mask) -> Mask:
    """Which matches begin nearer to where `members` begin than to where these end."""
    begin, end = matches.p[members].mean(axis=0), matches.q[members].mean(axis=0)
    nearer = np.linalg.norm(matches.p - begin, axis=1) < np.linalg.norm(matches.p - end, axis=1)
    return cast("Mask", nearer)


def _cluster(matches: KeypointPairs, diagonal: float) -> Indices:
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
    # Of so few numbers each, in so dense clusters, a ball tree finds neighbours in two thirds of a k-d tree's time.
    dbscan = DBSCAN(eps=1.0, min_samples=MIN_INLIERS - 1, algorithm="ball_tree")
    return cast("Indices", dbscan.fit_predict(features).astype(np.int64))


def _fit_maps(matches: KeypointPairs, labels: Indices, longer_side: int) -> list[CandidateMap]:
    """Affine maps that clusters of matches agree on, each with its inliers; a map and its inverse are one."""
    reach = max(INLIER_PIXELS, INLIER_SHARE * longer_side)
    sizes = np.bincount(labels[labels >= 0])
    free = np.ones(len(matches), np.bool_)
    maps: list[CandidateMap] = []
    for label in np.argsort(-sizes, kind="stable")[:MAX_CLUSTERS].tolist():
        for _ in range(MAPS_PER_CLUSTER):
            members = (labels == label) & free
            fitted = _fit_map(matches, members, free, reach)
            if fitted is None:
                break
            transform, inliers = fitted
            reverse = free & ~inliers & (errors(inverse(transform), matches.p, matches.q) < 1.5 * reach)
            free &= ~inliers & ~reverse
            # Those that were found from the copy's side are turned round.
            p = np.concatenate([matches.p[inliers], matches.q[reverse]])
            q = np.concatenate([matches.q[inliers], matches.p[reverse]])
            maps.append(CandidateMap(transform=transform, p=p, q=q, way="keypoints"))
            if len(maps) == MAX_MAPS:
                return maps
    return maps


def _fit_map(matches: KeypointPairs, members: Mask, free: Mask, reach: float) -> tuple[Floats, Mask] | None:
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
    if guess is None or not possible(transform := np.asarray(guess, np.float64), mirrored=matches.mirrored):
        return None
    inliers = np.zeros(len(matches), np.bool_)
    for _ in range(3):
        linear = transform[:, :2]
        octaves = 0.5 * math.log2(abs(np.linalg.det(linear)))
        inliers = (
            free
            & (errors(transform, matches.p, matches.q) < reach)
            & (np.abs(matches.octaves - octaves) < OCTAVE_TOLERANCE)
        )
        turned = np.abs(np.angle(np.exp(1j * (matches.rotations[inliers] - rotation(linear)))))
        inliers[inliers] = turned < ANGLE_TOLERANCE
        if abs(rotation(linear)) > math.pi - ANGLE_TOLERANCE:
            # Half a turn is its own inverse: the matches from the copy back to its source follow the same map.
            inliers &= _from_here(matches, members)
        if min(places(matches.p[inliers]), places(matches.q[inliers])) < MIN_INLIERS:
            return None
        refitted = least_squares(matches.p[inliers], matches.q[inliers])
        if not possible(refitted, mirrored=matches.mirrored):
            return None
        transform = refitted
    return transform, inliers


# --- Small copies ---


def find_small_maps(nearest: KeypointPairs) -> list[CandidateMap]:
    """Maps of copies that hold few keypoints: of those pairs whose surroundings follow them, most supported first.

    Args:
        nearest: each keypoint with what resembles it most, places in pixels.

    Returns:
        At most `MAX_SMALL_MAPS`; their points are the pair and those that support it.
    """
    pairs = nearest[_one_a_place(nearest)]
    if len(pairs) < 2:
        return []
    one, other, weight = _supporters(pairs)
    support = np.bincount(one, weight, minlength=len(pairs))
    maps: list[CandidateMap] = []
    left = support >= LEAST_SUPPORT
    while left.any() and len(maps) < MAX_SMALL_MAPS:
        best = int(np.argmax(np.where(left, support, 0.0)))
        left &= ~(_near(pairs.p, pairs.p[best]) & _near(pairs.q, pairs.q[best]))
        left &= ~(_near(pairs.p, pairs.q[best]) & _near(pairs.q, pairs.p[best]))
        members = np.append(other[one == best], best)
        transform = _similarity(pairs.p[members], pairs.q[members], mirrored=pairs.mirrored)
        if possible(transform, mirrored=pairs.mirrored):
            maps.append(CandidateMap(transform=transform, p=pairs.p[members], q=pairs.q[members], way="small"))
    return maps


def _one_a_place(pairs: KeypointPairs) -> Indices:
    """Numbers of the pairs whose sizes are possible, one of those that have both ends in common but for 3 pixels."""
    sizes = np.flatnonzero(np.abs(pairs.octaves) < MAX_NEAREST_OCTAVES)
    cells = np.rint(np.hstack([pairs.p, pairs.q])[sizes] / 3.0).astype(np.int64)
    number = ((cells[:, 0] << 48) + (cells[:, 1] << 32)) + ((cells[:, 2] << 16) + cells[:, 3])
    return sizes[np.unique(number, return_index=True)[1]]


def _supporters(pairs: KeypointPairs) -> tuple[Indices, Indices, Floats]:
    """Which pairs are supported by which others, and how well, 0-1; (n,) each."""
    ends = np.hstack([pairs.p, pairs.q])
    tree = BallTree(ends)
    found: list[tuple[Indices, Indices, Floats]] = []
    # In parts, for in a regular pattern a pair has hundreds of others around it.
    for first in range(0, len(ends), SUPPORTED_AT_ONCE):
        around = tree.query_radius(ends[first : first + SUPPORTED_AT_ONCE], SUPPORT_REACH)
        one = first + np.repeat(np.arange(len(around)), [len(others) for others in around])
        other = np.concatenate(around)
        off, allowed = _off(pairs, one, other)
        follows = (off < allowed) & (np.abs(pairs.octaves[one] - pairs.octaves[other]) < SUPPORT_OCTAVES)
        follows &= np.abs(np.exp(1j * pairs.rotations[one]) - np.exp(1j * pairs.rotations[other])) < SUPPORT_CHORD
        found.append((one[follows], other[follows], (1.0 - off / allowed)[follows]))
    one, other, weight = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return one, other, weight


def _off(pairs: KeypointPairs, one: Indices, other: Indices) -> tuple[Floats, Floats]:
    """How far the `other` pair of each lies off where the `one` says that it must, and how far it may; pixels, (n,).

    Those that are nearer than 3 pixels at either end, and so say the same, are at infinity.
    """
    p, q = (pairs.p @ [1.0, 1j], pairs.q @ [1.0, 1j])
    from_p, from_q = p[other] - p[one], q[other] - q[one]
    along = np.exp2(pairs.octaves) * np.exp(1j * pairs.rotations)
    predicted = along[one] * (-from_p.conj() if pairs.mirrored else from_p)
    apart = np.abs(from_q)
    off = np.abs(predicted - from_q)
    off[(apart < 3.0) | (np.abs(from_p) < 3.0)] = np.inf
    return off, SUPPORT_PIXELS + SUPPORT_SHARE * apart


def _near(places_of: Floats, here: Floats) -> Mask:
    return cast("Mask", (np.abs(places_of - here) < SAME_SMALL).all(axis=1))


def _similarity(p: Floats, q: Floats, *, mirrored: bool) -> Floats:
    """The map of p to q that turns, enlarges and moves alone (and mirrors first) with the least squared error."""
    before, after = p @ [1.0, 1j], q @ [1.0, 1j]
    if mirrored:
        before = -before.conj()
    middle_before, middle_after = before.mean(), after.mean()
    before, after = before - middle_before, after - middle_after
    along = np.vdot(before, after) / max(float(np.vdot(before, before).real), 1e-9)
    moved = middle_after - along * middle_before
    linear = np.array([[along.real, -along.imag], [along.imag, along.real]])
    if mirrored:
        linear = linear @ np.diag([-1.0, 1.0])
    return np.column_stack([linear, [moved.real, moved.imag]])
