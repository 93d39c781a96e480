"""Where a picture was edited: DeepLabV3+ on ResNet50, joined to what CLIP sees, over the whole picture.

The score is the 99th percentile of the mask, so it is 0.5 or more exactly if 1 % of the picture or more is marked: what
the model card counts as accused (`training.localisation.evaluate.MARKED`).

What the score is worth is *stated*, not measured, until a calibration knows this detector: a ratio between
1 / 1.26 and 2, the least that the policy calls evidence at all. `classify` answers out of the same network and is
counted beside it: the two together stay below what makes a picture POSSIBLY_EDITED in the balanced preset.

References:
    L.-C. Chen et al., "Encoder-decoder with atrous separable convolution for semantic image segmentation", ECCV 2018.
        10.1007/978-3-030-01234-2_49
    P. Zhou et al., "Learning rich features for image manipulation detection", CVPR 2018. 10.1109/CVPR.2018.00116
    B. Bayar and M. C. Stamm, "Constrained convolutional neural networks", 2018. 10.1109/TIFS.2018.2825953
    A. Radford et al., "Learning transferable visual models from natural language supervision", 2021. arXiv:2103.00020
"""

from __future__ import annotations

import asyncio
from typing import Final

import numpy as np

from services.common.detection import Applicability, Finding, Question, Technique
from services.common.images import Picture
from services.deeplearning.detectors import registry
from services.deeplearning.localisation import Localisation
from services.deeplearning.models import MANIPULATION_MASK
from services.deeplearning.networks import Networks
from services.deeplearning.techniques import stated_log10, technique_of

__all__ = ["CUT", "MARKED_SHARE", "MIN_SIDE", "detect_edited_places", "finding_of"]

MIN_SIDE: Final = 64
"""Shortest side in pixels: below it the network's deepest features are fewer than four cells wide."""
CUT: Final = 0.5
"""Probability from which a place is marked."""
MARKED_SHARE: Final = 0.01
"""Share of the picture from which on it counts as edited."""
MAX_LOG10: Final = 0.3
MIN_LOG10: Final = -0.1
"""Bounds of the stated likelihood ratio."""


@registry.detector(
    name="segment",
    version="2",
    title="Edited places (DeepLabV3+)",
    question=Question.EDITED,
    techniques=(Technique.SPLICING, Technique.COPY_MOVE, Technique.INPAINTING, Technique.FACE),
    papers=("10.1007/978-3-030-01234-2_49", "10.1109/CVPR.2018.00116", "10.1109/TIFS.2018.2825953"),
    models=(MANIPULATION_MASK.name,),
    parameters={
        "min_side": MIN_SIDE,
        "decision_score": CUT,
        "marked_share": MARKED_SHARE,
        "max_log10": MAX_LOG10,
        "min_log10": MIN_LOG10,
    },
)
async def detect_edited_places(picture: Picture, networks: Networks) -> Finding:
    """Marks the places of the picture that look edited to a network, and says how far to trust each of them.

    A picture in which it marks nothing may be edited all the same: its model card says how much it misses.
    """
    height, width = picture.rgb.shape[:2]
    if min(height, width) < MIN_SIDE:
        return Finding.not_applicable(f"The shorter side has {min(height, width)} pixels; {MIN_SIDE} are needed.")
    return await asyncio.to_thread(finding_of, await networks.localisation())


def finding_of(localisation: Localisation) -> Finding:
    """What a localisation says about the picture as a whole."""
    mask = localisation.mask
    score = float(np.clip(np.quantile(mask, 1.0 - MARKED_SHARE, method="higher"), 0.0, 1.0))
    marked = mask >= CUT
    share = float(marked.mean())
    details = {"marked_share": round(share, 4), "working_size": [mask.shape[1], mask.shape[0]]}
    if localisation.reliability is not None and share:
        details["reliability_of_marked"] = round(float(localisation.reliability[marked].mean()), 3)
    if localisation.classes:
        details["classes"] = {name: round(value, 4) for name, value in localisation.classes.items()}
    return Finding(
        applicability=Applicability.APPLIED,
        score=score,
        explanation=_in_words(score, share),
        log10_likelihood_ratio=stated_log10(score, lowest=MIN_LOG10, highest=MAX_LOG10),
        technique=technique_of(localisation.classes) if score >= CUT else None,
        heat_map=mask,
        reliability_map=localisation.reliability,
        details=details,
    )


def _in_words(score: float, share: float) -> str:
    if score >= CUT:
        percent = "less than 1" if share < 0.01 else f"{share:.0%}".removesuffix("%")
        return f"A network marks {percent} % of the picture as edited; alone that is weak evidence."
    if share:
        return "A network marks less than 1 % of the picture, as it often does in honest ones."
    return "A network marks nothing in the picture. Of edited pictures it leaves many unmarked too."
