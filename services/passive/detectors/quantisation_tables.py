"""Quantisation tables: which kind of program wrote this JPEG last.

Software that uses the reference library (libjpeg: most editors, web services and messengers, many phones and some
cameras) scales the tables that the JPEG standard prints as an example by a quality from 1 to 100. Other cameras and
Adobe's programs have tables of their own. So the tables tell the quality that was chosen, exactly if they are scaled
example tables, else the nearest one.

Whether the file can still be what the camera wrote shows in how it was saved: cameras store colours at half the
resolution and write the picture in one pass. A file that names a camera and has example tables with full colour
resolution, or comes in several passes (progressive), was saved again by a program.

Saving again is no forgery: every messenger and most galleries do it. The facts are for the person who weighs the rest.

References:
    ITU-T T.81 (JPEG), annex K.1, and libjpeg's scaling of it (jcparam.c, jpeg_quality_scaling).
    H. Farid, "Digital image ballistics from JPEG quantization", 2006 (TR2006-583, Dartmouth College).
    J. D. Kornblum, "Using JPEG quantization tables to identify imagery processed by software", 2008.
        10.1016/j.diin.2008.05.004
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL.JpegImagePlugin import JpegImageFile

from services.common import _image_containers as containers
from services.common.detection import Applicability, Finding, Question, Technique
from services.common.errors import PentimentoError
from services.common.images import Picture
from services.passive._metadata import clean, read_metadata
from services.passive.detectors import registry

__all__ = ["Signature", "detect_quantisation_tables", "read_signature", "standard_table"]

Table = NDArray[np.int64]

LUMA: Final[Table] = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ],
    np.int64,
)
"""T.81, table K.1: row = vertical frequency."""
CHROMA: Final[Table] = np.array(
    [
        [17, 18, 24, 47, 99, 99, 99, 99],
        [18, 21, 26, 66, 99, 99, 99, 99],
        [24, 26, 56, 99, 99, 99, 99, 99],
        [47, 66, 99, 99, 99, 99, 99, 99],
        *[[99] * 8] * 4,
    ],
    np.int64,
)
"""T.81, table K.2."""
RESAVED_SCORE: Final = 0.3
"""Score of a file that names a camera and was saved as cameras do not: worth knowing, far from an accusation."""
_SAMPLINGS: Final = {(1, 1): "4:4:4", (2, 1): "4:2:2", (2, 2): "4:2:0", (1, 2): "4:4:0", (4, 1): "4:1:1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """How a JPEG was written.

    Attributes:
        standard: whether all tables are the standard's example tables at one quality.
        quality: that quality (1-100), or the nearest one for other tables.
        sampling: of the colour planes, such as "4:2:0"; "grey" without any.
        progressive: whether it is sent in passes.
        tables: the tables as lists of 64 numbers, row by row.
    """

    standard: bool
    quality: int
    sampling: str
    progressive: bool
    tables: tuple[tuple[int, ...], ...]


def standard_table(base: Table, quality: int) -> Table:
    """An example table at a quality of 1 to 100, as libjpeg scales it, int64 (8, 8) in 1-255."""
    if not 1 <= quality <= 100:
        raise ValueError(f"quality {quality} is not between 1 and 100")
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return np.clip((base * scale + 50) // 100, 1, 255)


def read_signature(content: bytes) -> Signature | None:
    """Reads a JPEG's tables; None if they cannot be read. Metadata play no part, broken or not."""
    try:
        image = JpegImageFile(io.BytesIO(containers.bare(content, "JPEG")))
        stored = image.quantization
        components = [(layer[1], layer[2], layer[3]) for layer in image.layer]
        tables = [np.array(stored[index], np.int64).reshape(8, 8) for index in sorted(stored)]
        luma = np.array(stored[components[0][2]], np.int64).reshape(8, 8)
        chroma = np.array(stored[components[1][2]], np.int64).reshape(8, 8) if len(components) >= 3 else None
    except (PentimentoError, OSError, KeyError, IndexError, ValueError, SyntaxError):
        return None
    distances = [_distance(luma, chroma, quality) for quality in range(1, 101)]
    nearest = int(np.argmin(distances))
    sampling = "grey"
    if len(components) >= 3:
        across, down = components[0][0] / components[1][0], components[0][1] / components[1][1]
        sampling = _SAMPLINGS.get((int(across), int(down)), f"{across:g}x{down:g}")
    return Signature(
        standard=distances[nearest] == 0,
        quality=nearest + 1,
        sampling=sampling,
        progressive=bool(image.info.get("progressive")),
        tables=tuple(tuple(int(step) for step in table.ravel()) for table in tables),
    )


@registry.detector(
    name="quantisation_tables",
    version="1",
    title="JPEG quantisation tables",
    question=Question.EDITED,
    techniques=(Technique.OTHER,),
    papers=("ITU-T T.81", "10.1016/j.diin.2008.05.004"),
    parameters={"resaved_score": RESAVED_SCORE},
)
def detect_quantisation_tables(picture: Picture) -> Finding:
    """Tells from a JPEG's quantisation tables how it was saved last, and whether the camera it names wrote it so.

    A file that was saved again need not have been edited.
    """
    if picture.info.format != "JPEG":
        return Finding.not_applicable("Only JPEG files have quantisation tables.")
    signature = read_signature(picture.file)
    if signature is None:
        return Finding.not_applicable("The file's quantisation tables cannot be read.")
    exif = read_metadata(picture.file, "JPEG").exif
    camera = clean(" ".join(part for part in (exif.text("Make"), exif.text("Model")) if part))
    resaved = bool(camera) and (signature.progressive or (signature.standard and signature.sampling == "4:4:4"))
    written = (
        f"Saved with the JPEG standard's own tables at quality {signature.quality}, as most programs do"
        if signature.standard
        else f"Saved with tables of its maker's own, about as strong as quality {signature.quality}: a camera's, "
        "or those of Adobe's programs"
    )
    explanation = f"{written}; colours {signature.sampling}{', in passes' if signature.progressive else ''}."
    if resaved:
        explanation += f" It names a camera ({camera}), but cameras do not save like that: a program saved it again."
    return Finding(
        applicability=Applicability.APPLIED,
        score=RESAVED_SCORE if resaved else 0.0,
        explanation=explanation,
        details={
            "standard_tables": signature.standard,
            "quality": signature.quality,
            "sampling": signature.sampling,
            "progressive": signature.progressive,
            "camera": camera,
            "tables": [list(table) for table in signature.tables],
        },
    )


def _distance(luma: Table, chroma: Table | None, quality: int) -> float:
    """Mean difference of steps from the example tables at a quality, in parts of the step; 0 if they are the same."""
    pairs = [(luma, LUMA)] + ([(chroma, CHROMA)] if chroma is not None else [])
    differences = [
        np.abs(found - standard_table(base, quality)) / standard_table(base, quality) for found, base in pairs
    ]
    return float(np.mean(differences))
