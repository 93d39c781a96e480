"""Generated or photographed: CLIP's image encoder with a linear head of our own, one network in Triton.

What the head was fitted on, what it finds and what it misses stands in triton_models/generated/MODEL_CARD.md.

The network's score is calibrated at even odds, so `score / (1 - score)` is a likelihood ratio. It is bounded
(`MAX_LOG10`, `MIN_LOG10`): a few hundred pictures to calibrate on cannot back a ratio of a million.

References:
    A. Radford et al., "Learning transferable visual models from natural language supervision", 2021. arXiv 2103.00020
    U. Ojha, Y. Li and Y. J. Lee, "Towards universal fake image detectors that generalize across generative models",
        CVPR 2023. 10.1109/CVPR52729.2023.02345
    C. Koutlis and S. Papadopoulos, "Leveraging representations from intermediate encoder-blocks for synthetic image
        detection", ECCV 2024. 10.1007/978-3-031-73220-1_23
    P. Vergeer et al., "Numerical likelihood ratios outputted by LR systems are often based on extrapolation: when to
        stop extrapolating?", 2016. 10.1016/j.scijus.2016.06.003 (bounds)
"""

from __future__ import annotations

import asyncio
import math
from typing import Final

import cv2
import numpy as np

from services.common.detection import Applicability, Finding, Question, Technique
from services.common.images import Picture
from services.deeplearning.clip import input_tensor, whole_view
from services.deeplearning.detectors import registry
from services.deeplearning.models import GENERATED
from services.deeplearning.networks import Networks

__all__ = ["ACCUSING_SCORE", "detect_generated", "log10_likelihood_ratio"]

MIN_SIDE: Final = 128
"""Shortest side in pixels: smaller pictures are enlarged too much for the encoder to see how they were made."""
MIN_CONTRAST: Final = 4.0
"""Least standard deviation of what the encoder sees, in grey levels: of a plain area nobody can tell who made it."""
MAX_LOG10: Final = 2.0
MIN_LOG10: Final = -1.0
"""Bounds of the likelihood ratio. Calibrated on a few hundred photographs and half as many generated pictures of
generators that were left out: more than 100 to 1 cannot be backed, nor, since unknown generators are missed more often,
more than 1 to 10 in a picture's favour."""
ACCUSING_SCORE: Final = 0.788
"""At most 2 % of the calibration's photographs, of sources that were left out of fitting, have this score or more; of
those that were left out of everything 1.3 % have (0.3 to 3.4)."""
DOUBTFUL_SCORE: Final = 0.5


@registry.detector(
    name="generated",
    version="2",
    title="Generated or photographed (CLIP)",
    question=Question.GENERATED,
    techniques=(Technique.GENERATED,),
    papers=("arXiv 2103.00020", "10.1109/CVPR52729.2023.02345", "10.1007/978-3-031-73220-1_23"),
    models=(GENERATED.name,),
    parameters={
        "min_side": MIN_SIDE,
        "min_contrast": MIN_CONTRAST,
        "max_log10": MAX_LOG10,
        "min_log10": MIN_LOG10,
        "decision_score": ACCUSING_SCORE,
    },
)
async def detect_generated(picture: Picture, networks: Networks) -> Finding:
    """Says how much more the whole picture looks like one that a generator made than like a photograph.

    Drawings and renderings by people are neither, and it may take them for generated.
    """
    height, width = picture.rgb.shape[:2]
    if min(height, width) < MIN_SIDE:
        return Finding.not_applicable(f"The shorter side has {min(height, width)} pixels; {MIN_SIDE} are needed.")
    view = await asyncio.to_thread(whole_view, picture.rgb)
    contrast = float(cv2.cvtColor(view, cv2.COLOR_RGB2GRAY).std())
    if contrast < MIN_CONTRAST:
        return Finding.not_applicable("The picture is nearly plain: there is too little in it to tell who made it by.")
    pixels = input_tensor(view)
    answer = await networks.infer(GENERATED.name, {"pixel_values": pixels}, ["score"])
    score = min(1.0, max(0.0, float(np.asarray(answer["score"]).reshape(-1)[0])))
    return Finding(
        applicability=Applicability.APPLIED,
        score=score,
        explanation=_in_words(score),
        log10_likelihood_ratio=log10_likelihood_ratio(score),
        calibrated=True,
        technique=Technique.GENERATED if score >= ACCUSING_SCORE else None,
        details={"score": round(score, 4), "accused_from": ACCUSING_SCORE},
    )


def log10_likelihood_ratio(score: float) -> float:
    """Of a score (0-1) that is calibrated at even odds; within the bounds."""
    if score <= 0.0:
        return MIN_LOG10
    if score >= 1.0:
        return MAX_LOG10
    return min(MAX_LOG10, max(MIN_LOG10, math.log10(score / (1.0 - score))))


def _in_words(score: float) -> str:
    if score >= ACCUSING_SCORE:
        return "As a whole the picture looks like those of generators; of photographs at most 2 in 100 look so."
    if score >= DOUBTFUL_SCORE:
        return (
            "The picture looks a little more like those of generators than like photographs; too little to accuse it."
        )
    return "As a whole the picture looks like a photograph. Pictures of generators that are new to it often do."
