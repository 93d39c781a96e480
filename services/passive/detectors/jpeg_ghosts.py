"""JPEG ghosts: parts of the picture that an earlier, stronger JPEG compression left its trace in.

Requantising coefficients with a step that they were quantised with before changes them least. For each quality of a
series the blocks' coefficients are quantised anew, the squared change is averaged over windows and, in each window,
divided by its largest value over the series. A part whose minimum lies at another quality than the rest's is a ghost:
at that quality it is dark where the rest is not.

It shows the quality at which the contrast between the darkest tenth and the middle of the picture is greatest. Smooth
parts are dark at every quality, so windows without content are left out. Where a piece was compressed once more than
the rest, the map's pixel AUC is 0.79, 0.78 and 0.81 at final quality 75, 85 and 95; but honest pictures have as much
contrast (AUC of the contrast 0.56 to 0.59), so this is a view: its score is always 0 and it moves no verdict.

References:
    H. Farid, "Exposing digital forgeries from JPEG ghosts", 2009. 10.1109/TIFS.2008.2012215
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from services.common.detection import Applicability, Finding, Question, Technique
from services.common.images import Picture
from services.passive.detectors import registry
from services.passive.detectors._jpeg import stored_luma, upright
from services.passive.detectors.quantisation_tables import LUMA, read_signature, standard_table

__all__ = ["Ghost", "detect_jpeg_ghosts", "find_ghost"]

Floats = NDArray[np.float32]

QUALITIES: Final = tuple(range(35, 91, 5))
BELOW: Final = 5
"""Qualities up to this much below the file's own are tried: at its own nothing changes anywhere."""
FREQUENCIES: Final = tuple((row, column) for row in range(5) for column in range(5) if 0 < row + column < 6)
"""The low ones, without the mean: the others are mostly zero."""
MAX_BLOCKS: Final = 32_768
"""About 2 megapixels; of more, the middle is looked at."""
WINDOW: Final = 5
"""Side of the windows, in blocks."""
MIN_BLOCKS: Final = 16
MIN_CHANGE: Final = 1.0
"""Windows whose coefficients change by less than this mean square at the worst quality have no content."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ghost:
    """The clearest ghost.

    Attributes:
        quality: at which it shows.
        contrast: 0-1, between the darkest tenth of the picture and its middle.
        darkness: float32 (rows, columns) of blocks, 0-1: 1 where the change at that quality is least.
    """

    quality: int
    contrast: float
    darkness: Floats


def find_ghost(low: Floats, *, below: int) -> Ghost | None:
    """The clearest ghost at a quality of less than `below`; None where there is too little content.

    Args:
        low: float32 (rows, columns, 5, 5), the blocks' lowest coefficients by vertical and horizontal frequency.
        below: see above.
    """
    coefficients = np.stack([low[..., row, column] for row, column in FREQUENCIES], axis=2)
    changes = []
    qualities = [quality for quality in QUALITIES if quality < below]
    for quality in qualities:
        table = standard_table(LUMA, quality)
        steps = np.array([table[row, column] for row, column in FREQUENCIES], np.float32)
        change = ((coefficients - steps * np.rint(coefficients / steps)) ** 2).mean(axis=2)
        changes.append(np.asarray(cv2.blur(change, (WINDOW, WINDOW)), np.float32))
    if len(changes) < 2:
        return None
    stack = np.stack(changes)
    largest = stack.max(axis=0)
    busy = largest > MIN_CHANGE
    if busy.mean() < 0.2:
        return None
    relative = stack / np.maximum(largest, MIN_CHANGE)
    inside = relative[:, busy]
    contrasts = np.median(inside, axis=1) - np.percentile(inside, 10, axis=1)
    best = int(np.argmax(contrasts))
    darkness = np.where(busy, 1.0 - relative[best] / max(float(np.median(inside[best])), 1e-3), 0.0)
    return Ghost(
        quality=qualities[best],
        contrast=float(contrasts[best]),
        darkness=np.clip(darkness, 0.0, 1.0).astype(np.float32),
    )


@registry.detector(
    name="jpeg_ghosts",
    version="1",
    title="JPEG ghosts (view)",
    question=Question.EDITED,
    techniques=(Technique.SPLICING, Technique.OTHER),
    papers=("10.1109/TIFS.2008.2012215",),
    parameters={"below": BELOW, "window": WINDOW, "min_change": MIN_CHANGE},
)
def detect_jpeg_ghosts(picture: Picture) -> Finding:
    """Shows parts that were once saved as JPEG of another quality than the rest; a view that decides nothing."""
    luma = stored_luma(picture)
    signature = read_signature(picture.file) if luma is not None else None
    if luma is None or signature is None:
        return Finding.not_applicable("Only colour and grey JPEG files are looked at.")
    rows, columns = luma.plane.shape[0] // 8, luma.plane.shape[1] // 8
    if min(rows, columns) < MIN_BLOCKS:
        return Finding.not_applicable(f"The shorter side has fewer than {8 * MIN_BLOCKS} pixels.")
    if rows * columns > MAX_BLOCKS:
        return Finding.not_applicable("The picture is too large for this view; double quantisation looks at it.")
    ghost = find_ghost(luma.low, below=signature.quality - BELOW + 1)
    if ghost is None:
        return Finding.not_applicable("Too little detail, or saved too strongly, for earlier compressions to show.")
    return Finding(
        applicability=Applicability.APPLIED,
        score=0.0,
        explanation=f"A view for the eye: bright parts change least at quality {ghost.quality}, as if they alone had "
        "been saved at about that quality before. Smooth parts may look so too.",
        heat_map=upright(ghost.darkness, picture.info.exif_orientation),
        details={"quality": ghost.quality, "contrast": round(ghost.contrast, 4)},
    )
