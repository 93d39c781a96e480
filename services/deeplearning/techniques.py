"""Between a localiser's classes and the techniques that the policy knows, and what an uncalibrated score may weigh."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from services.common.detection import Technique

__all__ = ["PRISTINE", "TECHNIQUES", "stated_log10", "technique_of"]

PRISTINE: Final = "pristine"
"""The class of pictures that were not edited."""

TECHNIQUES: Final[Mapping[str, Technique]] = {
    "splicing": Technique.SPLICING,
    "copymove": Technique.COPY_MOVE,
    "inpainting": Technique.INPAINTING,
    "face": Technique.FACE,
}
"""By the names of the classes, which are document 001's. A class of another name is `Technique.OTHER`."""

CLEAR: Final = 0.5
"""Share of the probability of all manipulations that one of them needs to be named."""


def technique_of(classes: Mapping[str, float]) -> Technique:
    """The technique that most of the probability of all manipulations is on; OTHER if none has so much, or is known."""
    manipulations = {name: value for name, value in classes.items() if name != PRISTINE}
    total = sum(manipulations.values())
    if total <= 0.0:
        return Technique.OTHER
    likeliest = max(manipulations, key=manipulations.__getitem__)
    return TECHNIQUES.get(likeliest, Technique.OTHER) if manipulations[likeliest] >= CLEAR * total else Technique.OTHER


def stated_log10(score: float, *, lowest: float, highest: float) -> float:
    """The stated log10 likelihood ratio of an uncalibrated score in 0-1: 0 at 0.5, linear to both bounds."""
    distance = 2.0 * score - 1.0
    return highest * distance if distance >= 0.0 else -lowest * distance
