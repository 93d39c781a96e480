"""Pairs made for one kind of detector each: a picture with the trace that it looks for, and its twin without it.

Both are encoded alike, so that only the trace differs. Some kinds plant a forgery that has a place (and a mask), others
change the whole file, as saving it once more does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from evaluation._metadata import decode, transplant_exif
from evaluation.forgery import Encoding, ForgeryFailed, make_forgery
from evaluation.forgery._encoding import Subsampling, jpeg_round_trip
from evaluation.watermarking import embed
from services.common import _image_containers as containers
from services.passive.detectors.watermarks import PAYLOADS

__all__ = ["KINDS", "Host", "Kind", "Made"]

RGB = NDArray[np.uint8]
Mask = NDArray[np.bool_]

LONGEST_SIDE: Final = 640
"""Larger pictures are cropped to their middle, at multiples of 8 pixels: nothing is resampled."""


@dataclass(frozen=True, slots=True)
class Host:
    """An honest picture: its file, and the middle of its upright pixels, uint8 (h, w, 3)."""

    content: bytes
    rgb: RGB

    @classmethod
    def of(cls, content: bytes) -> Host:
        """Decodes a file and takes the middle."""
        rgb = np.asarray(decode(content).rgb)
        top, left = (max(0, side - LONGEST_SIDE) // 2 // 8 * 8 for side in rgb.shape[:2])
        return cls(content, np.ascontiguousarray(rgb[top : top + LONGEST_SIDE, left : left + LONGEST_SIDE]))


@dataclass(frozen=True, slots=True)
class Made:
    """A pair before its last encoding: how to write the forged picture and its twin; the mask, if it has a place."""

    forged: Callable[[Encoding], bytes]
    twin: Callable[[Encoding], bytes]
    mask: Mask | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A way to make pairs.

    Attributes:
        name: lower_snake_case.
        title: what a person calls it.
        subjects: the detectors that it is made for.
        make: a pair of a host, a donor and a seed; None where it cannot be made of them.
        subsampling: of the last encoding's colours.
        steps: names of the last encodings (`evaluation.planted_curves.STEPS`) that tell something; empty for all.
    """

    name: str
    title: str
    subjects: tuple[str, ...]
    make: Callable[[Host, Host, int], Made | None]
    subsampling: Subsampling = "4:2:0"
    steps: tuple[str, ...] = ()


def _planted(maker: str) -> Callable[[Host, Host, int], Made | None]:
    """Pairs of a maker of `evaluation.forgery`."""

    def make(host: Host, donor: Host, seed: int) -> Made | None:
        try:
            forgery = make_forgery(host.rgb, maker, seed, donor=donor.rgb)
        except (ForgeryFailed, ValueError):  # too plain, or too small
            return None
        return Made(
            lambda encoding: encoding.encode(forgery.image),
            lambda encoding: encoding.encode(forgery.twin),
            forgery.mask,
        )

    return make


def _saved_twice(host: Host, _: Host, seed: int) -> Made | None:
    """Made half as large, so that earlier compressions leave no trace; then saved at 50 to 90, or not."""
    height, width = host.rgb.shape[:2]
    fresh = np.asarray(cv2.resize(host.rgb, (width // 2, height // 2), interpolation=cv2.INTER_AREA), np.uint8)
    before = int(np.random.default_rng(seed).integers(50, 91))
    twice = jpeg_round_trip(fresh, before)
    return Made(lambda encoding: encoding.encode(twice), lambda encoding: encoding.encode(fresh))


def _camera_file(host: Host) -> bool:
    """Whether a file is a camera's JPEG, upright, with an EXIF block."""
    if containers.identify(host.content) != "JPEG" or decode(host.content).info.exif_orientation != 1:
        return False
    return bool(containers.read_header(host.content, "JPEG").exif)


def _old_thumbnail(host: Host, donor: Host, seed: int) -> Made | None:
    """A piece of another picture is pasted into a camera's picture, and the camera's EXIF block is kept as it was."""
    if not _camera_file(host):
        return None
    whole = np.asarray(decode(host.content).rgb)
    factor = min(1.0, LONGEST_SIDE / max(whole.shape[:2]))
    size = round(whole.shape[1] * factor), round(whole.shape[0] * factor)
    reduced = np.asarray(cv2.resize(whole, size, interpolation=cv2.INTER_AREA), np.uint8)
    try:
        forgery = make_forgery(reduced, "splicing", seed, donor=donor.rgb, area=(0.1, 0.25))
    except (ForgeryFailed, ValueError):
        return None
    return Made(
        lambda encoding: transplant_exif(encoding.encode(forgery.image), host.content),
        lambda encoding: transplant_exif(encoding.encode(forgery.twin), host.content),
        forgery.mask,
    )


def _saved_again(host: Host, _: Host, seed: int) -> Made | None:
    """A camera's file against the same saved by a program: with full or halved colours, as the seed says."""
    if not _camera_file(host):
        return None
    whole = np.asarray(decode(host.content).rgb)
    full = bool(np.random.default_rng(seed).integers(2))

    def saved(encoding: Encoding) -> bytes:
        chosen = Encoding(format="jpeg", quality=encoding.quality, subsampling="4:4:4" if full else "4:2:0")
        return transplant_exif(chosen.encode(whole), host.content)

    return Made(saved, lambda _: host.content)


def _marked(host: Host, _: Host, seed: int) -> Made | None:
    """One of the published marks, in a picture whose width is a multiple of 64, as generators make them."""
    height, width = (side // 64 * 64 for side in host.rgb.shape[:2])
    if min(height, width) < 256:
        return None
    plain = np.ascontiguousarray(host.rgb[:height, :width])
    marked = embed(plain, PAYLOADS[seed % len(PAYLOADS)].bits)
    return Made(lambda encoding: encoding.encode(marked), lambda encoding: encoding.encode(plain))


_LOCAL: Final = ("double_quantisation", "jpeg_grid", "jpeg_ghosts", "error_level", "noise_level")
"""Detectors and views that say where; each is measured on all kinds of pieces, those that it is not made for too."""

KINDS: Final[Mapping[str, Kind]] = {
    kind.name: kind
    for kind in (
        Kind(
            name="other_history",
            title="pieces with another JPEG history",
            subjects=_LOCAL,
            make=_planted("double_compression"),
        ),
        Kind(name="splice", title="pieces of another picture", subjects=_LOCAL, make=_planted("splicing")),
        Kind(name="resampled", title="resampled pieces", subjects=_LOCAL, make=_planted("resampled")),
        Kind(name="noise", title="noise-mismatched pieces", subjects=_LOCAL, make=_planted("noise_mismatch")),
        Kind(name="saved_twice", title="saved twice as JPEG", subjects=("first_digits",), make=_saved_twice),
        Kind(
            name="old_thumbnail",
            title="old thumbnail kept",
            subjects=("thumbnail",),
            make=_old_thumbnail,
            steps=("90",),
        ),
        Kind(
            name="saved_again",
            title="camera files saved again",
            subjects=("quantisation_tables",),
            make=_saved_again,
            steps=("90",),
        ),
        Kind(name="marked", title="marked, 4:4:4", subjects=("watermarks",), make=_marked, subsampling="4:4:4"),
        Kind(name="marked_420", title="marked, 4:2:0", subjects=("watermarks",), make=_marked),
    )
}
"""All kinds by name."""
