"""Each finder, and their consensus, on scenes with faces at known places: recall and precision at IoU 0.5, and time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from evaluation.faces.asking import Faces, picture_at
from evaluation.faces.wording import said
from evaluation.metrics.boxes import IOU_THRESHOLD, BoxMatches, box_iou, match_boxes, summarise_boxes
from evaluation.samples import Sample
from services.common.errors import ModelUnavailable
from services.faces.face import DetectedFace, FaceDetector
from services.faces.finders.consensus import DEFAULT_CONFIDENCE, fused

__all__ = ["SIZES", "measure_finders"]

SIZES: Final = ((0, 32), (32, 64), (64, 128), (128, 1000))
"""Bands of a face's height in pixels."""

FINDERS: Final = (FaceDetector.YUNET, FaceDetector.MEDIAPIPE, FaceDetector.HAAR)


@dataclass(slots=True)
class _Tally:
    """What a finder found, picture by picture."""

    matches: list[BoxMatches] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    alarmed: int = 0
    by_size: dict[tuple[int, int], list[int]] = field(default_factory=lambda: {size: [0, 0] for size in SIZES})

    def add(self, truth: Sequence[Sequence[float]], found: Sequence[DetectedFace], seconds: float) -> None:
        boxes = [(face.box.x_min, face.box.y_min, face.box.x_max, face.box.y_max) for face in found]
        matched = match_boxes(truth, boxes, [face.confidence for face in found])
        self.matches.append(matched)
        self.seconds.append(seconds)
        self.alarmed += not truth and bool(boxes)
        hits = [box for box, hit in zip(boxes, matched.found, strict=True) if hit]
        for box in truth:
            size = next(each for each in SIZES if each[0] <= box[3] - box[1] < each[1])
            self.by_size[size][1] += 1
            self.by_size[size][0] += any(_overlap(box, hit) >= IOU_THRESHOLD for hit in hits)


async def measure_finders(faces: Faces, samples: Sequence[Sample]) -> str:
    """A table in Markdown, a row a finder; each looks once, one after the other, and the consensus is of what they saw.

    The time of the consensus is that of all finders one after the other, as on a machine with nothing to spare.
    """
    tallies: dict[FaceDetector, _Tally] = {}
    away: dict[FaceDetector, str] = {}
    for sample in samples:
        picture = picture_at(sample.path)
        truth = list(sample.boxes or ())
        seen: dict[FaceDetector, Sequence[DetectedFace]] = {}
        started = time.perf_counter()
        for detector in FINDERS:
            begun = time.perf_counter()
            try:
                seen[detector] = (await faces.finders.find(picture, detector)).faces
            except ModelUnavailable as error:
                away[detector] = error.message
                continue
            tallies.setdefault(detector, _Tally()).add(truth, seen[detector], time.perf_counter() - begun)
        agreed = [face for face in fused(seen) if face.confidence >= DEFAULT_CONFIDENCE]
        tallies.setdefault(FaceDetector.CONSENSUS, _Tally()).add(truth, agreed, time.perf_counter() - started)
    empty = sum(not sample.boxes for sample in samples)
    sources = [sample.source for sample in samples]
    rows = [
        "| finder | recall | precision | average precision | pictures without a face in which it sees one "
        "| recall by height: " + ", ".join(f"{low}-{high} px" for low, high in SIZES) + " | median ms | p90 ms |",
        "|---|---|---|---|---|---|---|---|",
        *(_row(detector, tally, sources, empty) for detector, tally in tallies.items()),
        *(f"| {detector.value} | {why} | | | | | | |" for detector, why in away.items()),
        "",
        (
            f"{len(samples) - empty} scenes with {sum(len(sample.boxes or ()) for sample in samples)} faces, {empty} "
            "pictures without."
        ),
    ]
    return "\n".join(rows)


def _row(detector: FaceDetector, tally: _Tally, sources: Sequence[str], empty: int) -> str:
    summary = summarise_boxes(tally.matches, groups=sources)
    bands = ", ".join(f"{hit / count:.2f}" if count else "-" for hit, count in tally.by_size.values())
    fast, slow = np.percentile(np.array(tally.seconds) * 1000, [50, 90])
    return (
        f"| {detector.value} | {said(summary.recall)} | {said(summary.precision)} | {said(summary.average_precision)} "
        f"| {tally.alarmed} of {empty} | {bands} | {fast:.0f} | {slow:.0f} |"
    )


def _overlap(one: Sequence[float], other: Sequence[float]) -> float:
    return float(box_iou([one], [other])[0, 0])
