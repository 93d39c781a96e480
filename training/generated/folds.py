"""Honest estimates: every picture is scored by a head that saw neither its generator nor its source."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.metrics.detection import roc_auc, threshold_at_fpr
from evaluation.metrics.intervals import Estimate, bootstrap
from training.generated.examples import Examples, Input, LeaveOut, unit_weights
from training.generated.head import fit_linear

__all__ = ["Fit", "Measured", "fold_of", "held_out_margins", "linear", "measure", "perceptron"]

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

Fit = Callable[[Floats, NDArray[np.bool_], Doubles], Callable[[Floats], Doubles]]
"""From inputs, labels and weights to a function that gives margins."""


def linear(strength: float) -> Fit:
    """A logistic regression."""

    def fit(matrix: Floats, labels: NDArray[np.bool_], weights: Doubles) -> Callable[[Floats], Doubles]:
        return fit_linear(matrix, labels, weights, strength=strength).margins

    return fit


def perceptron(hidden: int, penalty: float, *, seed: int = 0) -> Fit:
    """One hidden layer, mean of three fits; weights by drawing with replacement."""

    def fit(matrix: Floats, labels: NDArray[np.bool_], weights: Doubles) -> Callable[[Floats], Doubles]:
        from sklearn.neural_network import MLPClassifier  # noqa: PLC0415 - slow to import, rarely needed
        from sklearn.preprocessing import StandardScaler  # noqa: PLC0415

        scaler = StandardScaler().fit(matrix)
        scaled = np.clip(scaler.transform(matrix), -5, 5)
        rng = np.random.default_rng(seed)
        models = []
        for number in range(3):
            drawn = rng.choice(len(labels), len(labels), p=weights / weights.sum())
            model = MLPClassifier(
                (hidden,), alpha=penalty, max_iter=30, early_stopping=True, random_state=seed + number
            )
            models.append(model.fit(scaled[drawn], labels[drawn]))

        def margins(inputs: Floats) -> Doubles:
            other = np.clip(scaler.transform(inputs), -5, 5)
            probability = np.mean([model.predict_proba(other)[:, 1] for model in models], axis=0)
            probability = np.clip(probability, 1e-6, 1 - 1e-6)
            return np.asarray(np.log(probability / (1 - probability)))

        return margins

    return fit


def fold_of(units: NDArray[np.str_], folds: int, *, seed: int = 0) -> NDArray[np.int64]:
    """A fold for each picture, (n,): equal units share one; large units are dealt out first, so folds are of a size."""
    names, counts = np.unique(units, return_counts=True)
    chance = [hashlib.sha256(f"{seed} {name}".encode()).hexdigest() for name in names]
    order = sorted(range(len(names)), key=lambda index: (-int(counts[index]), chance[index]))
    sizes = {True: np.zeros(folds), False: np.zeros(folds)}
    chosen: dict[str, int] = {}
    for index in order:
        name = str(names[index])
        of_class = sizes[name.startswith("generator ")]
        fold = int(of_class.argmin())
        of_class[fold] += counts[index]
        chosen[name] = fold
    return np.array([chosen[unit] for unit in units.tolist()], dtype=np.int64)


def held_out_margins(
    examples: Examples, which: Input, fit: Fit, *, leave_out: LeaveOut, folds: int = 8, seed: int = 0
) -> Doubles:
    """The margin of every picture by a head that was fitted on the other folds, float64 (n,).

    Where it was made and where it comes from are both kept out: of the other folds, what shares the picture's group is
    left out as well.
    """
    matrix, units = examples.matrix(which), examples.units(leave_out)
    fold, groups = fold_of(units, folds, seed=seed), examples.groups()
    margins = np.zeros(len(units))
    for number in range(folds):
        tested = fold == number
        if not tested.any():
            continue
        learned = ~tested & ~np.isin(groups, groups[tested])
        weights = unit_weights(units[learned], examples.labels[learned])
        margins[tested] = fit(matrix[learned], examples.labels[learned], weights)(matrix[tested])
    return margins


@dataclass(frozen=True, slots=True)
class Measured:
    """How well margins tell, with intervals by bootstrap over generators and sources.

    Attributes:
        auc: area under the ROC curve.
        found: share of generated pictures found where at most 2 of 100 photographs are accused.
        accused: share of photographs accused where half of the generated pictures are found.
        generated, photographs: how many.
    """

    auc: Estimate
    found: Estimate
    accused: Estimate
    generated: int
    photographs: int

    def row(self) -> str:
        """Cells of a Markdown table."""
        return " | ".join(_cell(estimate) for estimate in (self.auc, self.found, self.accused))


def measure(labels: NDArray[np.bool_], margins: Doubles, units: NDArray[np.str_], *, resamples: int = 500) -> Measured:
    """Measures margins (n,) by labels (n,); every unit counts as it has pictures."""

    def found(indices: NDArray[np.int64]) -> float:
        some, scores = labels[indices], margins[indices]
        if some.all() or not some.any():
            return float("nan")
        return float((scores[some] >= threshold_at_fpr(scores[~some])).mean())

    def accused(indices: NDArray[np.int64]) -> float:
        some, scores = labels[indices], margins[indices]
        if some.all() or not some.any():
            return float("nan")
        return float((scores[~some] >= np.median(scores[some])).mean())

    def auc(indices: NDArray[np.int64]) -> float:
        some = labels[indices]
        return float("nan") if some.all() or not some.any() else roc_auc(some, margins[indices])

    return Measured(
        auc=bootstrap(auc, units.tolist(), resamples=resamples),
        found=bootstrap(found, units.tolist(), resamples=resamples),
        accused=bootstrap(accused, units.tolist(), resamples=resamples),
        generated=int(labels.sum()),
        photographs=int((~labels).sum()),
    )


def _cell(estimate: Estimate) -> str:
    if estimate.interval is None:
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} ({estimate.interval.low:.3f}-{estimate.interval.high:.3f})"
