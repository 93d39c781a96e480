"""How often faces of different people are taken for one person's, by threshold.

Every picture of the data shows somebody else: all pairs are strangers, and the share of them above a threshold is its
false match rate. There are no two pictures of one person, so how often the same person is recognised is *not* measured:
`kept` compares each picture with changed versions of itself (darker, smaller, compressed, cropped anew), and so is an
upper bound of what a system could reach with other photographs of that person.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from evaluation.faces.asking import Faces, picture_at
from evaluation.metrics.intervals import bootstrap
from evaluation.samples import Sample
from services.common.images import Picture

__all__ = ["changed", "false_match_rate", "measure_matching"]

THRESHOLDS: Final = tuple(round(0.3 + 0.05 * step, 2) for step in range(11))

Vectors = NDArray[np.float32]


async def measure_matching(faces: Faces, samples: Sequence[Sample]) -> str:
    """A table in Markdown: false match rate and share of changed versions kept, by threshold."""
    strangers, versions = [], []
    rng = np.random.default_rng(0)
    for sample in samples:
        picture = picture_at(sample.path)
        found = (await faces.finders.find(picture, max_faces=1)).faces
        if not found:
            continue
        (embedding,) = await faces.describer.embed(picture, found)
        other = changed(picture, rng)
        again = (await faces.finders.find(other, max_faces=1)).faces
        strangers.append(embedding.values)
        if again:
            (version,) = await faces.describer.embed(other, again)
            versions.append(embedding.similarity(version))
    vectors = np.stack(strangers)
    pairs = len(vectors) * (len(vectors) - 1) // 2
    lines = [
        f"{len(vectors)} faces of as many people: {pairs} pairs of strangers; {len(versions)} changed versions.",
        "",
        "| threshold | false match rate (95 % interval by person) | changed versions of the same picture kept |",
        "|---|---|---|",
    ]
    similar = vectors @ vectors.T
    for threshold in THRESHOLDS:

        def rate(index: NDArray[np.intp], threshold: float = threshold) -> float:
            return false_match_rate(similar, index, threshold)

        estimate = bootstrap(rate, None, length=len(vectors), resamples=200)
        interval = f" ({estimate.interval.low:.5f}-{estimate.interval.high:.5f})" if estimate.interval else ""
        kept = float((np.array(versions) > threshold).mean())
        lines.append(f"| {threshold:.2f} | {estimate.value:.5f}{interval} | {kept:.3f} |")
    for target in (0.01, 0.001, 0.0001):
        upper = np.sort(similar[np.triu_indices(len(similar), 1)])
        lines.append(f"\nFalse match rate {target:g} at {np.quantile(upper, 1 - target):.3f}.")
    return "\n".join(lines)


def false_match_rate(similar: Vectors, index: NDArray[np.intp], threshold: float) -> float:
    """Share of the pairs of different people above a threshold.

    Args:
        similar: (n, n) similarities of all with all.
        index: which people take part; one may be drawn several times, and is no stranger to himself.
        threshold: above it a pair counts as one person.
    """
    chosen = similar[np.ix_(index, index)]
    different = index[:, None] != index[None, :]
    return float((chosen[different] > threshold).mean())


def changed(picture: Picture, rng: np.random.Generator) -> Picture:
    """The same face as another camera or site might have left it: turned, scaled, relit, cropped, compressed."""
    rgb = picture.rgb
    height, width = rgb.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), rng.uniform(-12, 12), rng.uniform(0.85, 1.1))
    turned = cv2.warpAffine(rgb, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101)
    scale = rng.uniform(0.5, 0.9)
    small = cv2.resize(turned, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    lit = np.clip(255 * (small / 255.0) ** rng.uniform(0.7, 1.4) * rng.uniform(0.8, 1.15), 0, 255).astype(np.uint8)
    if rng.random() < 0.5:
        lit = np.ascontiguousarray(lit[:, ::-1])
    _, content = cv2.imencode(".jpg", lit[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(40, 85))])
    decoded = np.asarray(cv2.imdecode(content, cv2.IMREAD_COLOR), dtype=np.uint8)
    return Picture.from_array(np.ascontiguousarray(decoded[..., ::-1]))
