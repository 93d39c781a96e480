"""The head: honest estimates by leaving out styles and sources, and the one that ships."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from evaluation.metrics.detection import roc_auc
from evaluation.metrics.intervals import Proportion, proportion
from training.cartoon.columns import VERSION, columns
from training.data.manifest import Row
from training.generated.examples import unit_weights
from training.generated.head import LinearHead, fit_linear, platt_scaling

__all__ = [
    "TABLE",
    "Examples",
    "Fit",
    "compare",
    "fit_final",
    "fit_judged",
    "load_examples",
    "margins_left_out",
    "table",
]

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Flags = NDArray[np.bool_]
LeaveOut = Literal["styles", "sources"]

_FOLDS: Final = 8


@dataclass(frozen=True, slots=True)
class Examples:
    """n views.

    Attributes:
        rows: of the manifest, a view's picture.
        seen: what the view shows, by finder.
        features: of all blocks, float32 (n, 2944).
    """

    rows: tuple[Row, ...]
    seen: NDArray[np.str_]
    features: Floats

    @property
    def drawn(self) -> Flags:
        """The labels."""
        return np.array([row.kind == "drawn" for row in self.rows], dtype=np.bool_)

    def units(self) -> NDArray[np.str_]:
        """What is left out together: the style of a drawing, the source of a person or photograph."""
        return np.array([f"style {r.maker}" if r.kind == "drawn" else f"source {r.source}" for r in self.rows])

    def counted(self) -> str:
        """How many there are of what, in words."""
        drawn, units = self.drawn, self.units()
        return (
            f"{int(drawn.sum())} views of drawings in {len(set(units[drawn].tolist()))} styles and "
            f"{int((~drawn).sum())} of people and photographs of {len(set(units[~drawn].tolist()))} sources"
        )

    def chosen(self, mask: Flags) -> Examples:
        """Those where the mask is True."""
        indices = np.flatnonzero(mask)
        return Examples(tuple(self.rows[index] for index in indices), self.seen[indices], self.features[indices])

    def without_styles(self, *styles: str) -> Examples:
        """All but the drawings in these styles."""
        return self.chosen(np.array([row.kind != "drawn" or row.maker not in styles for row in self.rows], np.bool_))

    def of_splits(self, *splits: str) -> Examples:
        """Those of these splits."""
        return self.chosen(np.array([row.split in splits for row in self.rows], dtype=np.bool_))


def load_examples(rows: Sequence[Row], folder: Path) -> Examples:
    """The views that have features.

    Raises:
        FileNotFoundError: none has.
    """
    by_id = {row.id: row for row in rows}
    found: list[tuple[str, str, Floats]] = []
    for path in sorted(folder.glob(f"*-v{VERSION}/*.npz")):
        with np.load(path) as shard:
            found += zip(
                (str(key) for key in shard["keys"]), (str(s) for s in shard["seen"]), shard["features"], strict=True
            )
    found = sorted((one for one in found if one[0].split("/")[0] in by_id), key=lambda one: one[0])
    if not found:
        raise FileNotFoundError(f"no features in {folder}: python -m training.cartoon views, then features")
    return Examples(
        tuple(by_id[one[0].split("/")[0]] for one in found),
        np.array([one[1] for one in found]),
        np.stack([one[2] for one in found]),
    )


Fitted = Callable[[Examples], Callable[[Examples], Doubles]]
"""From examples to learn from to a function that gives margins of others."""


def fit(examples: Examples, blocks: Sequence[int], strength: float) -> LinearHead:
    """A head on the features of some blocks; both kinds count alike, and within one a unit as the root of its size."""
    weights = unit_weights(examples.units(), examples.drawn)
    return fit_linear(examples.features[:, columns(blocks)], examples.drawn, weights, strength=strength)


def margins_left_out(examples: Examples, leave_out: LeaveOut, fitted: Fitted) -> Doubles:
    """The margin of every view by a head that saw neither its style (or no drawing of its source) nor its source.

    Drawings are left out style by style, or source by source; sources of people and photographs in `_FOLDS` folds.

    Returns:
        float64 (n,).
    """
    drawn = examples.drawn
    units = examples.units() if leave_out == "styles" else np.array([row.source for row in examples.rows])
    margins = np.zeros(len(units))
    counted = Counter(row.source for row in examples.rows if row.kind != "drawn")
    fold = {source: number % _FOLDS for number, (source, _) in enumerate(counted.most_common())}
    fold_of = np.array([-1 if row.kind == "drawn" else fold[row.source] for row in examples.rows])
    tests = [drawn & (units == unit) for unit in sorted(set(units[drawn].tolist()))]
    tests += [fold_of == number for number in range(_FOLDS)]
    for tested in tests:
        if tested.any():
            margins[tested] = fitted(examples.chosen(~tested))(examples.chosen(tested))
    return margins


def compare(examples: Examples, config: dict[str, Any]) -> str:
    """Blocks and strengths, on styles and sources left out of train and calibrate; a table in Markdown."""
    known = examples.of_splits("train", "calibrate").without_styles(*config["painted"])
    units, drawn = known.units(), known.drawn
    people = {f"source {row.source}" for row in known.rows if row.kind == "real_face"}
    lines = [
        f"{known.counted()}. Styles and sources left out.",
        "",
        "| blocks | L2 | AUC | balanced accuracy at 0 | mean over styles | worst style | worst people |",
        "|---|---|---|---|---|---|---|",
    ]
    for blocks in config["compare"]["blocks"]:
        for strength in config["compare"]["strengths"]:
            margins = margins_left_out(known, "styles", _fitted(blocks, strength))
            right = (margins > 0) == drawn
            shares = {unit: float(right[units == unit].mean()) for unit in sorted(set(units.tolist()))}
            styles = {unit: share for unit, share in shares.items() if unit.startswith("style")}
            worst = min(styles, key=lambda unit: styles[unit])
            hardest = min(people, key=lambda unit: shares[unit])
            balanced = (right[drawn].mean() + right[~drawn].mean()) / 2
            line = (
                f"| {' '.join(map(str, blocks))} | {strength:g} | {roc_auc(drawn, margins):.4f} | {balanced:.3f} "
                f"| {np.mean(list(styles.values())):.3f} | {worst[6:]} {styles[worst]:.2f} "
                f"| {hardest[7:]} {shares[hardest]:.2f} |"
            )
            print(line, file=sys.stderr, flush=True)
            lines.append(line)
    return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class Fit:
    """A head, and its log odds of being drawn of what it was judged by.

    Attributes:
        head: its margin is the log odds.
        known: what it learned from: the splits train and calibrate.
        by_style, by_source: of `known`, by heads that saw neither its style, or no drawing of its source, nor its
            source.
        dev, dev_margins: what it did not see.
    """

    head: LinearHead
    known: Examples
    by_style: Doubles
    by_source: Doubles
    dev: Examples
    dev_margins: Doubles


def fit_judged(examples: Examples, config: dict[str, Any]) -> Fit:
    """Fits, and picks the threshold.

    Painted styles are neither learned from nor judged by.

    The head learns from train and calibrate; its margin is calibrated, and so 0 becomes the threshold, on the views of
    `calibrate` as heads see them that learned neither their style nor their source.
    """
    blocks, strength = config["blocks"], config["strength"]
    drawings = examples.without_styles(*config["painted"])
    known, dev = drawings.of_splits("train", "calibrate"), drawings.of_splits("dev")
    by_style = margins_left_out(known, "styles", _fitted(blocks, strength))
    by_source = margins_left_out(known, "sources", _fitted(blocks, strength))
    tuning = np.array([row.split == "calibrate" for row in known.rows])
    weights = unit_weights(known.units()[tuning], known.drawn[tuning])
    slope, shift = platt_scaling(by_style[tuning], known.drawn[tuning], weights)
    plain = fit(known, blocks, strength)
    head = replace(plain, weights=plain.weights * slope, bias=plain.bias * slope + shift)
    dev_margins = head.margins(dev.features[:, columns(blocks)])
    return Fit(head, known, slope * by_style + shift, slope * by_source + shift, dev, dev_margins)


def fit_final(examples: Examples, config: dict[str, Any]) -> tuple[LinearHead, str]:
    """Fits, picks the threshold and judges (`fit_judged`); what the head makes of painted styles is told apart.

    Returns:
        The head, whose margin is the log odds of being drawn, and the report, in Markdown.
    """
    fitted = fit_judged(examples, config)
    painted = examples.chosen(
        np.array([row.kind == "drawn" and row.maker in config["painted"] for row in examples.rows])
    )
    tuned = sum(row.split == "calibrate" for row in fitted.known.rows)
    lines = [
        f"Fitted on {fitted.known.counted()}; threshold of the {tuned} views of `calibrate`, styles left out.",
        "",
        *TABLE,
        *table("dev", fitted.dev, fitted.dev_margins),
        *table("style left out", fitted.known, fitted.by_style),
        *table("source left out", fitted.known, fitted.by_source),
    ]
    painted_units = painted.units()
    painted_right = fitted.head.margins(painted.features[:, columns(config["blocks"])]) > 0
    for unit in sorted(set(painted_units.tolist())):
        mask = painted_units == unit
        groups = np.array([row.group for row in painted.rows])[mask]
        lines.append(_line("painted", "all", unit, painted_right[mask], groups))
    return fitted.head, "\n".join(lines) + "\n"


TABLE: Final = ("| | view | pictures | of | right | of them |", "|---|---|---|---|---|---|")


def table(name: str, examples: Examples, margins: Doubles) -> list[str]:
    """Shares that are told right: of both kinds, of faces and of whole pictures, and by style and source."""
    drawn = examples.drawn
    right = (margins > 0) == drawn
    groups = np.array([row.group for row in examples.rows])
    units = examples.units()
    faces = examples.seen != "whole"
    people = np.array([row.kind == "real_face" for row in examples.rows])
    lines = [f"| {name} | AUC {roc_auc(drawn, margins):.4f} | {len(drawn)} | | | |"]
    for view, seen in (("all", np.ones_like(faces)), ("face", faces), ("whole picture", ~faces)):
        for what, mask in (("drawings", drawn), ("people", people), ("photographs", ~drawn & ~people)):
            if (mask & seen).any():
                lines.append(_line(name, view, what, right[mask & seen], groups[mask & seen]))
        if (drawn & seen).any() and (~drawn & seen).any():
            both = (right[drawn & seen].mean() + right[~drawn & seen].mean()) / 2
            lines.append(f"| {name} | {view} | {int(seen.sum())} | both kinds alike | {both:.3f} | |")
    for unit in sorted(set(units[drawn | people].tolist())):
        mask = units == unit
        lines.append(_line(name, "all", unit, right[mask], groups[mask]))
    return lines


def _line(name: str, view: str, what: str, right: Flags, groups: NDArray[np.str_]) -> str:
    share: Proportion = proportion(right, groups.tolist())
    interval = f"{share.interval.low:.3f}-{share.interval.high:.3f}"
    return f"| {name} | {view} | {len(right)} | {what} | {share.value:.3f} | {interval} |"


def _fitted(blocks: Sequence[int], strength: float) -> Fitted:
    def fitted(learned: Examples) -> Callable[[Examples], Doubles]:
        head = fit(learned, blocks, strength)
        return lambda tested: head.margins(tested.features[:, columns(blocks)])

    return fitted
