"""Fake faces: every face of the picture, real or generated or swapped; the most suspicious one decides.

The network and what it looks at is in `services.faces.attributes.deepfake`; what it was trained on, what it finds and
what it misses in triton_models/facenet_realfake/MODEL_CARD.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from services.common.detection import (
    Applicability,
    Finding,
    Point,
    Question,
    Region,
    RegionRole,
    Technique,
)
from services.common.images import Picture
from services.faces.attributes import traces
from services.faces.attributes.deepfake import FAKE_FROM, MODEL
from services.faces.describing import Description
from services.faces.detectors import registry
from services.faces.face import Box, DescribedFace

__all__ = ["LIKELIHOOD_RATIOS", "detect_fake_faces"]

MIN_FACE: Final = 40.0
"""Shortest side of a face's box in pixels. The network sees 160 pixels: smaller faces are mostly enlargement."""

MIN_CONFIDENCE: Final = 0.6
"""Of its finder that it is a face. What is none is no face that was put in: of what YuNet finds from 0.5 on 3 % are
none, from 0.6 on 1 % (`services.faces.finders.looks`)."""

LIKELIHOOD_RATIOS: Final[tuple[tuple[float, float], ...]] = ((FAKE_FROM, 0.3), (0.0, 0.0))
"""Least score and log10 likelihood ratio: weak (docs/policy.md) as long as nothing is calibrated, for it was trained on
few generators. Nothing found says nothing: faces of generators that it never saw are missed."""


@registry.detector(
    name="facenet_realfake",
    version="3",
    title="Real or fake faces (FaceNet)",
    question=Question.EDITED,
    techniques=(Technique.FACE,),
    papers=("10.1109/CVPR.2015.7298682", "10.1109/CVPR52688.2022.01816", "10.1007/978-3-031-73220-1_23"),
    models=(traces.MODEL, MODEL),
    parameters={"min_face": MIN_FACE, "min_confidence": MIN_CONFIDENCE, "decision_score": FAKE_FROM},
)
async def detect_fake_faces(picture: Picture, description: Description) -> Finding:
    """Says how much each face looks like a generated or swapped one; the most suspicious face decides."""
    if not description.faces:
        return Finding.not_applicable("No face was found in the picture.")
    if (error := description.unanswered.get(MODEL)) is not None:
        raise error
    sure = [each for each in description.faces if each.face.confidence >= MIN_CONFIDENCE]
    if not sure:
        return Finding.not_applicable(f"What looks like a face is one with a confidence below {MIN_CONFIDENCE}.")
    large = [each for each in sure if min(each.face.box.width, each.face.box.height) >= MIN_FACE]
    scored = [(each.deepfake.score, each) for each in large if each.deepfake]
    if not scored:
        return Finding.not_applicable(f"No face is {MIN_FACE:.0f} pixels wide and high.")
    score, worst = max(scored, key=lambda item: item[0])
    fakes = [each for value, each in scored if value >= FAKE_FROM]
    return Finding(
        applicability=Applicability.APPLIED,
        score=score,
        explanation=_in_words(len(scored), len(fakes), len(sure) - len(large), len(description.faces) - len(sure)),
        log10_likelihood_ratio=next(log10 for least, log10 in LIKELIHOOD_RATIOS if score >= least),
        technique=Technique.FACE if fakes else None,
        regions=_regions(fakes),
        details={
            "faces": len(scored),
            "fake_faces": len(fakes),
            "too_small": len(sure) - len(large),
            "doubtful": len(description.faces) - len(sure),
            "most_suspicious": [round(value) for value in _corners(worst.face.box)],
        },
    )


def _regions(fakes: Sequence[DescribedFace]) -> tuple[Region, ...]:
    marked = []
    for each in fakes:
        left, top, right, bottom = _corners(each.face.box)
        corners = (Point(left, top), Point(right, top), Point(right, bottom), Point(left, bottom))
        score = each.deepfake.score if each.deepfake else 0.0
        marked.append(Region(role=RegionRole.SUSPECT, polygon=corners, score=score))
    return tuple(sorted(marked, key=lambda region: region.score, reverse=True))


def _corners(box: Box) -> tuple[float, float, float, float]:
    return box.x_min, box.y_min, box.x_max, box.y_max


def _in_words(looked_at: int, fakes: int, too_small: int, doubtful: int) -> str:
    faces = "the face looks" if looked_at == 1 else f"{fakes or 'none'} of the {looked_at} faces look"
    if fakes:
        said = f"To the network {faces} generated or swapped."
    elif looked_at == 1:
        said = "To the network the face looks real; faces of generators that it does not know often do."
    else:
        said = f"To the network all {looked_at} faces look real; those of generators that it does not know often do."
    said += f" {too_small} more faces are too small to tell." if too_small else ""
    return said + (f" {doubtful} more look hardly like a face, and were not judged." if doubtful else "")
