"""What the JPEG detectors share: the luma plane as the file stores it, block DCTs, orientation, and stated tables."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray
from PIL.JpegImagePlugin import JpegImageFile

from services.common.images import Picture

__all__ = [
    "DCT",
    "StoredLuma",
    "as_stored",
    "block_dct",
    "blocks_of",
    "log10_likelihood_ratio",
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


@dataclass(frozen=True, slots=True)
class StoredLuma:
    """The luma plane of a JPEG file.

    Attributes:
        plane: float32 (h, w), 0-255, in the orientation of the file, with the file's 8 x 8 grid at its origin.
        clipped: bool (h, w), pixels of which some colour is 0 or 255: their coefficients cannot be told exactly.
        table: int64 (8, 8), its quantisation table, row = vertical frequency.
    """

    plane: Floats
    clipped: NDArray[np.bool_]
    table: Ints


def stored_luma(picture: Picture) -> StoredLuma | None:
    """The luma plane of a JPEG picture, undisturbed by colour conversion; None if it is no grey or YCbCr JPEG."""
    if picture.info.format != "JPEG" or picture.info.mode not in {"L", "RGB"}:
        return None
    try:
        image = JpegImageFile(io.BytesIO(picture.file))
        tables = image.quantization
        component = image.layer[0]
        if image.info.get("adobe_transform") == 0 and picture.info.mode == "RGB":
            return None  # stored as RGB: there is no luma plane
        table = np.array(tables[component[3]], np.int64).reshape(8, 8)
        image.draft("L", image.size)
        image.load()
        plane = np.asarray(image if image.mode == "L" else image.convert("L"), np.float32)
    except (OSError, KeyError, IndexError, ValueError, SyntaxError):
        return None  # the picture was decoded without its metadata; with it, Pillow may stumble
    rgb = as_stored(picture.rgb, picture.info.exif_orientation)
    if rgb.shape[:2] != plane.shape:
        return None
    clipped = (rgb.min(axis=2) == 0) | (rgb.max(axis=2) == 255)
    return StoredLuma(plane=plane, clipped=clipped, table=np.maximum(table, 1))


def blocks_of(plane: Floats, *, row: int = 0, column: int = 0) -> Floats:
    """float32 (rows, columns, 8, 8): the whole 8 x 8 blocks of a plane, the first with its corner at (row, column)."""
    rows, columns = (plane.shape[0] - row) // 8, (plane.shape[1] - column) // 8
    part = plane[row : row + 8 * rows, column : column + 8 * columns]
    return np.ascontiguousarray(part.reshape(rows, 8, columns, 8).swapaxes(1, 2))


def block_dct(blocks: Floats, frequencies: Sequence[tuple[int, int]]) -> Floats:
    """Coefficients of the orthonormal DCT of 8 x 8 blocks, as JPEG defines it.

    Args:
        blocks: float32 (rows, columns, 8, 8).
        frequencies: the n wanted ones, (vertical, horizontal).

    Returns:
        float32 (rows, columns, n).
    """
    basis = np.stack([np.outer(DCT[row], DCT[column]).ravel() for row, column in frequencies], axis=1)
    return cast("Floats", (blocks.reshape(-1, 64) @ basis).reshape(*blocks.shape[:2], len(frequencies)))


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
