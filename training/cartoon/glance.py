"""A glance: drawn or a person's, read off what CLIP's first blocks see of a face.

It tells most faces at once, and better than VGG16 does, also in styles that it never saw; VGG16 is shown the others.
What both together answer is judged here as the faces service puts it together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from evaluation.metrics.detection import roc_auc
from services.faces.attributes.kind import in_doubt, together
from services.faces.face import FaceKind, KindEstimate
from training.cartoon.fitting import TABLE, Examples, fit_judged, margins_left_out, table
from training.faces.clip_face.heads import Head, fit_head
from training.generated.examples import unit_weights
from training.generated.head import platt_scaling

__all__ = ["fit_glance"]

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

STRENGTH: Final = 1e-3
"""Of the logistic regression (scikit-learn's C). On styles left out, of faces found by YuNet, too, 0.0001, 0.001 and
0.01 tell 99.4, 99.6 and 99.5 % of drawings; with the traces of block 9 alone it is 99.5, 99.5 and 99.4 %."""

_MOST: Final = 13.0
"""More log odds count as this: a probability of 2 in a million."""


@dataclass(frozen=True, slots=True)
class _Judged:
    """Log odds of being drawn of the faces of one row of tables: by a glance, and by VGG16."""

    name: str
    faces: Examples
    glance: Doubles
    closer: Doubles


def fit_glance(examples: Examples, traces: Floats, config: dict[str, Any]) -> tuple[Head, str]:
    """Fits the head and judges it, alone and with VGG16 behind it.

    As of VGG16, painted styles are neither learned from nor counted, the head learns from train and calibrate, and is
    made log odds by what heads that saw neither a style nor a source say of it.

    Args:
        examples: faces and whole pictures, with VGG16's features.
        traces: of the same, (n, 3072); only faces' are used.
        config: of VGG16's head.

    Returns:
        The head, (3072, 1), whose answer is the log odds of being drawn, and the report, in Markdown.
    """
    drawings = _not_painted(examples, config)
    vgg = fit_judged(examples, config)
    seen = Examples(examples.rows, examples.seen, traces).chosen(drawings)
    faces, learned = seen.seen != "whole", np.array([row.split != "dev" for row in seen.rows], np.bool_)
    known, dev = seen.chosen(faces & learned), seen.chosen(faces & ~learned)
    of_known = (vgg.known.seen != "whole").nonzero()[0]
    tuning = np.array([row.split == "calibrate" for row in known.rows], np.bool_)
    by_style = margins_left_out(known, "styles", _fitted)
    by_source = margins_left_out(known, "sources", _fitted)
    weights = unit_weights(known.units()[tuning], known.drawn[tuning])
    slope, shift = platt_scaling(by_style[tuning], known.drawn[tuning], weights)
    plain = _fit(known)
    head = Head(plain.weights * np.float32(slope), plain.bias * np.float32(slope) + np.float32(shift))
    of_dev = vgg.dev.seen != "whole"
    judged = [
        _Judged("dev", dev, head(dev.features)[:, 0].astype(np.float64), vgg.dev_margins[of_dev]),
        _Judged("style left out", known, slope * by_style + shift, vgg.by_style[of_known]),
        _Judged("source left out", known, slope * by_source + shift, vgg.by_source[of_known]),
    ]
    tuned = int(tuning.sum())
    lines = [
        f"Fitted on {known.counted()}, all of faces; made log odds by the {tuned} of `calibrate`, styles left out.",
        "",
        "| | faces | in doubt | of people | of drawings | AUC, a glance | VGG16 | both |",
        "|---|---|---|---|---|---|---|---|",
        *map(_summary, judged),
        "",
        *TABLE,
    ]
    for one in judged:
        lines += table(f"{one.name}, a glance", one.faces, one.glance)
        lines += table(f"{one.name}, VGG16", one.faces, one.closer)
        lines += table(f"{one.name}, as served", one.faces, _served(one.glance, one.closer))
    painted = Examples(examples.rows, examples.seen, traces).chosen(~drawings & (examples.seen != "whole"))
    units = painted.units()
    odds = head(painted.features)[:, 0]
    lines += ["", "| painted | faces | called drawn at a glance |", "|---|---|---|"]
    for unit in sorted(set(units.tolist())):
        lines.append(f"| {unit[6:]} | {int((units == unit).sum())} | {(odds[units == unit] > 0).mean():.3f} |")
    return head, "\n".join(lines) + "\n"


def _not_painted(examples: Examples, config: dict[str, Any]) -> NDArray[np.bool_]:
    return np.array([row.kind != "drawn" or row.maker not in config["painted"] for row in examples.rows], np.bool_)


def _fit(faces: Examples) -> Head:
    weights = unit_weights(faces.units(), faces.drawn)
    return fit_head(faces.features, faces.drawn, strength=STRENGTH, weights=weights)


def _fitted(learned: Examples) -> Callable[[Examples], Doubles]:
    head = _fit(learned)
    return lambda tested: head(tested.features)[:, 0].astype(np.float64)


def _served(glance: Doubles, closer: Doubles) -> Doubles:
    """Log odds as the faces service has them: VGG16 is asked about faces in doubt only."""
    said = []
    for one, other in zip(map(_estimate, glance.tolist()), map(_estimate, closer.tolist()), strict=True):
        answer = together(one, other) if in_doubt(one) else one
        drawn = answer.probability if answer.kind is FaceKind.CARTOON else 1 - answer.probability
        # Half counts as drawn when it is served, above 0 here.
        said.append(np.log(drawn / (1 - drawn)) if drawn != 0.5 else 1e-9)
    return np.array(said)


def _estimate(odds: float) -> KindEstimate:
    drawn = 1 / (1 + np.exp(-np.clip(odds, -_MOST, _MOST)))
    return (
        KindEstimate(FaceKind.CARTOON, float(drawn)) if drawn >= 0.5 else KindEstimate(FaceKind.HUMAN, float(1 - drawn))
    )


def _summary(one: _Judged) -> str:
    doubtful = np.array([in_doubt(_estimate(odds)) for odds in one.glance.tolist()])
    drawn = one.faces.drawn
    people = np.array([row.kind == "real_face" for row in one.faces.rows])
    areas = [roc_auc(drawn, odds) for odds in (one.glance, one.closer, _served(one.glance, one.closer))]
    shares = " | ".join(f"{doubtful[mask].mean():.1%}" for mask in (np.ones_like(drawn), people, drawn))
    return f"| {one.name} | {len(drawn)} | {shares} | " + " | ".join(f"{area:.4f}" for area in areas) + " |"
