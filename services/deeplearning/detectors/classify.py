"""How a picture was edited, if it was: ResNet50's classes, of which one is "pristine".

The score is one minus the probability of pristine. A network without that class (the classifiers of document 001 were
of that kind) can tell manipulations apart and cannot say whether there is one: it has no say in the verdict.

The ratio is stated, as that of `segment`, and smaller: where one network gives both, this is the same observation.

References:
    K. He et al., "Deep residual learning for image recognition", CVPR 2016. 10.1109/CVPR.2016.90
"""

from __future__ import annotations

from typing import Final

from services.common.detection import Applicability, Finding, Question, Technique
from services.common.images import Picture
from services.deeplearning.detectors import registry
from services.deeplearning.models import MANIPULATION_CLASS
from services.deeplearning.networks import Classification, Networks
from services.deeplearning.techniques import PRISTINE, TECHNIQUES, stated_log10, technique_of

__all__ = ["MIN_SIDE", "detect_manipulation_class", "finding_of"]

MIN_SIDE: Final = 64
"""Shortest side in pixels, as of `segment`."""
ACCUSING_SCORE: Final = 0.5
"""From here on some manipulation is likelier than none."""
MAX_LOG10: Final = 0.15
MIN_LOG10: Final = -0.05
"""Bounds of the stated likelihood ratio: half of what `segment` may say."""


@registry.detector(
    name="classify",
    version="2",
    title="Kind of manipulation (ResNet50)",
    question=Question.EDITED,
    techniques=(Technique.SPLICING, Technique.COPY_MOVE, Technique.INPAINTING, Technique.FACE),
    papers=("10.1109/CVPR.2016.90",),
    models=(MANIPULATION_CLASS.name,),
    parameters={
        "min_side": MIN_SIDE,
        "decision_score": ACCUSING_SCORE,
        "max_log10": MAX_LOG10,
        "min_log10": MIN_LOG10,
    },
)
async def detect_manipulation_class(picture: Picture, networks: Networks) -> Finding:
    """Says which manipulation the picture shows to a network, if any: splicing, copy-move, inpainting or a face."""
    height, width = picture.rgb.shape[:2]
    if min(height, width) < MIN_SIDE:
        return Finding.not_applicable(f"The shorter side has {min(height, width)} pixels; {MIN_SIDE} are needed.")
    return finding_of(await networks.classification())


def finding_of(said: Classification) -> Finding:
    """What a classification says about the picture."""
    if PRISTINE not in said.classes:
        return Finding.not_applicable(
            "The installed classifier tells manipulations apart and knows no honest pictures: it cannot say whether "
            "there is one."
        )
    score = 1.0 - said.classes[PRISTINE]
    return Finding(
        applicability=Applicability.APPLIED,
        score=score,
        explanation=_in_words(said, score),
        log10_likelihood_ratio=stated_log10(score, lowest=MIN_LOG10, highest=MAX_LOG10),
        technique=technique_of(said.classes) if score >= ACCUSING_SCORE else None,
        details={"classes": {name: round(value, 4) for name, value in said.classes.items()}, "model": said.model},
    )


def _in_words(said: Classification, score: float) -> str:
    if score < ACCUSING_SCORE:
        return "To a network the picture looks like one that was not edited. Edited ones often do."
    likeliest = max((name for name in said.classes if name != PRISTINE), key=said.classes.__getitem__)
    known = TECHNIQUES.get(likeliest)
    name = (known.value if known else likeliest).replace("_", "-")
    return f"To a network the picture looks edited, most like {name}; alone that is weak evidence."
