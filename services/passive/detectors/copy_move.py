"""Copy-move: a part of the picture that appears in it twice.

1. **Keypoints** (SIFT, Lowe 2004), matched (g2NN, Amerini 2011), clustered (DBSCAN, Ester 1996) and fitted (RANSAC,
   Fischler 1981) give maps that may carry a region onto its copy, also onto a mirrored one.
2. Unless that is certain, a **dense field** of nearest neighbours does the same for smooth areas and small copies
   (Cozzolino 2015, Barnes 2009).
3. **Verification**: one region is warped onto the other, aligned on the pixels (Lucas and Kanade 1981, Baker and
   Matthews 2004), and measured is how exactly they agree: windows, fences and letters repeat in shape, but their grain,
   light, colour and geometry agree less exactly than those of a copy. Trees fitted to these measurements (Friedman
   2001) are the score.
4. **Mask**: where the correlation is high, connected to the matches. What is found in a reduced picture is aligned and
   outlined once more **at full size**.

The steps are in `_copy_move`, one a module; here is the answer. Not found: copies rescaled by more than
`geometry.MAX_SCALE`, copies of areas that compression has left without grain, and most copies below 30 pixels a side.

References:
    D. G. Lowe, "Distinctive image features from scale-invariant keypoints", 2004. 10.1023/B:VISI.0000029664.99615.94
    I. Amerini et al., "A SIFT-based forensic method for copy-move attack detection and transformation recovery", 2011.
        10.1109/TIFS.2011.2129512
    V. Christlein et al., "An evaluation of popular copy-move forgery detection approaches", 2012.
        10.1109/TIFS.2012.2218597
    M. Ester et al., "A density-based algorithm for discovering clusters in large spatial databases with noise",
        KDD 1996, pages 226-231.
    M. A. Fischler and R. C. Bolles, "Random sample consensus", 1981. 10.1145/358669.358692
    D. Cozzolino, G. Poggi and L. Verdoliva, "Efficient dense-field copy-move forgery detection", 2015.
        10.1109/TIFS.2015.2455334
    C. Barnes et al., "PatchMatch: a randomized correspondence algorithm for structural image editing", 2009.
        10.1145/1531326.1531330
    B. D. Lucas and T. Kanade, "An iterative image registration technique with an application to stereo vision", IJCAI
        1981, pages 674-679.
    S. Baker and I. Matthews, "Lucas-Kanade 20 years on: a unifying framework", 2004. 10.1023/B:VISI.0000011205.11775.fd
    J. H. Friedman, "Greedy function approximation: a gradient boosting machine", 2001. 10.1214/aos/1013203451
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Final, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from services.common.detection import Applicability, Finding, Point, Question, Region, RegionRole, Technique
from services.common.images import Picture
from services.passive.detectors import registry
from services.passive.detectors._copy_move.full_size import FullSize, MaskPart, at_full_size
from services.passive.detectors._copy_move.geometry import Mask, rotation, scale_of
from services.passive.detectors._copy_move.keypoints import (
    CLUSTER_REACH,
    CONTRAST_THRESHOLD,
    GAP_RATIO,
    MAX_KEYPOINTS,
    MIN_INLIERS,
)
from services.passive.detectors._copy_move.search import (
    CopiedRegion,
    CopyMoveResult,
    find_copy_moves,
)
from services.passive.detectors._copy_move.verify import MAX_OVERLAP, MIN_AREA

__all__ = ["MAX_OVERLAP", "CopiedRegion", "CopyMoveResult", "detect_copy_move", "find_copy_moves"]

MIN_SIDE: Final = 64
"""Shortest side in pixels: below it a copy leaves hardly anything to compare."""
MIN_KEYPOINTS: Final = 20
"""Fewer keypoints than this, and the picture is too plain to say anything but that a copy was found: along a straight
edge everything looks alike."""

DECISION_SCORE: Final = 0.5
"""From this score on a region is reported."""

LIKELIHOOD_RATIOS: Final[tuple[tuple[float, float], ...]] = ((0.9, 1.35), (0.5, 0.8), (0.0, 0.0))
"""Least score and log10 likelihood ratio, used where there is no calibration. Measured with version 8, whose scores are
the same, on 1,062 honest pictures that the trees were not fitted on (BSDS500, ImageNet, COCO, CASIA 2, photographs by
others, and the twins of what was planted), of which 4 reached 0.9 and 5 more reached 0.5, and 363 copy-moves (58 by
hand, of CASIA 2 and CG-1050, the others planted), of which 227 reached the one and 56 more the other. With 4 false
alarms the rate may be 0.0096, with 5 it may be 0.0110 (95 %, Clopper-Pearson): ratios of 10^1.81 and 10^1.15 are
supported. Less is stated: of the 58 by hand, most of them 256 pixels wide, 7 reached 0.9, and 7 more 0.5. Nothing found
says next to nothing."""

MAX_DRAWN_MATCHES: Final = 200
MAX_DRAWN_REGIONS: Final = 24

RELIABILITY_WINDOW: Final = 17
HALF_RELIABLE: Final = 0.5
"""Mean square of the fine detail, in grey levels, around a place of reliability 0.5: about what rounding leaves."""


@registry.detector(
    name="copy_move",
    version="9",
    title="Copy-move (SIFT + DBSCAN)",
    question=Question.EDITED,
    techniques=(Technique.COPY_MOVE,),
    papers=(
        "10.1023/B:VISI.0000029664.99615.94",
        "10.1109/TIFS.2011.2129512",
        "10.1109/34.589215",
        "10.1109/TIFS.2012.2218597",
        "10.1109/TIFS.2015.2455334",
        "10.1023/B:VISI.0000011205.11775.fd",
        "10.1214/aos/1013203451",
    ),
    parameters={
        "max_keypoints": MAX_KEYPOINTS,
        "contrast_threshold": CONTRAST_THRESHOLD,
        "gap_ratio": GAP_RATIO,
        "min_inliers": MIN_INLIERS,
        "cluster_reach": CLUSTER_REACH,
        "decision_score": DECISION_SCORE,
    },
)
def detect_copy_move(picture: Picture) -> Finding:
    """Finds parts of the picture that were copied within it, also rotated, rescaled or mirrored.

    Regions are compared at working size, and those that are found outlined at full size. Both are marked; which of them
    is the copy is told by hints (seam, sharpness).
    Does not apply to pictures with a side of less than `MIN_SIDE` pixels, or in which next to nothing can be compared.
    """
    rgb = picture.working
    height, width = rgb.shape[:2]
    if min(height, width) < MIN_SIDE:
        return Finding.not_applicable(
            f"The picture is too small to look for copied regions ({picture.info.width} x {picture.info.height} "
            f"pixels; at least {MIN_SIDE} a side are needed)."
        )
    result = find_copy_moves(rgb)
    if result.keypoints < MIN_KEYPOINTS and result.score < DECISION_SCORE:
        return Finding.not_applicable(
            f"The picture is too plain to look for copied regions: {result.keypoints} distinctive points, "
            f"{MIN_KEYPOINTS} are needed."
        )
    found = [region for region in result.regions if region.score >= DECISION_SCORE]
    exact = at_full_size(picture.rgb, found) if picture.scale < 1.0 else [None] * len(found)
    told = [_told(*pair, picture.scale) for pair in zip_longest(result.regions, exact)]
    heat = np.zeros((height, width), np.float32)
    for region in reversed(told):
        for mask in region.marked:
            np.copyto(heat, np.float32(region.found.score), where=mask)
    return Finding(
        applicability=Applicability.APPLIED,
        score=result.score,
        explanation=_explain(result, told[: len(found)]),
        log10_likelihood_ratio=_log10_likelihood_ratio(result.score),
        technique=Technique.COPY_MOVE if found else None,
        heat_map=heat,
        reliability_map=_reliability(rgb),
        regions=_outlines(told[: len(found)], picture.scale),
        details={
            "keypoints": result.keypoints,
            "matches": result.matches,
            "dense": result.dense,
            "clusters": [_facts(region) for region in told],
            "matched_points": _drawn_matches(found, picture.scale),
        },
    )


# --- In words and for drawing ---


@dataclass(frozen=True, slots=True, kw_only=True)
class _Told:
    """What is told of a region; lengths in pixels of the picture.

    Attributes:
        found: the region, in pixels of the working size.
        rotation_degrees, enlarged: what was done to it.
        translation: (x, y).
        source, copy: the masks.
        marked: both, bool (h, w), of the working size.
    """

    found: CopiedRegion
    rotation_degrees: float
    enlarged: float
    translation: tuple[float, float]
    source: MaskPart
    copy: MaskPart
    marked: tuple[Mask, Mask]


def _told(region: CopiedRegion, exact: FullSize | None, scale: float) -> _Told:
    """By the picture at full size where it was looked at, by the working size elsewhere."""
    if exact is None:
        x, y = region.translation
        return _Told(
            found=region,
            rotation_degrees=region.rotation_degrees,
            enlarged=region.scale,
            translation=(x / scale, y / scale),
            source=MaskPart(mask=region.source_mask, pixel=1.0 / scale),
            copy=MaskPart(mask=region.copy_mask, pixel=1.0 / scale),
            marked=(region.source_mask, region.copy_mask),
        )
    linear = exact.transform[:, :2]
    return _Told(
        found=region,
        rotation_degrees=math.degrees(rotation(linear)),
        enlarged=scale_of(linear),
        translation=exact.translation,
        source=exact.source,
        copy=exact.copy,
        marked=(exact.reduced_source, exact.reduced_copy),
    )


def _log10_likelihood_ratio(score: float) -> float:
    return next(ratio for least, ratio in LIKELIHOOD_RATIOS if score >= least)


def _explain(result: CopyMoveResult, found: Sequence[_Told]) -> str:
    if not found:
        if result.regions:
            return (
                "No copied region was found: some parts look alike, but not as exactly as a copy would "
                f"({result.keypoints:,} points compared)."
            )
        return f"No copied region was found ({result.keypoints:,} points compared)."
    first = found[0]
    sentence = (
        f"A region of {first.copy.area:,.0f} pixels appears twice: {_in_words(first)} "
        f"({first.found.inliers} matching points, "
        f"correlation of the fine detail {first.found.measurements.middle:.2f})."
    )
    if len(found) > 1:
        sentence += f" {len(found) - 1} more such {'pair' if len(found) == 2 else 'pairs'} of regions."
    return sentence


def _in_words(region: _Told) -> str:
    """What was done to the region: "rotated 12 degrees and enlarged 1.10 times"."""
    changes = []
    if region.found.mirrored:
        changes.append("mirrored")
    if abs(region.rotation_degrees) >= 1.0:
        changes.append(f"rotated {abs(region.rotation_degrees):.0f} degrees")
    if abs(region.enlarged - 1.0) >= 0.03:
        enlarged = region.enlarged > 1.0
        factor = max(region.enlarged, 1 / region.enlarged)
        changes.append(f"{'enlarged' if enlarged else 'reduced'} {factor:.2f} times")
    return " and ".join(changes) or "shifted"


def _facts(region: _Told) -> dict[str, Any]:
    """What a report says of a region."""
    x, y = region.translation
    return {
        "way": region.found.way,
        "transform": _in_words(region),
        "inliers": region.found.inliers,
        "rotation_degrees": round(region.rotation_degrees, 2),
        "scale": round(region.enlarged, 4),
        "translation": [round(x, 1), round(y, 1)],
        "area_px": round(region.copy.area),
        "mirrored": region.found.mirrored,
        "direction": round(region.found.direction, 2),
        "zncc": round(region.found.measurements.middle, 4),
        "grain": round(region.found.measurements.flat_fine, 4),
        "score": round(region.found.score, 4),
    }


def _outlines(found: Sequence[_Told], scale: float) -> tuple[Region, ...]:
    """Outlines of all found regions, most suspect first."""
    outlines = []
    for region in found:
        for role, mask in ((RegionRole.COPY, region.copy), (RegionRole.SOURCE, region.source)):
            for corners in mask.outlines(least_area=MIN_AREA / 2 / scale**2):
                polygon = tuple(Point(x, y) for x, y in corners.tolist())
                outlines.append(Region(role=role, polygon=polygon, score=region.found.score))
    return tuple(outlines[:MAX_DRAWN_REGIONS])


def _drawn_matches(found: list[CopiedRegion], scale: float) -> list[list[float]]:
    """At most `MAX_DRAWN_MATCHES` of the matched points, [x, y, x, y] from source to copy, in full-size pixels."""
    if not found:
        return []
    pairs = np.concatenate([np.hstack([region.source_points, region.copy_points]) for region in found])
    step = math.ceil(len(pairs) / MAX_DRAWN_MATCHES)
    return cast("list[list[float]]", np.round((pairs[::step] + 0.5) / scale, 1).tolist())


def _reliability(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """How far a copy would show at each place, float32 (h, w) in 0-1: by the fine detail that there is to compare."""
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32)
    detail = grey - cv2.GaussianBlur(grey, (0, 0), 2.0)
    # A moving sum of floats may end a hair below zero.
    strength = np.maximum(cv2.blur(detail * detail, (RELIABILITY_WINDOW, RELIABILITY_WINDOW)), 0.0)
    return np.asarray(strength / (strength + np.float32(HALF_RELIABLE)), np.float32)
