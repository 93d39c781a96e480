"""Making forgeries and pairs: draws until an attempt is no degenerate forgery, and encodes twins alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np

from evaluation.forgery._encoding import Encoding
from evaluation.forgery._regions import window_of
from evaluation.forgery._registry import RGB, Draft, Maker, Mask, load_makers
from services.common.detection import Technique

__all__ = [
    "MAX_AREA",
    "MIN_AREA",
    "Forgery",
    "ForgeryFailed",
    "Pair",
    "encode_pair",
    "find_maker",
    "make_forgery",
    "make_pair",
    "makers",
]

MIN_AREA: Final = 0.005
"""Smallest part of the picture that a forgery covers: below it, no published mask metric is stable."""
MAX_AREA: Final = 0.25
"""Largest part of the picture that a forgery covers."""
MIN_CHANGED_SHARE: Final = 0.5
"""Smallest share of the mask's pixels that differ from the twin in some channel."""
MIN_SIDE: Final = 64
"""Shortest side, in pixels, of a picture that can be forged."""
MAX_ATTEMPTS: Final = 40
"""Draws before giving a picture up. scikit-image's photographs take 1.0 to 1.5 on average, 8 at most."""

_MAKERS: Final = load_makers("evaluation.forgery.techniques")


class ForgeryFailed(Exception):
    """No acceptable forgery came out of `MAX_ATTEMPTS` draws: the picture is too plain, or the options do not fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgery:
    """A forged picture, and all that is known about it.

    Attributes:
        image: uint8 (h, w, 3), before any encoding.
        mask: bool (h, w), the forged region; outside it no pixel differs from the twin.
        technique: what it is labelled as.
        maker: name of the way that it was made, e.g. "resampled".
        parameters: what was drawn, JSON-serialisable; "attempts" says how many draws it took.
        twin: uint8 (h, w, 3), the pristine picture after exactly the same processing, so that only the forgery differs;
            the given array itself where there was none.
        source_mask: bool (h, w), where copied content came from; only of copy-moves.
    """

    image: RGB
    mask: Mask
    technique: Technique
    maker: str
    parameters: Mapping[str, Any]
    twin: RGB
    source_mask: Mask | None = None


class Pair(NamedTuple):
    """A forged file and its pristine twin, encoded alike; `mask` and `parameters` as in `Forgery`."""

    forged: bytes
    pristine: bytes
    mask: Mask
    parameters: dict[str, Any]


def makers() -> Mapping[str, Maker]:
    """All ways to forge, by name, in alphabetical order."""
    return _MAKERS


def find_maker(technique: Technique | str, rng: np.random.Generator, *, has_donor: bool) -> Maker:
    """The maker of that name, or one drawn from those of a technique that the donor (or its lack) permits.

    Raises:
        ValueError: there is none.
    """
    if isinstance(technique, str):
        if technique not in _MAKERS:
            raise ValueError(f"no forgery maker is named {technique}; there are {', '.join(_MAKERS)}")
        return _MAKERS[technique]
    fitting = [maker for maker in _MAKERS.values() if maker.technique is technique and has_donor >= maker.needs_donor]
    if not fitting:
        without = "" if has_donor else " without a donor picture"
        raise ValueError(f"no forgery maker plants {technique.value}{without}")
    return fitting[int(rng.integers(len(fitting)))]


def make_forgery(
    rgb: RGB,
    technique: Technique | str,
    rng: np.random.Generator | int,
    *,
    donor: RGB | None = None,
    donor_mask: Mask | None = None,
    **options: Any,
) -> Forgery:
    """Plants one forgery into a pristine picture.

    1. The maker is looked up by name, or drawn from those of the technique.
    2. It draws until an attempt passes: between `MIN_AREA` and `MAX_AREA` of the picture, at least
       `MIN_CHANGED_SHARE` of it changed, by at least the maker's `min_change` on average.

    The same arguments and the same state of `rng` give the same forgery.

    Args:
        rgb: the picture, uint8 (h, w, 3), both sides at least `MIN_SIDE` pixels; it is not changed.
        technique: a technique, or the name of a maker.
        rng: a random generator, or a seed.
        donor: another picture to take a piece of, uint8 (h', w', 3) of any size.
        donor_mask: an object in the donor, bool (h', w'); by default the piece is drawn.
        **options: of the maker, see `Maker.options` and the functions in `evaluation.forgery.techniques`.

    Raises:
        ValueError: an argument is of the wrong kind, or the technique needs a donor.
        ForgeryFailed: nothing acceptable could be made.
    """
    _check_picture(rgb, "picture")
    generator = np.random.default_rng(rng)
    if donor is not None:
        _check_picture(donor, "donor")
    if donor_mask is not None and (donor is None or donor_mask.shape != donor.shape[:2]):
        raise ValueError("the donor's mask does not fit the donor")
    maker = find_maker(technique, generator, has_donor=donor is not None)
    if maker.needs_donor:
        if donor is None:
            raise ValueError(f"{maker.name} takes a piece of another picture: give a donor")
        options = {**options, "donor": donor, "donor_mask": donor_mask}
    refusals: Counter[str] = Counter()
    for attempt in range(1, MAX_ATTEMPTS + 1):
        draft = maker.plant(rgb, generator, **options)
        refusal = "it did not fit" if draft is None else _degeneracy(rgb, draft, maker)
        if draft is None or refusal:
            refusals[refusal] += 1
            continue
        return Forgery(
            image=draft.image,
            mask=draft.mask,
            technique=maker.technique,
            maker=maker.name,
            parameters={**draft.parameters, "attempts": attempt},
            twin=rgb if draft.twin is None else draft.twin,
            source_mask=draft.source_mask,
        )
    reasons = ", ".join(f"{reason} ({count} times)" for reason, count in refusals.most_common())
    raise ForgeryFailed(f"no {maker.name} after {MAX_ATTEMPTS} attempts: {reasons}")


def encode_pair(forgery: Forgery, encoding: Encoding) -> tuple[bytes, bytes]:
    """The files of the forgery and of its pristine twin, encoded alike."""
    return encoding.encode(forgery.image), encoding.encode(forgery.twin)


def make_pair(
    rgb: RGB,
    technique: Technique | str,
    seed: int,
    encoding: Encoding,
    *,
    donor: RGB | None = None,
    donor_mask: Mask | None = None,
    **options: Any,
) -> Pair:
    """Plants one forgery and encodes it and its pristine twin alike; arguments and errors as of `make_forgery`.

    The parameters also tell the seed, the technique, the maker and the encoding.
    """
    forgery = make_forgery(rgb, technique, seed, donor=donor, donor_mask=donor_mask, **options)
    forged, pristine = encode_pair(forgery, encoding)
    parameters = {
        "seed": seed,
        "technique": forgery.technique.value,
        "maker": forgery.maker,
        "format": encoding.format,
        "quality": None if encoding.format == "png" else encoding.quality,
        **forgery.parameters,
    }
    return Pair(forged, pristine, forgery.mask, parameters)


def _check_picture(rgb: RGB, what: str) -> None:
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise ValueError(f"expected the {what} as uint8 (h, w, 3), got {rgb.dtype} {rgb.shape}")
    if min(rgb.shape[:2]) < MIN_SIDE:
        raise ValueError(f"the {what} is {rgb.shape[1]} x {rgb.shape[0]}; each side must have {MIN_SIDE} pixels")


def _degeneracy(rgb: RGB, draft: Draft, maker: Maker) -> str:
    """Why the draft is no acceptable forgery, or an empty string."""
    area = float(draft.mask.mean())
    if not MIN_AREA <= area <= MAX_AREA:
        return "its area was out of bounds"
    twin = rgb if draft.twin is None else draft.twin
    window = window_of(draft.mask)
    inside = draft.mask[window]
    change = np.abs(draft.image[window].astype(np.int16) - twin[window])[inside]
    if float(change.mean()) < maker.min_change:
        return "it changed too little"
    if float(change.any(axis=1).mean()) < MIN_CHANGED_SHARE:
        return "it changed too few pixels"
    return ""
