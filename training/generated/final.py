"""The head that ships: fitted on train, calibrated on calibrate, reported on dev."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from evaluation.metrics.detection import threshold_at_fpr
from evaluation.metrics.intervals import proportion
from training.generated.examples import Examples, unit_weights
from training.generated.folds import measure
from training.generated.head import LinearHead, calibrated, fit_linear

__all__ = ["fit_final"]

Doubles = NDArray[np.float64]

_MODERN: Final = "shared/generated_modern"
_LEARNED_FAMILIES: Final = ("flux1", "sdxl")
"""Of the collected data's newer generators those that are learned from too, told apart in the report."""
_FIGURES: Final = (
    "AUC",
    "found at 2 % accused",
    "accused at 50 % found",
    "found at the threshold",
    "accused at the threshold",
)
_HONEST_DEV: Final = ("shared/camera_jpeg", "shared/comofod", "shared/imagenet", "shared/bsds500")
"""Sources of the camera files and of the photographs that forgeries are made from."""


def fit_final(
    examples: Examples, as_it_is: Examples | None, others: Examples, config: dict[str, Any]
) -> tuple[LinearHead, str]:
    """Fits, calibrates and judges.

    Args:
        examples: of all splits, in the common encoding.
        as_it_is: the same pictures without it, if the report is to tell about them.
        others: dev pictures of other kinds, to be told about.
        config: of `config.toml`.

    Returns:
        The head and the report, in Markdown.
    """
    which = config["inputs"]
    train, tuning, dev = (examples.of_split(split) for split in ("train", "calibrate", "dev"))
    weights = unit_weights(train.units("makers"), train.labels)
    head = fit_linear(train.matrix(which), train.labels, weights, strength=config["strength"])
    margins = head.margins(tuning.matrix(which))
    head = calibrated(head, margins, tuning.labels, unit_weights(tuning.units("makers"), tuning.labels))
    photographs = np.array([row.kind == "photograph" for row in tuning.rows])
    threshold = threshold_at_fpr(head.margins(tuning.matrix(which))[photographs])
    lines = [
        f"Fitted on {_counted(train)}; calibrated on {_counted(tuning)}.",
        f"Threshold for at most 2 % of the photographs of `calibrate`: score {1 / (1 + np.exp(-threshold)):.3f}.",
        "",
        f"| dev pictures | generated | photographs | {' | '.join(_FIGURES)} |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, part in _parts(dev, train):
        lines.append(_line(name, part, head, which, threshold))
    if as_it_is is not None:
        for name, part in _parts(as_it_is.of_split("dev"), train):
            lines.append(_line(f"{name}, as uploaded", part, head, which, threshold))
    lines += ["", "| left-out generator or source | pictures | found or accused at the threshold |", "|---|---|---|"]
    lines += _by_unit(dev, train, head, which, threshold)
    lines += ["", "| other pictures | number | above the threshold |", "|---|---|---|"]
    lines += _by_kind(others, head, which, threshold)
    return head, "\n".join(lines) + "\n"


def _counted(examples: Examples) -> str:
    units, labels = examples.units("makers"), examples.labels
    return (
        f"{int(labels.sum())} generated pictures of {len(set(units[labels].tolist()))} generators and "
        f"{int((~labels).sum())} honest ones of {len(set(units[~labels].tolist()))} sources"
    )


def _parts(dev: Examples, train: Examples) -> list[tuple[str, Examples]]:
    """Left-out generators against left-out sources; the collected data's newer ones against its honest files."""
    learned = set(train.units("makers").tolist())
    new = np.array([unit not in learned for unit in dev.units("makers").tolist()])
    sources = np.array([row.source for row in dev.rows])
    makers = np.array([row.maker for row in dev.rows])
    whole = dev.judged()
    modern = sources == _MODERN
    known = np.isin(makers, _LEARNED_FAMILIES)
    honest = np.isin(sources, _HONEST_DEV)
    parts = [
        ("left-out generators, photographs of left-out sources", new & whole),
        ("generated_modern without flux and sdxl, camera and pristine", (modern & ~known) | honest),
        ("generated_modern, camera and pristine", modern | honest),
        ("generators learned from, sources learned from", ~new & ~modern & whole),
    ]
    return [(name, dev.chosen(mask)) for name, mask in parts]


def _line(name: str, part: Examples, head: LinearHead, which: Any, threshold: float) -> str:
    if not part.labels.any() or part.labels.all():
        return f"| {name} | {int(part.labels.sum())} | {int((~part.labels).sum())} | too few |"
    margins, units = head.margins(part.matrix(which)), part.units("makers")
    # Where there are few sources, a picture's own group is the unit of chance.
    units = units if len(set(units.tolist())) >= 20 else part.groups()
    measured = measure(part.labels, margins, units)
    found = proportion(margins[part.labels] >= threshold, units[part.labels].tolist())
    accused = proportion(margins[~part.labels] >= threshold, units[~part.labels].tolist())
    shares = " | ".join(
        f"{share.value:.3f} ({share.interval.low:.3f}-{share.interval.high:.3f})" for share in (found, accused)
    )
    return f"| {name} | {measured.generated} | {measured.photographs} | {measured.row()} | {shares} |"


def _by_kind(others: Examples, head: LinearHead, which: Any, threshold: float) -> list[str]:
    alarms = head.margins(others.matrix(which)) >= threshold
    names = np.array([f"{row.kind}: {row.maker} ({row.source})" for row in others.rows])
    return [
        f"| {name} | {int((names == name).sum())} | {alarms[names == name].mean():.2f} |" for name in np.unique(names)
    ]


def _by_unit(dev: Examples, train: Examples, head: LinearHead, which: Any, threshold: float) -> list[str]:
    dev = dev.chosen(dev.judged())
    alarms, units = head.margins(dev.matrix(which)) >= threshold, dev.units("makers")
    learned = set(train.units("makers").tolist())
    counts = Counter(units.tolist())
    return [
        f"| {unit} | {counts[unit]} | {alarms[units == unit].mean():.2f} |"
        for unit in sorted(counts)
        if unit not in learned
    ]
