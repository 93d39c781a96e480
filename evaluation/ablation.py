"""The copy-move detector without its parts, to tell what each of them brings: `--with ablation`.

One run of `python -m evaluation run DATA --with passive --with ablation --only copy_move,...` puts them side by side.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

import numpy as np

from evaluation.subjects import LIMITS, Measurement, Subject
from services.common.detection import Applicability, Question, Technique
from services.common.images import decode_image
from services.passive.detectors import registry
from services.passive.detectors.copy_move import DECISION_SCORE, MIN_SIDE, CopyMoveResult, find_copy_moves

__all__ = ["AblationBackend"]

Finder = Callable[[np.ndarray], CopyMoveResult]

VARIANTS: Final[dict[str, tuple[str, Finder]]] = {
    "copy_move_keypoints": (
        "Copy-move, clusters of keypoints alone, mirrored ones not",
        lambda rgb: find_copy_moves(rgb, dense_pixels=0, mirrored=False, small=False),
    ),
    "copy_move_mirrored": (
        "Copy-move, clusters of keypoints alone, mirrored ones too",
        lambda rgb: find_copy_moves(rgb, dense_pixels=0, small=False),
    ),
    "copy_move_small": (
        "Copy-move, keypoints alone, small copies too",
        lambda rgb: find_copy_moves(rgb, dense_pixels=0),
    ),
    "copy_move_dense": (
        "Copy-move, dense field alone",
        lambda rgb: find_copy_moves(rgb, by_keypoints=False),
    ),
    "copy_move_any": ("Copy-move, without the test for honest repetition", find_copy_moves),
}
"""By name: title, and what is asked. Of the last one every region that the pixels bear out counts."""


class AblationBackend:
    """Measures the variants in this process; it takes no arguments.

    Args:
        rest: what follows the colon of the arrangement; must be empty.
    """

    def __init__(self, rest: str) -> None:
        if rest:
            raise ValueError(f"ablation takes no argument, not {rest!r}")
        registry.load("services.passive.detectors")

    def subjects(self) -> Sequence[Subject]:
        """One a variant, in the version of the detector."""
        version = registry["copy_move"][0].version
        return [
            Subject(
                name=name,
                version=version,
                title=title,
                question=Question.EDITED,
                techniques=(Technique.COPY_MOVE,),
                threshold=DECISION_SCORE,
            )
            for name, (title, _) in VARIANTS.items()
        ]

    def measure(self, content: bytes, names: Collection[str]) -> Mapping[str, Measurement]:
        """Decodes once, then asks each variant."""
        rgb = decode_image(content, LIMITS).working
        measurements = {}
        for name, (_, find) in VARIANTS.items():
            if name not in names:
                continue
            started = time.perf_counter()
            if min(rgb.shape[:2]) < MIN_SIDE:
                measurements[name] = Measurement(applicability=Applicability.NOT_APPLICABLE, score=None, seconds=0.0)
                continue
            result = find(rgb)
            heat = np.zeros(rgb.shape[:2], np.float32)
            for region in reversed(result.regions):
                heat[region.source_mask | region.copy_mask] = 1.0 if name == "copy_move_any" else region.score
            measurements[name] = Measurement(
                applicability=Applicability.APPLIED,
                score=float(heat.max()),
                seconds=time.perf_counter() - started,
                heat_map=heat,
            )
        return measurements
