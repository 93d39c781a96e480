"""The steps together: keypoints, small copies, the dense field; each map against the pixels, and what that says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from threading import Event
from typing import Final, Literal, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from services.passive.detectors._copy_move.direction import source_is_first
from services.passive.detectors._copy_move.field import DENSE_PIXELS, find_dense_maps, sow
from services.passive.detectors._copy_move.geometry import (
    SAME_MAP_PIXELS,
    CandidateMap,
    Floats,
    Mask,
    Plane,
    enlarged,
    errors,
    inverse,
    places,
    rotation,
    scale_of,
)
from services.passive.detectors._copy_move.keypoints import (
    CONTRAST_THRESHOLD,
    GAP_RATIO,
    MAX_KEYPOINTS,
    MIN_INLIERS,
    Keypoints,
    find_keypoints,
    find_small_maps,
    match_keypoints,
)
from services.passive.detectors._copy_move.repetition import scores_of
from services.passive.detectors._copy_move.sharing import offered, shared
from services.passive.detectors._copy_move.verify import Measurements, Verified, verify

__all__ = ["KEYPOINT_PIXELS", "CopiedRegion", "CopyMoveResult", "find_copy_moves"]

KEYPOINT_PIXELS: Final = 800_000
"""Keypoints are sought in a picture of at most so many pixels: SIFT doubles it, and time grows with it."""
CHROMA_SIGMA: Final = 1.5
"""Of the Gaussian, in pixels, that colours are blurred with."""
LARGE: Final = 240.0
MIDDLE: Final = 128.0
DOUBT: Final = 0.05
"""Of a map whose points cover more pixels than `LARGE` in any direction, what lies within so many around the middle is
verified first; the whole of it only if little of that agrees, or from this score on: two large things that merely look
alike do so there as well."""
WORTH_TELLING: Final = 0.3
"""Below this score it is not asked which of the two is the copy: neither is, for all that is known."""
CERTAIN: Final = 0.8
"""Where the keypoints find a region of this score, or the middle of a large one, the dense field is given up: it would
say the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CopiedRegion:
    """A region that appears twice. Coordinates are those of the array: (0, 0) is the centre of its first pixel.

    Attributes:
        transform: float64 (2, 3), maps (x, y, 1) of the source to (x, y) of the copy.
        source_mask, copy_mask: bool (height, width); of a large region that is honest by its score, the middle alone.
        source_points, copy_points: float64 (n, 2), the matched points (x, y).
        way: what found it.
        inliers: number of matched points at different places.
        rotation_degrees: from source to copy, -180 to 180, positive is clockwise as seen; after mirroring left to right
            if it is mirrored.
        scale: length in the copy divided by length in the source.
        mirrored: whether the copy is mirrored.
        direction: 0-1, how clearly the hints say which of the two is the copy; 0 is a guess.
        measurements: how exactly the two agree.
        area_px: pixels of `copy_mask`.
        score: 0-1.
    """

    transform: Floats
    source_mask: Mask
    copy_mask: Mask
    source_points: Floats
    copy_points: Floats
    way: Literal["keypoints", "small", "dense"]
    inliers: int
    rotation_degrees: float
    scale: float
    mirrored: bool
    direction: float
    measurements: Measurements
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
        dense: whether the dense field was computed.
        regions: verified repetitions, highest score first; also those whose score says that they are honest.
    """

    keypoints: int
    matches: int
    dense: bool = False
    regions: tuple[CopiedRegion, ...] = ()

    @property
    def score(self) -> float:
        """0-1: that of the most suspicious region; 0 without any."""
        return max((region.score for region in self.regions), default=0.0)


def find_copy_moves(
    rgb: NDArray[np.uint8],
    *,
    max_keypoints: int = MAX_KEYPOINTS,
    contrast_threshold: float = CONTRAST_THRESHOLD,
    gap_ratio: float = GAP_RATIO,
    dense_pixels: int = DENSE_PIXELS,
    mirrored: bool = True,
    small: bool = True,
    by_keypoints: bool = True,
) -> CopyMoveResult:
    """Finds regions that appear twice.

    1. Maps are sought by keypoints, in at most `KEYPOINT_PIXELS`.
    2. Each is verified on the pixels of `rgb`, and scored.
    3. Unless a copy is certain by now, so are the maps of small copies, which hold few keypoints; and then, unless one
       is, those of the dense field, in at most `dense_pixels`, which a second thread has begun meanwhile.

    Args:
        rgb: uint8 (height, width, 3), at most about 2 megapixels (time and memory grow with it).
        max_keypoints: most keypoints that are matched.
        contrast_threshold: SIFT's, in OpenCV's units.
        gap_ratio: 0-1, see `keypoints.GAP_RATIO`.
        dense_pixels: see `field.DENSE_PIXELS`; 0 for keypoints alone.
        mirrored: whether mirrored copies are sought by keypoints as well.
        small: whether small copies are sought by keypoints as well, as they are and not mirrored.
        by_keypoints: False for the dense field alone.

    The same array gives the same answer. OpenCV's generator of random numbers (of this thread) is seeded.
    """
    matches = 0
    enough = Event()
    # While this thread finds and matches keypoints, a second one computes the dense field. Whichever is free then
    # matches the mirrored ones, and both verify.
    with ThreadPoolExecutor(1) as second:
        dense_maps = second.submit(_dense_maps, rgb, dense_pixels, enough) if dense_pixels > 0 else None
        grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
        factor = min(1.0, math.sqrt(KEYPOINT_PIXELS / grey.size))
        reduced = cv2.resize(grey, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA) if factor < 1.0 else grey
        keypoints = Keypoints.none()
        if by_keypoints:
            keypoints = find_keypoints(
                reduced.astype(np.uint8), max_keypoints=max_keypoints, contrast_threshold=contrast_threshold
            )
        match = partial(match_keypoints, keypoints, (reduced.shape[0], reduced.shape[1]), gap_ratio=gap_ratio)
        turned = offered(second, partial(match, mirrored=True)) if mirrored else None
        borne_out = _BorneOut(grey.astype(np.float32), _chroma(rgb), second, enough)
        straight = match()
        for matched in (straight, turned()) if turned else (straight,):
            matches += matched.count
            borne_out.add([_enlarged(candidate, 1.0 / factor) for candidate in matched.maps])
        if small and not enough.is_set():
            borne_out.add([_enlarged(candidate, 1.0 / factor) for candidate in find_small_maps(straight.nearest)])
        dense = dense_maps is not None and not enough.is_set()
        if dense_maps is not None and dense:
            borne_out.add(dense_maps.result())
    regions = [_region(borne_out.grey, *pair) for pair in zip(borne_out.found, borne_out.scores(), strict=True)]
    regions.sort(key=lambda region: (-region.score, -region.area_px))
    return CopyMoveResult(keypoints=len(keypoints), matches=matches, dense=dense, regions=tuple(regions))


def _dense_maps(rgb: NDArray[np.uint8], max_pixels: int, enough: Event) -> list[CandidateMap]:
    return find_dense_maps(sow(rgb, max_pixels=max_pixels), enough=enough)


def _enlarged(candidate: CandidateMap, factor: float) -> CandidateMap:
    """A map found in a reduced picture, in pixels of the whole one."""
    if factor == 1.0:
        return candidate
    p, q = (factor * (points + 0.5) - 0.5 for points in (candidate.p, candidate.q))
    return CandidateMap(transform=enlarged(candidate.transform, np.full(2, factor)), p=p, q=q, way=candidate.way)


def _chroma(rgb: NDArray[np.uint8]) -> list[Plane]:
    """Cr and Cb, float32 (h, w), blurred a little: compression keeps no more of them."""
    colours = cv2.cvtColor(rgb, cv2.COLOR_RGB2YCrCb)
    return [
        cast("Plane", cv2.GaussianBlur(colours[..., index].astype(np.float32), (0, 0), CHROMA_SIGMA))
        for index in (1, 2)
    ]


class _BorneOut:
    """Of the maps that a picture was asked about, those that its pixels bear out.

    Attributes:
        grey: float32 (height, width).
        found: the maps, each once.
    """

    def __init__(self, grey: Plane, chroma: Sequence[Plane], second: Executor, enough: Event) -> None:
        self.grey = grey
        self.found: list[Verified] = []
        self._verify = partial(verify, grey, chroma)
        self._second = second
        self._enough = enough

    def scores(self) -> list[float]:
        """Of what was found, in its order."""
        return scores_of(self.found)

    def add(self, maps: Sequence[CandidateMap]) -> None:
        """Verifies those that are not known yet."""
        unknown = [candidate for candidate in maps if not _known(candidate, self.found)]
        before = len(self.found)
        for candidate, verified in zip(unknown, shared(self._second, self._first_look, unknown), strict=True):
            if verified is not None and not _known(candidate, self.found[before:]):
                self.found.append(verified)
        self._stop_if_certain()
        parts = [i for i, score in enumerate(self.scores()) if not self.found[i].whole and score >= DOUBT]
        wholes = shared(self._second, self._verify, [self.found[i].candidate for i in parts])
        for i, whole in zip(parts, wholes, strict=True):
            self.found[i] = whole or self.found[i]
        self._stop_if_certain()

    def _stop_if_certain(self) -> None:
        if any(score >= CERTAIN for score in self.scores()):
            self._enough.set()

    def _first_look(self, candidate: CandidateMap) -> Verified | None:
        middle = _middle_of(candidate)
        verified = None if middle is None else self._verify(candidate, part=middle)
        if verified is None or np.count_nonzero(verified.copy_mask) < MIDDLE * MIDDLE / 2:
            verified = self._verify(candidate)
        return verified


def _middle_of(candidate: CandidateMap) -> Mask | None:
    """Which of a large map's points lie around the middle of the copy's; None if it is not large, or none are there."""
    if np.ptp(candidate.q, axis=0).max() <= LARGE:
        return None
    near = np.abs(candidate.q - np.median(candidate.q, axis=0)).max(axis=1) <= MIDDLE / 2
    return near if places(candidate.q[near]) >= MIN_INLIERS else None


def _known(candidate: CandidateMap, found: Sequence[Verified]) -> bool:
    return any(_same(candidate, known) for known in found)


def _same(candidate: CandidateMap, known: Verified) -> bool:
    """Whether most of the candidate's points lie in a known region and are moved as it is."""
    height, width = known.copy_mask.shape
    x, y = np.clip(np.rint(candidate.p).astype(np.int64), 0, [width - 1, height - 1]).T
    for transform, mask, points in (
        (known.transform, known.source_mask, known.candidate.p),
        (inverse(known.transform), known.copy_mask, known.candidate.q),
    ):
        inside = mask[y, x]
        if not known.whole:
            inside |= ((candidate.p >= points.min(axis=0)) & (candidate.p <= points.max(axis=0))).all(axis=1)
        moved_alike = errors(transform, candidate.p, candidate.q) < SAME_MAP_PIXELS
        if np.count_nonzero(inside & moved_alike) > 0.5 * len(inside):
            return True
    return False


def _region(grey: Plane, verified: Verified, score: float) -> CopiedRegion:
    """The answer's form of a verified map, turned round where hints say that the copy is the source."""
    transform, p, q = verified.transform, verified.candidate.p, verified.candidate.q
    source, copy = verified.source_mask, verified.copy_mask
    forward, clear = True, 0.0
    if score >= WORTH_TELLING:
        resampled = bool(np.abs(transform[:, :2] - np.eye(2)).max() > 0.01)
        forward, clear = source_is_first(grey, source, copy, resampled=resampled)
    if not forward:
        transform, p, q, source, copy = inverse(transform), q, p, copy, source
    linear = transform[:, :2]
    return CopiedRegion(
        transform=transform,
        source_mask=source,
        copy_mask=copy,
        source_points=p,
        copy_points=q,
        way=verified.candidate.way,
        inliers=min(places(p), places(q)),
        rotation_degrees=math.degrees(rotation(linear)),
        scale=scale_of(linear),
        mirrored=bool(np.linalg.det(linear) < 0),
        direction=clear,
        measurements=verified.measurements,
        area_px=int(np.count_nonzero(copy)),
        score=score,
    )
