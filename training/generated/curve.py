"""The learning curve: what another generator, and another picture of a known one, is worth."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evaluation.metrics.detection import roc_auc
from training.generated.examples import Examples, Input, unit_weights
from training.generated.folds import Fit, fold_of

__all__ = ["Point", "draw_curve", "learning_curve"]


@dataclass(frozen=True, slots=True)
class Point:
    """AUC on left-out generators and left-out sources of photographs.

    Attributes:
        generators: how many were learned from.
        pictures: of them, most a generator.
        auc: mean over folds and draws.
        spread: standard deviation over folds and draws.
        learned: generated pictures that were learned from, mean over folds and draws.
    """

    generators: int
    pictures: int
    auc: float
    spread: float
    learned: float


def learning_curve(
    examples: Examples,
    which: Input,
    fit: Fit,
    *,
    generators: Sequence[int],
    pictures: Sequence[int],
    folds: int = 5,
    draws: int = 3,
    seed: int = 0,
) -> list[Point]:
    """AUC by the number of generators and of pictures of each; photographs are the same for all points.

    In every fold generators and sources are left out together; of those that are not, chance takes some, `draws` times.
    A number that some fold does not have stands for the largest that all have.
    """
    matrix, units = examples.matrix(which), examples.units("makers")
    fold, judged = fold_of(units, folds, seed=seed), examples.judged()
    rng = np.random.default_rng(seed)
    found: dict[tuple[int, int], list[tuple[float, int]]] = {}
    known = [np.unique(units[(fold != number) & examples.labels]) for number in range(folds)]
    largest = min(len(names) for names in known)
    for number, _ in itertools.product(range(folds), range(draws)):
        tested, others = (fold == number) & judged, fold != number
        names, order = rng.permutation(known[number]), rng.permutation(len(units))
        for count, most in itertools.product(sorted({min(count, largest) for count in generators}), pictures):
            taken = _some(units, names[:count], others & examples.labels, order, most)
            learned = taken | (others & ~examples.labels)
            weights = unit_weights(units[learned], examples.labels[learned])
            margins = fit(matrix[learned], examples.labels[learned], weights)(matrix[tested])
            score = roc_auc(examples.labels[tested], margins)
            found.setdefault((count, most), []).append((score, int(taken.sum())))
    return [
        Point(
            generators=count,
            pictures=most,
            auc=float(np.mean([score for score, _ in scores])),
            spread=float(np.std([score for score, _ in scores])),
            learned=float(np.mean([learned for _, learned in scores])),
        )
        for (count, most), scores in sorted(found.items())
    ]


def _some(
    units: NDArray[np.str_],
    wanted: NDArray[np.str_],
    allowed: NDArray[np.bool_],
    order: NDArray[np.int64],
    most: int,
) -> NDArray[np.bool_]:
    """At most so many pictures of each wanted unit, in a random order."""
    taken = np.zeros(len(units), np.bool_)
    left = dict.fromkeys(wanted.tolist(), most)
    for index in order.tolist():
        unit = str(units[index])
        if allowed[index] and left.get(unit, 0) > 0:
            left[unit] -= 1
            taken[index] = True
    return taken


def draw_curve(points: Sequence[Point], path: Path) -> None:
    """Draws the curve: a line for each number of pictures a generator."""
    import matplotlib as mpl  # noqa: PLC0415 - only to draw

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(figsize=(6.4, 4.2))
    for most in sorted({point.pictures for point in points}):
        line = [point for point in points if point.pictures == most]
        axes.errorbar(
            [point.generators for point in line],
            [point.auc for point in line],
            yerr=[point.spread for point in line],
            marker="o",
            capsize=2,
            label=f"at most {most} pictures of each",
        )
    axes.set(xscale="log", xlabel="generators learned from", ylabel="AUC on left-out generators and sources")
    ticks = sorted({point.generators for point in points})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
