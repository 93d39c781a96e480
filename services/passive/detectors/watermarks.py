"""Invisible watermarks that generators publish: the DWT marks of Stable Diffusion 1, 2, XL and FLUX.2.

The reference programs of these models mark their pictures with the `dwtDct` method of the library invisible-watermark:

1. The picture is converted to YUV; of the U plane, the low-pass band of one level of the Haar wavelet is taken.
2. Each block of 4x4 coefficients carries one bit, row by row, the payload over and over: the largest coefficient but
   the first is moved to a quarter (bit 0) or three quarters (bit 1) of its step of 36.
3. Decoding takes that coefficient modulo 36 in each block, and the majority of all blocks of a bit.

A crop moves the blocks and the place in the payload. So, beside the picture as it is, all 64 offsets of the 8-pixel
grid are tried on a middle part, each with every rotation of the payload and every row length that a picture with a
width of a multiple of 64 had (but for SD2's payload, which is too short for so many trials). The marks were also
written with red and blue exchanged, and on floating-point pixels without YUV's offset of 128, by common programs: both
are tried on the whole picture.

**False positives.** If the bits of an unmarked picture are fair and independent coins, n of N agree with a given
payload by chance with the tail of the binomial distribution; that tail times the number of hypotheses tried bounds the
chance of any of them (union bound). The threshold of each payload is the least number of agreeing bits for which the
sum over all payloads, and over both ways of looking, stays below `FALSE_POSITIVE_BOUND`. The coins are not quite fair
(a plain plane gives equal bits, and text in ASCII is no random payload): `MIN_AGREEMENT` adds what was measured.

The marks do not survive JPEG with subsampled chroma, nor resizing: that none is found is no evidence of anything.

References:
    ShieldMnt, invisible-watermark (MIT), method dwtDct; Stability AI, generative-models (MIT); Black Forest Labs, flux2
    (Apache-2.0): the payloads.
    Haar wavelet: 10.1007/BF01456326.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from services.common.detection import Applicability, Direction, Evidence, Finding, Question, Strength, Technique
from services.common.images import Picture
from services.passive.detectors import registry

__all__ = ["FALSE_POSITIVE_BOUND", "PAYLOADS", "Mark", "Payload", "binomial_tail", "detect_watermarks", "find_mark"]

Plane = NDArray[np.float32]
Bits = NDArray[np.int8]

STEP: Final = 36.0
BLOCK: Final = 4
"""Quantisation step and side of a block (in coefficients: twice as many pixels) of the method."""
CELL: Final = 2 * BLOCK
"""Side of a block in pixels."""

FALSE_POSITIVE_BOUND: Final = 1e-6
"""Bound on the chance that an unmarked picture shows any of the payloads, under fair and independent bits."""
MIN_AGREEMENT: Final = 0.8
"""Least share of agreeing bits, whatever the bound says. On 2,013 unmarked photographs the best chance matches were 87
of 136, 24 of 32 and 34 of 48 bits in the whole picture, and 100 of 136 and 42 of 48 in the search for crops."""
MIN_VOTES: Final = 6
"""Fewest blocks for each bit of a payload; with fewer the payload is not looked for."""
MAX_BLOCKS: Final = 16_000
"""Most blocks of the whole picture that vote, from its middle rows; 12 megapixels have 190,000."""
SEARCH_SIDE: Final = 512
"""Side of the middle part that is searched at all offsets, in pixels."""
WIDTH_STEP: Final = 64
"""Cropped pictures are taken to have had a width of a multiple of this, in pixels, as generators make them."""


@dataclass(frozen=True, slots=True)
class Payload:
    """A published payload: whose it is, and its bits as "0" and "1"."""

    name: str
    generator: str
    bits: str

    @property
    def pattern(self) -> Bits:
        """The bits as +1 and -1."""
        return np.array([1 if bit == "1" else -1 for bit in self.bits], np.int8)


def _of_text(text: str) -> str:
    return "".join(f"{byte:08b}" for byte in text.encode("ascii"))


PAYLOADS: Final = (
    Payload("StableDiffusionV1", "Stable Diffusion 1", _of_text("StableDiffusionV1")),
    Payload("SDV2", "Stable Diffusion 2", _of_text("SDV2")),
    Payload("SDXL", "Stable Diffusion XL", "101100111110110010010000011110111011000110011110"),
    Payload("FLUX.2", "FLUX.2", "001010101111111010000111100111001111010100101110"),
)

_CROPPED: Final = "as published, cropped"
_VARIANTS: Final = (
    ("as published", False, False),
    ("red and blue exchanged", True, False),
    ("without offset", False, True),
    ("without offset, red and blue exchanged", True, True),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A mark that was found, or the best match that was not good enough.

    Attributes:
        payload: which.
        agreeing: bits that agree with it; of all its bits.
        threshold: bits that must agree.
        false_positive_bound: chance of as good a match at any hypothesis, under fair and independent bits.
        offset: (x, y) of the grid of blocks, 0-7 pixels.
        variant: how it was written.
        votes: blocks that voted for each bit, at least.
    """

    payload: Payload
    agreeing: int
    threshold: int
    false_positive_bound: float
    offset: tuple[int, int]
    variant: str
    votes: int

    @property
    def found(self) -> bool:
        """Whether enough bits agree."""
        return self.agreeing >= self.threshold


def binomial_tail(least: int, of: int) -> float:
    """P(at least `least` of `of` fair coins show heads)."""
    return sum(math.comb(of, k) for k in range(least, of + 1)) / 2.0**of


def hypotheses(payload: Payload, *, cropped: bool) -> int:
    """In how many ways a payload is looked for in one picture: in the whole picture, or in the search for crops."""
    length = len(payload.bits)
    return CELL * CELL * len(_row_steps(length)) * length if cropped else len(_VARIANTS)


def threshold(payload: Payload, *, cropped: bool) -> int:
    """Bits that must agree with a payload; more than it has if it is too short to be looked for that way."""
    length = len(payload.bits)
    allowed = FALSE_POSITIVE_BOUND / (2 * len(PAYLOADS)) / hypotheses(payload, cropped=cropped)
    by_bound = next((n for n in range(length // 2, length + 1) if binomial_tail(n, length) <= allowed), length + 1)
    return max(by_bound, math.ceil(MIN_AGREEMENT * length))


def find_mark(rgb: NDArray[np.uint8]) -> Mark | None:
    """The best match of any payload, found or not; None if the picture is too small for all of them.

    Args:
        rgb: uint8 (height, width, 3), the picture as it was saved, neither resized nor turned.
    """
    best: Mark | None = None
    for mark in _whole(rgb):
        best = _better(best, mark)
        if best.found:
            return best
    for mark in _cropped(rgb):
        best = _better(best, mark)
    return best


@registry.detector(
    name="watermarks",
    version="1",
    title="Invisible watermarks of generators",
    question=Question.GENERATED,
    techniques=(Technique.GENERATED,),
    papers=("10.1007/BF01456326",),
    parameters={
        "payloads": ", ".join(payload.name for payload in PAYLOADS),
        "false_positive_bound": FALSE_POSITIVE_BOUND,
        "min_agreement": MIN_AGREEMENT,
        "max_blocks": MAX_BLOCKS,
        "search_side": SEARCH_SIDE,
    },
)
def detect_watermarks(picture: Picture) -> Finding:
    """Looks for the invisible marks that the reference programs of Stable Diffusion and FLUX.2 write.

    Strong evidence if one is found: by chance that happens to fewer than one picture in a million. That none is found
    proves nothing, for JPEG with subsampled colour, resizing and other programs leave none. Does not apply to pictures
    with too few blocks of 8x8 pixels.
    """
    mark = find_mark(picture.rgb)
    if mark is None:
        return Finding.not_applicable(
            f"The picture is too small to look for watermarks ({picture.info.width} x {picture.info.height} pixels)."
        )
    length = len(mark.payload.bits)
    details: dict[str, Any] = {
        "payload": mark.payload.name,
        "agreeing_bits": mark.agreeing,
        "bits": length,
        "threshold": mark.threshold,
        "false_positive_bound": mark.false_positive_bound,
        "offset": list(mark.offset),
        "variant": mark.variant,
        "votes_per_bit": mark.votes,
    }
    if not mark.found:
        return Finding(
            applicability=Applicability.APPLIED,
            score=0.0,
            explanation=f"No known watermark was found (best match {mark.agreeing} of {length} bits; {mark.threshold} "
            "are needed). That proves nothing: most generators write none, and most ways of sending destroy it.",
            details=details,
        )
    sentence = (
        f"The pixels carry the watermark of {mark.payload.generator}: {mark.agreeing} of {length} bits agree (by "
        f"chance in at most {mark.false_positive_bound:.0e} of pictures, if bits were fair coins)"
    )
    return Finding(
        applicability=Applicability.APPLIED,
        score=1.0,
        explanation=f"{sentence}.",
        technique=Technique.GENERATED,
        details=details,
        evidence=(
            Evidence(
                source="watermark",
                finding=sentence,
                direction=Direction.AI_GENERATED,
                strength=Strength.STRONG,
                analyzer="watermarks",
                confidence=0.99,
                details=details,
            ),
        ),
    )


# --- Reading bits ---


def _low_pass(rgb: NDArray[np.uint8], *, exchanged: bool, without_offset: bool) -> Plane:
    """|low-pass band| of the U plane, float32 (h // 2, w // 2), of pixels whose height and width are even."""
    code = cv2.COLOR_BGR2YUV if exchanged else cv2.COLOR_RGB2YUV
    if without_offset:
        # OpenCV adds half of the range: 128 to bytes, 0.5 to floating-point numbers, whatever their range is.
        red, green, blue = (rgb[..., i].astype(np.float32) for i in ((2, 1, 0) if exchanged else (0, 1, 2)))
        u = (blue - (0.299 * red + 0.587 * green + 0.114 * blue)) * np.float32(0.492) + np.float32(0.5)
    else:
        u = cv2.cvtColor(rgb, code)[..., 1].astype(np.float32)
    band = (u[0::2, 0::2] + u[0::2, 1::2] + u[1::2, 0::2] + u[1::2, 1::2]) * np.float32(0.5)
    return cast("Plane", np.abs(band))


def _bits(band: Plane) -> Bits:
    """The bit of the block that starts at each coefficient, +1 or -1: int8, same shape as `band`."""
    kernel = np.ones((BLOCK, BLOCK), np.uint8)
    kernel[0, 0] = 0
    largest = cv2.dilate(band, kernel, anchor=(0, 0))
    return np.where(np.mod(largest, np.float32(STEP)) > STEP / 2, 1, -1).astype(np.int8)


def _row_steps(length: int) -> list[int]:
    """By how much the place in a payload may move from one row of blocks to the next, for all usual widths."""
    return sorted({(WIDTH_STEP // CELL) * n % length for n in range(1, length + 1)})


def _whole(rgb: NDArray[np.uint8]) -> Iterator[Mark]:
    """The match of each payload with the picture as it is, for each variant of writing it."""
    height, width = rgb.shape[:2]
    rows, columns = height // CELL, width // CELL
    used = min(rows, max(1, MAX_BLOCKS // max(1, columns)))
    first = (rows - used) // 2
    part = np.ascontiguousarray(rgb[first * CELL : (first + used) * CELL, : columns * CELL])
    if not part.size:
        return
    # The place in the payload of each block: the encoder counts the blocks of the whole picture row by row.
    places = np.arange(first * columns, (first + used) * columns)
    payloads = [payload for payload in PAYLOADS if len(places) >= MIN_VOTES * len(payload.bits)]
    for name, exchanged, without_offset in _VARIANTS if payloads else ():
        bits = _bits(_low_pass(part, exchanged=exchanged, without_offset=without_offset))
        blocks = bits[::BLOCK, ::BLOCK].reshape(-1)
        for payload in payloads:
            length = len(payload.bits)
            votes = np.bincount(places % length, weights=blocks, minlength=length)
            agreeing = int(((votes > 0) == (payload.pattern > 0)).sum())
            yield _mark(payload, agreeing, (0, 0), name, votes=len(places) // length)


def _cropped(rgb: NDArray[np.uint8]) -> Iterator[Mark]:
    """The best match of each payload at any offset, rotation and usual row length, on the middle of the picture."""
    height, width = rgb.shape[:2]
    side_y, side_x = min(height, SEARCH_SIDE), min(width, SEARCH_SIDE)
    top, left = (height - side_y) // 2, (width - side_x) // 2
    rows, columns = (side_y - CELL) // CELL, (side_x - CELL) // CELL
    payloads = [
        payload
        for payload in PAYLOADS
        if rows * columns >= MIN_VOTES * len(payload.bits) and threshold(payload, cropped=True) <= len(payload.bits)
    ]
    if not payloads:
        return
    blocks = _blocks_at_all_offsets(rgb[top : top + side_y, left : left + side_x], rows, columns)
    for length in sorted({len(payload.bits) for payload in payloads}):
        votes = _folded_votes(blocks, length)
        # Agreement decides; between equals, how clear the votes were (which moves no sum by half a bit).
        ballots = np.where(votes > 0, np.float32(1), np.float32(-1)) + votes * np.float32(
            0.4 / length / max(1.0, float(np.abs(votes).max()))
        )
        for payload in payloads:
            if len(payload.bits) != length:
                continue
            rotated = np.stack([np.roll(payload.pattern, shift) for shift in range(length)], axis=1)
            agreeing = (ballots @ rotated.astype(np.float32)).max(axis=(1, 2))
            offset_y, offset_x = divmod(int(agreeing.argmax()), CELL)
            offset = (left + offset_x) % CELL, (top + offset_y) % CELL
            agreement = (round(float(agreeing.max())) + length) // 2
            yield _mark(payload, agreement, offset, _CROPPED, votes=rows * columns // length)


def _blocks_at_all_offsets(part: NDArray[np.uint8], rows: int, columns: int) -> NDArray[np.float32]:
    """The bits of the blocks at each offset: float32 (64, rows, columns); offset (x, y) is at 8 y + x."""
    result = np.empty((CELL, CELL, rows, columns), np.float32)
    for y in (0, 1):
        for x in (0, 1):
            shifted = part[y:, x:]
            height, width = (side // 2 * 2 for side in shifted.shape[:2])
            even = np.ascontiguousarray(shifted[:height, :width])
            bits = _bits(_low_pass(even, exchanged=False, without_offset=False))
            for row in range(BLOCK):
                for column in range(BLOCK):
                    at_offset = bits[row::BLOCK, column::BLOCK][:rows, :columns]
                    result[2 * row + y, 2 * column + x] = at_offset
    return result.reshape(CELL * CELL, rows, columns)


def _folded_votes(blocks: NDArray[np.float32], length: int) -> NDArray[np.float32]:
    """The sum of votes of each bit for each offset and each step from row to row: (64, steps, length)."""
    steps = _row_steps(length)
    offsets, rows, columns = blocks.shape
    # Blocks a whole payload apart in a row carry the same bit, and so do rows after which all steps have come round.
    period = length // math.gcd(length, WIDTH_STEP // CELL)
    padded = np.zeros((offsets, -(-rows // period) * period, -(-columns // length) * length), np.float32)
    padded[:, :rows, :columns] = blocks
    folded = padded.reshape(offsets, -1, period, padded.shape[2] // length, length).sum(axis=(1, 3))
    row = np.arange(period)[:, None]
    return np.stack([folded[:, row, (np.arange(length) - row * step) % length].sum(axis=1) for step in steps], axis=1)


def _mark(payload: Payload, agreeing: int, offset: tuple[int, int], variant: str, *, votes: int) -> Mark:
    cropped = variant == _CROPPED
    chance = hypotheses(payload, cropped=cropped) * binomial_tail(agreeing, len(payload.bits))
    return Mark(
        payload=payload,
        agreeing=agreeing,
        threshold=threshold(payload, cropped=cropped),
        false_positive_bound=min(1.0, chance),
        offset=offset,
        variant=variant,
        votes=votes,
    )


def _better(one: Mark | None, other: Mark) -> Mark:
    """The one that is found, or else less likely by chance; of equals, the first."""
    if one is None:
        return other
    return max((one, other), key=lambda mark: (mark.found, -mark.false_positive_bound))
