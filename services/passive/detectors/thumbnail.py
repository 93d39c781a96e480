"""Thumbnail against picture: cameras embed a small version, and programs that edit the picture may leave the old one.

1. The JPEG thumbnail of the EXIF block's second directory is decoded. Cameras fill up its shape with black bars: if
   what is too much for the picture's shape is black, it is cut off.
2. The picture, in the orientation of the file, is averaged down to the same size. If the shapes still differ by more
   than `MAX_SHAPE_DIFFERENCE`, the picture was cropped.
3. Both are smoothed, for many cameras take every n-th pixel where others average. Brightness and contrast are fitted
   (cameras render thumbnails a little differently), and the correlation tells how well the two agree; places where
   they disagree far more than elsewhere are the heat map.

An agreeing thumbnail is no evidence of anything: most programs write a new one.

References:
    E. Kee and H. Farid, "Digital image authentication from thumbnails", 2010. 10.1117/12.838834
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from services.common.detection import Applicability, Finding, Question, Technique
from services.common.errors import PentimentoError
from services.common.images import ImageLimits, Picture, decode_image
from services.passive._metadata import read_metadata
from services.passive.detectors import registry
from services.passive.detectors._jpeg import as_stored, upright

__all__ = ["Comparison", "compare", "detect_thumbnail", "embedded_thumbnail"]

RGB = NDArray[np.uint8]
Plane = NDArray[np.float32]

LIMITS: Final = ImageLimits(max_bytes=256 * 1024, max_pixels=1_000_000, formats=frozenset({"JPEG"}))
"""An EXIF block holds at most 64 KiB; larger ones come from PNG and WebP files."""
MIN_SIDE: Final = 48
"""Shortest side in pixels of a thumbnail that can be compared."""
BAR_LEVEL: Final = 24.0
"""Bars are on average not brighter than this (compressed, so not quite black)."""
SMOOTHING: Final = 1.0
"""Standard deviation, in pixels of the thumbnail, of the blur before comparing."""
MAX_SHAPE_DIFFERENCE: Final = 0.05
"""Largest relative difference of the two shapes: bars are cut to whole pixels of a small picture, often in eights."""
AGREEING: Final = 0.90
"""Correlation from which on the two show the same."""
DISAGREEING: Final = 0.60
"""Correlation at which the score reaches its middle. Photographs of different things have 0.6 and more by chance seldom
(2 of 200 pairs of the training split), a thumbnail of the same thing hardly ever less."""
DECISION_SCORE: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How a thumbnail fits its picture.

    Attributes:
        correlation: Pearson's, of the brightness of the two, -1 to 1.
        same_shape: whether width by height is that of the picture.
        difference: float32 (h, w) of the thumbnail, 0-1: where they disagree.
    """

    correlation: float
    same_shape: bool
    difference: Plane


def embedded_thumbnail(picture: Picture) -> RGB | None:
    """The thumbnail of the EXIF block, uint8 (h, w, 3), as stored; None if there is none to compare."""
    metadata = read_metadata(picture.file, picture.info.format)
    directory = metadata.exif.directories.get("IFD1", {})
    offset, length = directory.get("JpegIFOffset"), directory.get("JpegIFByteCount")
    if not isinstance(offset, int) or not isinstance(length, int):
        return None
    content = metadata.parts.exif[offset : offset + length]
    try:
        rgb = decode_image(content, LIMITS).rgb
    except (PentimentoError, struct.error):
        return None
    return rgb if min(rgb.shape[:2]) >= MIN_SIDE else None


def compare(stored: RGB, thumbnail: RGB) -> Comparison | None:
    """Compares pixels, uint8 (h, w, 3), with their thumbnail; None if the thumbnail is too plain to tell."""
    expected = stored.shape[1] / stored.shape[0]
    thumbnail = _without_bars(thumbnail, expected)
    height, width = thumbnail.shape[:2]
    same_shape = abs(width / height / expected - 1.0) <= MAX_SHAPE_DIFFERENCE
    small = _grey(np.asarray(cv2.resize(stored, (width, height), interpolation=cv2.INTER_AREA), np.uint8))
    shown = _grey(thumbnail)
    if float(shown.std()) < 4.0 or float(small.std()) < 1.0:
        return None
    gain, offset = np.polyfit(small.ravel(), shown.ravel(), 1)
    correlation = float(np.corrcoef(small.ravel(), shown.ravel())[0, 1])
    residual = np.abs(shown - (gain * small + offset)).astype(np.float32)
    smooth = np.asarray(cv2.GaussianBlur(residual, (0, 0), 2.0), np.float32)
    usual = float(np.median(smooth)) + 2.0
    return Comparison(
        correlation=correlation,
        same_shape=same_shape,
        difference=np.clip((smooth / usual - 2.0) / 6.0, 0.0, 1.0).astype(np.float32),
    )


@registry.detector(
    name="thumbnail",
    version="1",
    title="Embedded thumbnail",
    question=Question.EDITED,
    techniques=(Technique.OTHER,),
    papers=("10.1117/12.838834",),
    parameters={
        "agreeing": AGREEING,
        "disagreeing": DISAGREEING,
        "max_shape_difference": MAX_SHAPE_DIFFERENCE,
        "decision_score": DECISION_SCORE,
    },
)
def detect_thumbnail(picture: Picture) -> Finding:
    """Compares the picture with the thumbnail in its EXIF block, which programs may have left from before an edit.

    A thumbnail that agrees says nothing: most programs write a new one.
    """
    thumbnail = embedded_thumbnail(picture)
    if thumbnail is None:
        return Finding.not_applicable("The file holds no thumbnail that could be compared.")
    orientation = picture.info.exif_orientation
    comparison = compare(as_stored(picture.rgb, orientation), thumbnail)
    if comparison is None:
        return Finding.not_applicable("Picture or thumbnail is too plain to compare them.")
    details = {
        "correlation": round(comparison.correlation, 4),
        "same_shape": comparison.same_shape,
        "thumbnail_width": thumbnail.shape[1],
        "thumbnail_height": thumbnail.shape[0],
    }
    # A straight line through (1, 0) and (DISAGREEING, DECISION_SCORE).
    score = float(np.clip(DECISION_SCORE * (1.0 - comparison.correlation) / (1.0 - DISAGREEING), 0.0, 1.0))
    if not comparison.same_shape:
        return Finding(
            applicability=Applicability.APPLIED,
            score=max(score, DECISION_SCORE),
            explanation="The embedded thumbnail has another shape than the picture: the picture was cropped or "
            "extended by a program that left the thumbnail as it was.",
            details=details,
        )
    if comparison.correlation >= AGREEING:
        explanation = "The embedded thumbnail shows the same picture, which most editing programs see to."
    else:
        explanation = (
            f"The embedded thumbnail does not show the same picture (correlation {comparison.correlation:.2f}): it is "
            "from before an edit, or from another picture."
        )
    return Finding(
        applicability=Applicability.APPLIED,
        score=score,
        explanation=explanation,
        heat_map=upright(comparison.difference, orientation) if comparison.correlation < AGREEING else None,
        details=details,
    )


def _grey(rgb: RGB) -> Plane:
    grey = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.float32)
    return np.asarray(cv2.GaussianBlur(grey, (0, 0), SMOOTHING), np.float32)


def _without_bars(thumbnail: RGB, shape: float) -> RGB:
    """Cuts a thumbnail to the given shape (width / height) if what goes is black, wherever the picture lies in it."""
    height, width = thumbnail.shape[:2]
    rows, columns = min(height, round(width / shape)), min(width, round(height * shape))
    if (rows, columns) == (height, width) or min(rows, columns) < MIN_SIDE:
        return thumbnail
    by_row, by_column = thumbnail.mean((1, 2)), thumbnail.mean((0, 2))
    lit, kept = (by_row, rows) if rows < height else (by_column, columns)
    outside = [float(lit[:start].sum() + lit[start + kept :].sum()) for start in range(len(lit) - kept + 1)]
    start = int(np.argmin(outside))
    if outside[start] / (len(lit) - kept) > BAR_LEVEL:
        return thumbnail
    cut = thumbnail[start : start + kept] if rows < height else thumbnail[:, start : start + kept]
    return np.ascontiguousarray(cut)
