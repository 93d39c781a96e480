"""Hashes: the file's, the pixels', and a perceptual one that near-duplicates share.

* **SHA-256 of the file** tells whether two files are the same to the byte.
* **SHA-256 of the pixels** (after decoding, upright, sRGB) tells whether two files show the same picture to the bit,
  though their metadata or their container differ.
* **pHash**: the picture is made grey and averaged down to 32x32; of its cosine transform the 8x8 lowest frequencies but
  the mean are kept; each gives one bit: above the median or not. Pictures of which at most about 10 of 64 bits differ
  are most likely versions of one another: recompressed, resized, slightly cropped or retouched.

None of them is evidence of anything: they are for looking up a picture among known ones.

References:
    C. Zauner, "Implementation and benchmarking of perceptual image hash functions", 2010 (pHash, DCT-based).
    FIPS 180-4 (SHA-256).
"""

from __future__ import annotations

import hashlib
from typing import Final, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from services.common.detection import Applicability, Finding, Question, Technique
from services.common.images import Picture
from services.passive.detectors import registry

__all__ = ["NEAR_DUPLICATE_BITS", "detect_hashes", "hamming_distance", "perceptual_hash", "pixel_digest"]

SIDE: Final = 32
"""Side of the small picture that is transformed."""
KEPT: Final = 8
"""Side of the square of lowest frequencies that is kept."""
NEAR_DUPLICATE_BITS: Final = 10
"""Pictures whose hashes differ in at most so many of 64 bits are likely versions of one another (Zauner 2010)."""
FLAT: Final = 1.0
"""Largest spread (grey levels) of the small picture at which it is called plain: its hash then says nothing."""


def perceptual_hash(rgb: NDArray[np.uint8]) -> str:
    """The pHash of uint8 (height, width, 3) as 16 lower-case hexadecimal digits; row by row, first bit highest."""
    # The shrinking comes first: it is linear, like the weighted sum that makes grey, and a thousand times smaller.
    small = cv2.resize(rgb, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)
    low = cast("NDArray[np.float32]", cv2.dct(grey))[:KEPT, :KEPT].reshape(-1)
    bits = low > np.median(low[1:])
    return np.packbits(bits).tobytes().hex()


def hamming_distance(one: str, other: str) -> int:
    """Number of bits in which two hashes of equal length (hexadecimal) differ."""
    if len(one) != len(other):
        raise ValueError("hashes of different lengths")
    return (int(one, 16) ^ int(other, 16)).bit_count()


def pixel_digest(rgb: NDArray[np.uint8]) -> str:
    """SHA-256 of the size (two 32-bit numbers, big-endian: width, height) and the pixels, in hexadecimal digits."""
    height, width = rgb.shape[:2]
    digest = hashlib.sha256(width.to_bytes(4, "big") + height.to_bytes(4, "big"))
    digest.update(np.ascontiguousarray(rgb).data)
    return digest.hexdigest()


@registry.detector(
    name="hashes",
    version="1",
    title="Hashes for finding copies",
    question=Question.GENERATED,
    techniques=(Technique.OTHER,),
    papers=("FIPS 180-4",),
    parameters={"near_duplicate_bits": NEAR_DUPLICATE_BITS},
)
def detect_hashes(picture: Picture) -> Finding:
    """Computes hashes by which copies and near-duplicates of the picture can be looked up; evidence of nothing.

    The perceptual hash of a plain picture says nothing, and is marked so.
    """
    small = cv2.resize(picture.rgb, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    plain = float(small.max()) - float(small.min()) <= FLAT
    return Finding(
        applicability=Applicability.APPLIED,
        score=0.0,
        explanation="Hashes to look the picture up among known ones; they are evidence of nothing.",
        details={
            "sha256": picture.info.sha256,
            "pixels_sha256": pixel_digest(picture.rgb),
            "phash": perceptual_hash(picture.rgb),
            "phash_says_nothing": plain,
            "near_duplicate_bits": NEAR_DUPLICATE_BITS,
        },
    )
