"""How detectors find what is made for them, over the quality at which the picture is saved last.

    python -m evaluation planted DATA --split dev

For each honest photograph and each kind of `evaluation.pairs` one pair is made; it is encoded at each step of
`STEPS`, forged picture and twin alike, and each detector of the kind is asked. Of a detector that says where, the
heat map is compared with the mask too. A picture to which a detector does not apply counts as "no alarm", a map that
was not given as one that marks nothing; the coverage is stated beside.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import cv2
import matplotlib as mpl
import numpy as np
from tqdm import tqdm

from evaluation.forgery import Encoding
from evaluation.metrics.coverage import abstentions_as_no_alarm
from evaluation.metrics.detection import roc_auc
from evaluation.metrics.intervals import Estimate, Interval, bootstrap
from evaluation.metrics.localization import ImageScores, score_image
from evaluation.pairs import KINDS, Host, Kind
from evaluation.samples import Label, Sample
from evaluation.subjects import Measurement, PassiveBackend, Subject
from services.common.detection import Applicability

mpl.use("Agg")
from matplotlib import pyplot as plt

__all__ = ["STEPS", "Curve", "Point", "curves_of", "draw_curves", "measure_pairs", "tables"]

STEPS: Final[tuple[tuple[str, Encoding], ...]] = (
    ("PNG", Encoding(format="png")),
    *((str(quality), Encoding(quality=quality)) for quality in (100, 95, 90, 85, 75, 65)),
)
"""What the picture is saved as last, and its name: losslessly, then JPEG of falling quality."""
MIN_SIDE: Final = 256
"""Shortest side in pixels of a photograph that pairs are made of."""
RESAMPLES: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one detector said of one picture of a pair.

    Attributes:
        kind, step, subject: of what; source: of the photograph.
        forged: whether it was the forged picture or its twin.
        applied: whether the detector applied. score: 0-1, or None.
        pixel_auc, pixel_f1: of the map against the mask; None of twins and of pairs without a place.
    """

    kind: str
    step: str
    subject: str
    source: str
    forged: bool
    applied: bool
    score: float | None
    pixel_auc: float | None
    pixel_f1: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One detector at one step.

    Attributes:
        pairs: how many. coverage: share of pictures to which it applied.
        auc: of its score, forged against twins. found, accused: shares at its threshold, None where it has none.
        pixel_auc, pixel_f1: means over forged pictures, those without a map included; None of what has no place.
    """

    pairs: int
    coverage: float
    auc: Estimate
    found: float | None
    accused: float | None
    pixel_auc: float | None
    pixel_f1: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A detector on a kind of pairs: a point for each step, by its name."""

    kind: Kind
    subject: Subject
    points: Mapping[str, Point]

    @property
    def decides(self) -> bool:
        """Whether it has a score at all; a view's is always 0."""
        return any(point.auc.value != 0.5 for point in self.points.values())


def measure_pairs(
    samples: Sequence[Sample], kinds: Sequence[str], *, pictures: int, jobs: int, seed: int = 0
) -> list[Answer]:
    """Makes the pairs of the first photographs of which they can be made, and asks the detectors.

    Args:
        samples: of which the honest ones without a portrait are taken, in the order of a hash of their names.
        kinds: names of `KINDS`.
        pictures: most photographs a kind.
        jobs: worker processes.
        seed: of all chance.
    """
    honest = [sample for sample in samples if sample.label is Label.HONEST and not sample.portrait]
    honest.sort(key=lambda sample: zlib.crc32(f"{seed} {sample.name}".encode()))
    answers: list[Answer] = []
    with ProcessPoolExecutor(jobs, get_context("spawn"), _initialise) as pool:
        for name in kinds:
            made = 0
            with tqdm(total=min(pictures, len(honest)), desc=name, unit="pair") as bar:
                # In small groups, for how many photographs it takes is not known before.
                for start in range(0, len(honest), 2 * jobs):
                    group = list(enumerate(honest))[start : start + 2 * jobs]
                    tasks = [(name, sample, honest[index - 1], seed + index) for index, sample in group]
                    for found in pool.map(_measure, tasks):
                        if found and made < pictures:
                            answers += found
                            made += 1
                            bar.update()
                    if made >= pictures:
                        break
    return answers


class _Worker:
    """What a worker process keeps between pairs."""

    backend: PassiveBackend
    subjects: Mapping[str, Subject]


def _initialise() -> None:
    cv2.setNumThreads(1)
    _Worker.backend = PassiveBackend("")
    _Worker.subjects = {subject.name: subject for subject in _Worker.backend.subjects()}


def _measure(task: tuple[str, Sample, Sample, int]) -> list[Answer]:
    name, sample, donor_sample, seed = task
    kind = KINDS[name]
    host, donor = (Host.of(each.path.read_bytes()) for each in (sample, donor_sample))
    if min(host.rgb.shape[:2]) < MIN_SIDE:
        return []
    made = kind.make(host, donor, seed)
    if made is None:
        return []
    answers = []
    for step, encoding in _steps(kind):
        for forged in (True, False):
            content = (made.forged if forged else made.twin)(encoding)
            measured = _Worker.backend.measure(content, kind.subjects)
            for subject in kind.subjects:
                pixels = None
                if forged and made.mask is not None and _Worker.subjects[subject].localizes:
                    pixels = _compared(measured[subject], made.mask)
                answers.append(
                    Answer(
                        kind=name,
                        step=step,
                        subject=subject,
                        source=sample.source,
                        forged=forged,
                        applied=measured[subject].applicability is Applicability.APPLIED,
                        score=measured[subject].score,
                        pixel_auc=pixels.auc if pixels else None,
                        pixel_f1=pixels.counts.f1 if pixels else None,
                    )
                )
    return answers


def _steps(kind: Kind) -> list[tuple[str, Encoding]]:
    return [
        (name, Encoding(format=encoding.format, quality=encoding.quality, subsampling=kind.subsampling))
        for name, encoding in STEPS
        if not kind.steps or name in kind.steps
    ]


def _compared(measurement: Measurement, mask: Any) -> ImageScores:
    heat_map = measurement.heat_map
    if heat_map is not None and heat_map.shape != mask.shape:
        resized = cv2.resize(heat_map, mask.shape[::-1], interpolation=cv2.INTER_LINEAR)
        heat_map = np.clip(np.asarray(resized, np.float32), 0.0, 1.0)
    return score_image(mask, heat_map)


def curves_of(answers: Sequence[Answer]) -> list[Curve]:
    """The answers as curves, in the order of `KINDS`."""
    subjects = {subject.name: subject for subject in PassiveBackend("").subjects()}
    found = []
    for kind in KINDS.values():
        for name in kind.subjects:
            mine = [answer for answer in answers if (answer.kind, answer.subject) == (kind.name, name)]
            points = {
                step: _point([answer for answer in mine if answer.step == step], subjects[name].threshold)
                for step, _ in STEPS
                if any(answer.step == step for answer in mine)
            }
            if points:
                found.append(Curve(kind=kind, subject=subjects[name], points=points))
    return found


def _point(answers: Sequence[Answer], threshold: float | None) -> Point:
    labels = np.array([answer.forged for answer in answers])
    scores = abstentions_as_no_alarm([answer.score for answer in answers])
    alarms = scores >= threshold if threshold is not None else None
    areas = [answer.pixel_auc for answer in answers if answer.pixel_auc is not None]
    overlaps = [answer.pixel_f1 for answer in answers if answer.pixel_f1 is not None]
    return Point(
        pairs=int(labels.sum()),
        coverage=float(np.mean([answer.applied for answer in answers])),
        auc=bootstrap(
            lambda index: roc_auc(labels[index], scores[index]),
            [answer.source for answer in answers],
            length=len(answers),
            resamples=RESAMPLES,
        ),
        found=float(alarms[labels].mean()) if alarms is not None else None,
        accused=float(alarms[~labels].mean()) if alarms is not None else None,
        pixel_auc=float(np.mean(areas)) if areas else None,
        pixel_f1=float(np.mean(overlaps)) if overlaps else None,
    )


def tables(curves: Sequence[Curve]) -> str:
    """A table for each kind, for people."""
    steps = [name for name, _ in STEPS]
    parts = []
    for kind in dict.fromkeys(curve.kind.name for curve in curves):
        mine = [curve for curve in curves if curve.kind.name == kind]
        shown = [step for step in steps if any(step in curve.points for curve in mine)]
        local = any(point.pixel_f1 is not None for curve in mine for point in curve.points.values())
        pairs = max(point.pairs for curve in mine for point in curve.points.values())
        title = KINDS[kind].title
        parts += [f"**{title[:1].upper()}{title[1:]}** ({pairs} pairs)", ""]
        parts += [f"| detector | | {' | '.join(shown)} |", f"|---|---|{'---|' * len(shown)}"]
        for curve in mine:
            rows: list[tuple[str, list[str]]] = []
            if curve.decides:
                rows.append(("AUC", [f"{point.auc.value:.2f}" for point in _in_order(curve)]))
                if curve.subject.threshold is not None:
                    rows.append(("found / accused", [_rates(point) for point in _in_order(curve)]))
            if local:
                rows.append(("pixel AUC", [_number(point.pixel_auc) for point in _in_order(curve)]))
                if curve.decides:
                    rows.append(("pixel F1", [_number(point.pixel_f1) for point in _in_order(curve)]))
            for index, (label, cells) in enumerate(rows):
                parts.append(f"| {curve.subject.name if not index else ''} | {label} | {' | '.join(cells)} |")
        parts.append("")
    return "\n".join(parts)


def _in_order(curve: Curve) -> list[Point]:
    return [curve.points[name] for name, _ in STEPS if name in curve.points]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _rates(point: Point) -> str:
    if point.found is None or point.accused is None:
        return "-"
    return f"{100 * point.found:.0f} / {100 * point.accused:.0f} %"


def draw_curves(curves: Sequence[Curve], path: Path) -> None:
    """A figure of all kinds of pieces: decision AUC, pixel AUC and pixel F1 over the last quality."""
    local = [
        curve
        for curve in curves
        if not curve.kind.steps and any(point.pixel_f1 is not None for point in curve.points.values())
    ]
    kinds = list(dict.fromkeys(curve.kind.name for curve in local))
    colours = {name: f"C{index}" for index, name in enumerate(dict.fromkeys(c.subject.name for c in local))}
    figure, axes = plt.subplots(3, len(kinds), figsize=(3.4 * len(kinds), 8.2), squeeze=False, sharey="row")
    for column, kind in enumerate(kinds):
        for curve in (curve for curve in local if curve.kind.name == kind):
            names = list(curve.points)
            points = list(curve.points.values())
            colour, title = colours[curve.subject.name], curve.subject.title
            if curve.decides:
                intervals = [p.auc.interval or Interval(p.auc.value, p.auc.value) for p in points]
                low, high = [each.low for each in intervals], [each.high for each in intervals]
                axes[0, column].fill_between(names, low, high, color=colour, alpha=0.15, linewidth=0)
                axes[0, column].plot(names, [p.auc.value for p in points], marker="o", color=colour, label=title)
                axes[2, column].plot(names, [p.pixel_f1 for p in points], marker="o", color=colour, label=title)
            style = "-" if curve.decides else ":"
            axes[1, column].plot(names, [p.pixel_auc for p in points], style, marker="o", color=colour, label=title)
        axes[0, column].set_title(KINDS[kind].title, fontsize=10)
        for row, label in enumerate(("AUC of the decision", "pixel AUC", "pixel F1, misses 0")):
            axes[row, column].grid(color="0.9")
            if row < 2:
                axes[row, column].axhline(0.5, color="0.6", linewidth=0.8)
            if not column:
                axes[row, column].set_ylabel(label)
        axes[2, column].set_xlabel("saved last as (JPEG quality)")
    axes[1, 0].legend(fontsize=7)
    axes[0, 0].set_ylim(0.4, 1.02)
    axes[1, 0].set_ylim(0.2, 1.02)
    axes[2, 0].set_ylim(-0.02, 1.02)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    plt.close(figure)
