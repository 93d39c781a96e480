"""What each source of generated pictures is worth to pictures of all others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.metrics.detection import roc_auc
from training.generated.examples import Examples, Input, unit_weights
from training.generated.folds import Fit, fold_of

__all__ = ["Gain", "gains"]

Doubles = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Gain:
    """What a source adds.

    Attributes:
        source: its name.
        pictures: generated ones of it that are learned from.
        makers: their generators.
        gain: mean over folds of the AUC on left-out generators and sources of photographs, with it less without it. Its
            own pictures are not among those that are judged.
    """

    source: str
    pictures: int
    makers: int
    gain: float


def gains(examples: Examples, which: Input, fit: Fit, *, folds: int = 4, fewest: int = 8, seed: int = 0) -> list[Gain]:
    """The gain of every source with at least `fewest` generated pictures, largest first.

    Makers of generated pictures and sources of photographs are left out by fold, as everywhere; a source that shares a
    generator with others is worth less, for the others have it too.
    """
    matrix, units, judged = examples.matrix(which), examples.units("makers"), examples.judged()
    sources = np.array([row.source for row in examples.rows])
    fold = fold_of(units, folds, seed=seed)
    names, counts = np.unique(sources[examples.labels], return_counts=True)
    wanted = [str(name) for name, count in zip(names, counts, strict=True) if count >= fewest]
    makers: dict[str, set[str]] = {name: set() for name in wanted}
    for row, is_generated in zip(examples.rows, examples.labels, strict=True):
        if is_generated and row.source in makers:
            makers[row.source].add(row.maker)
    found: dict[str, list[float]] = {name: [] for name in wanted}

    def scored(learned: Mask, tested: Mask) -> Doubles:
        weights = unit_weights(units[learned], examples.labels[learned])
        return fit(matrix[learned], examples.labels[learned], weights)(matrix[tested])

    for number in range(folds):
        tested, others = (fold == number) & judged, fold != number
        whole = scored(others, tested)
        labels = examples.labels[tested]
        for name in wanted:
            mine = sources == name
            if not (others & mine & examples.labels).any():
                continue
            without = scored(others & ~(mine & examples.labels), tested)
            strange = ~mine[tested]
            difference = roc_auc(labels[strange], whole[strange]) - roc_auc(labels[strange], without[strange])
            found[name].append(difference)
    return sorted(
        (
            Gain(
                source=name,
                pictures=int((sources[examples.labels] == name).sum()),
                makers=len(makers[name]),
                gain=float(np.mean(values)),
            )
            for name, values in found.items()
            if values
        ),
        key=lambda gain: (-gain.gain, gain.source),
    )
