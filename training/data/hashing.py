"""Difference hashes: the same picture in another size or encoding has nearly the same one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.data.pictures import RGB

__all__ = ["BITS", "dhash", "mirrored", "near_pairs", "nearest", "packed"]

BITS: Final = 256
_SIDE: Final = 16
_CHUNK: Final = 512

Packed = NDArray[np.uint64]


def dhash(rgb: RGB) -> str:
    """The hash of pixels, uint8 (h, w, 3), as 64 hexadecimal digits.

    Grey, 17 x 16 pixels (Lanczos), each compared with its right neighbour: bit 16 * row + column is set where the left
    one is brighter. Lists of reserved pictures are made in the same way.
    """
    grey = Image.fromarray(np.ascontiguousarray(rgb)).convert("L").resize((_SIDE + 1, _SIDE), Image.Resampling.LANCZOS)
    pixels = np.asarray(grey, np.uint8)
    bits = (pixels[:, :-1] > pixels[:, 1:]).ravel()
    return f"{sum(1 << int(place) for place in np.flatnonzero(bits)):064x}"


def mirrored(hashed: str) -> str:
    """About the hash of the mirror image: rows reversed, comparisons turned round."""
    bits = int(hashed, 16)
    rows = [(bits >> (_SIDE * row)) & 0xFFFF for row in range(_SIDE)]
    turned = [int(f"{row:016b}"[::-1], 2) ^ 0xFFFF for row in rows]
    return f"{sum(value << (_SIDE * row) for row, value in enumerate(turned)):064x}"


def packed(hashes: Sequence[str]) -> Packed:
    """Hashes as uint64 (n, 4)."""
    raw = b"".join(bytes.fromhex(hashed) for hashed in hashes)
    return np.frombuffer(raw, np.uint64).reshape(-1, BITS // 64)


def nearest(hashes: Packed, others: Packed) -> NDArray[np.int64]:
    """For each hash its distance in bits to the nearest of the others, int64 (n,); 256 if there are none."""
    result = np.full(len(hashes), BITS, np.int64)
    if len(others):
        for start in range(0, len(hashes), _CHUNK):
            result[start : start + _CHUNK] = _distances(hashes[start : start + _CHUNK], others).min(axis=1)
    return result


def near_pairs(hashes: Packed, limit: int) -> Iterator[tuple[int, int, int]]:
    """All pairs (first, second, distance) with first < second that are at most `limit` bits apart."""
    for start in range(0, len(hashes), _CHUNK):
        distances = _distances(hashes[start : start + _CHUNK], hashes[start:])
        for row, column in zip(*np.nonzero(distances <= limit), strict=True):
            if column > row:
                yield start + int(row), start + int(column), int(distances[row, column])


def _distances(some: Packed, others: Packed) -> NDArray[np.uint16]:
    total = np.zeros((len(some), len(others)), np.uint16)
    for word in range(BITS // 64):
        total += np.bitwise_count(some[:, None, word] ^ others[None, :, word])
    return total
