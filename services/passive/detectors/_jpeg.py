"""What the JPEG detectors share: the luma plane as the file stores it, block DCTs, orientation, and stated tables.

The plane is decoded and transformed once for all of them (`stored_luma`), in strips, so that a large picture is never
held as floating-point numbers. As for every decoder here, metadata are taken away first: a broken EXIF block must not
keep a detector from looking.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL.JpegImagePlugin import JpegImageFile

from services.common import _image_containers as containers
from services.common.images import Picture

__all__ = [
    "DCT",
    "LOW",
    "StoredLuma",
    "as_stored",
    "log10_likelihood_ratio",
    "low_coefficients",
    "stored_luma",
    "upright",
]

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

_SAMPLES: Final = np.arange(8)
DCT: Final[Floats] = (
    np.cos((2 * _SAMPLES[None, :] + 1) * _SAMPLES[:, None] * np.pi / 16)
    * np.where(_SAMPLES[:, None] == 0, np.sqrt(1 / 8), 0.5)
).astype(np.float32)
"""float32 (8, 8): row u is the u-th basis function of the one-dimensional orthonormal DCT."""


LOW: Final = 5
"""The coefficients with a vertical and a horizontal frequency below this are kept: all that any detector looks at."""
_STRIP: Final = 32
"""Rows of blocks that are transformed at a time: what fits into a processor's cache."""


@dataclass(frozen=True, slots=True)
class StoredLuma:
    """The luma plane of a JPEG file.

    Attributes:
        plane: uint8 (h, w), in the orientation of the file, with the file's 8 x 8 grid at its origin.
        usable: bool (h // 8, w // 8), blocks without a pixel of which some colour is 0 or 255: the coefficients of the
            others cannot be told exactly.
        low: float32 (h // 8, w // 8, LOW, LOW), the blocks' lowest coefficients; see `low_coefficients`.
        table: int64 (8, 8), its quantisation table, row = vertical frequency.
    """

    plane: NDArray[np.uint8]
    usable: NDArray[np.bool_]
    low: Floats
    table: Ints


def stored_luma(picture: Picture) -> StoredLuma | None:
    """The luma plane of a JPEG picture, undisturbed by colour conversion; None if it is no grey or YCbCr JPEG."""
    return picture.derived(_read_luma)


def _read_luma(picture: Picture) -> StoredLuma | None:
    if picture.info.format != "JPEG" or picture.info.mode not in {"L", "RGB"}:
        return None
    try:
        image = JpegImageFile(io.BytesIO(containers.bare(picture.file, "JPEG")))
        tables = image.quantization
        component = image.layer[0]
        if image.info.get("adobe_transform") == 0 and picture.info.mode == "RGB":
            return None  # stored as RGB: there is no luma plane
        table = np.array(tables[component[3]], np.int64).reshape(8, 8)
        image.draft("L", image.size)
        image.load()
        plane = np.asarray(image if image.mode == "L" else image.convert("L"), np.uint8)
    except (OSError, KeyError, IndexError, ValueError, SyntaxError):
        return None
    rgb = as_stored(picture.rgb, picture.info.exif_orientation)
    if rgb.shape[:2] != plane.shape:
        return None
    return StoredLuma(
        plane=plane, usable=_unclipped_blocks(rgb), low=low_coefficients(plane), table=np.maximum(table, 1)
    )


def _unclipped_blocks(rgb: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """The whole 8 x 8 blocks in which no colour of any pixel is 0 or 255, bool (h // 8, w // 8)."""
    rows, columns = rgb.shape[0] // 8, rgb.shape[1] // 8
    if not rows or not columns:
        return np.zeros((rows, columns), np.bool_)
    part = np.ascontiguousarray(rgb[: 8 * rows, : 8 * columns])
    inside = np.asarray(cv2.inRange(part, (1, 1, 1), (254, 254, 254)))
    by_row = inside.reshape(rows, 8, 8 * columns).min(axis=1)
    return np.asarray(by_row.reshape(rows, columns, 8).min(axis=2) == 255)


def low_coefficients(plane: NDArray[np.uint8], *, row: int = 0, column: int = 0) -> Floats:
    """Lowest coefficients of the orthonormal DCT of 8 x 8 blocks, as JPEG defines it.

    Args:
        plane: uint8 (h, w).
        row: of the first block's corner.
        column: likewise.

    Returns:
        float32 (rows, columns, LOW, LOW): of each whole block, by vertical and horizontal frequency.
    """
    rows, columns = max(0, plane.shape[0] - row) // 8, max(0, plane.shape[1] - column) // 8
    part = plane[row : row + 8 * rows, column : column + 8 * columns]
    basis = DCT[:LOW]
    low = np.empty((rows, columns, LOW, LOW), np.float32)
    for first in range(0, rows, _STRIP):
        strip = part[8 * first : 8 * (first + _STRIP)].astype(np.float32) - np.float32(128.0)
        count = strip.shape[0] // 8
        down = basis @ strip.reshape(count, 8, 8 * columns)
        both = down.reshape(count, LOW, columns, 8) @ basis.T
        low[first : first + count] = both.transpose(0, 2, 1, 3)
    return low


def upright(stored: NDArray[np.float32], orientation: int) -> NDArray[np.float32]:
    """Turns a map of the stored picture as the EXIF orientation (1-8) says."""
    turned = stored.T if orientation >= 5 else stored
    if orientation in {3, 4, 7, 8}:
        turned = turned[::-1]
    if orientation in {2, 3, 6, 7}:
        turned = turned[:, ::-1]
    return np.ascontiguousarray(turned)


def as_stored(upright: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Undoes the EXIF orientation (1-8) of (h, w, 3) pixels."""
    turned = upright[::-1] if orientation in {3, 4, 7, 8} else upright
    if orientation in {2, 3, 6, 7}:
        turned = turned[:, ::-1]
    return turned.swapaxes(0, 1) if orientation >= 5 else turned


def log10_likelihood_ratio(score: float, table: tuple[tuple[float, float], ...]) -> float:
    """The ratio of a table of (least score, log10 likelihood ratio), highest score first, the last for all scores."""
    return next(ratio for least, ratio in table if score >= least)
