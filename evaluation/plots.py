"""Pictures of the figures: ROC, precision-recall, score histograms, robustness, and sheets of the worst mistakes."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from PIL import Image, ImageDraw

from evaluation.degradation import curves
from evaluation.metrics.calibration import reliability_curve
from evaluation.metrics.coverage import abstentions_as_no_alarm
from evaluation.metrics.detection import precision_recall_curve, roc_curve
from evaluation.report import MAX_FPR, alarm_rate, alarm_threshold, is_positive
from evaluation.runner import Record, Results, by_subject
from evaluation.samples import Sample
from evaluation.subjects import Subject
from services.common.calibration import Calibration
from services.orchestrator.policy import even_odds_score

mpl.use("Agg")
from matplotlib import pyplot as plt

__all__ = ["contact_sheets", "draw"]

SHEET_COLUMNS: Final = 5
SHEET_ROWS: Final = 2
TILE: Final = 220
CAPTION: Final = 34


def draw(
    results: Results, samples: Sequence[Sample], folder: Path, *, calibration: Calibration | None = None
) -> list[Path]:
    """Draws everything that the records allow; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    named = {sample.name: sample for sample in samples}
    grouped = by_subject(results.records)
    files = []
    for subject in results.subjects:
        records = grouped.get(subject.name, [])
        unchanged = [record for record in records if record.degradation == "unchanged"]
        counted = [(record, is_positive(subject, named[record.sample])) for record in unchanged]
        labels = np.array([positive for _, positive in counted if positive is not None], dtype=np.bool_)
        scores = abstentions_as_no_alarm([record.score for record, positive in counted if positive is not None])
        if labels.size and 0 < labels.sum() < labels.size:
            files.append(_draw_detection(subject, labels, scores, folder))
            files += contact_sheets(subject, unchanged, named, folder)
            if calibration is not None:
                files += _draw_reliability(subject, unchanged, named, calibration, folder)
        if subject.question is not None and {record.degradation for record in records} - {"unchanged"}:
            files.append(_draw_robustness(subject, records, named, folder))
    return files


def _save(figure: Any, path: Path) -> Path:
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def _draw_detection(subject: Subject, labels: np.ndarray, scores: np.ndarray, folder: Path) -> Path:
    figure, (roc, pr, histogram) = plt.subplots(1, 3, figsize=(13, 4))
    curve = roc_curve(labels, scores)
    roc.plot(curve.fpr, curve.tpr, drawstyle="default")
    roc.plot([0, 1], [0, 1], color="0.8", zorder=0)
    roc.axvline(MAX_FPR, color="0.5", linestyle=":", label=f"{MAX_FPR:.0%} false alarms")
    roc.set(xlabel="false positive rate", ylabel="true positive rate", title="ROC", xlim=(0, 1), ylim=(0, 1.01))
    roc.legend(loc="lower right")
    precision = precision_recall_curve(labels, scores)
    pr.step(precision.recall, precision.precision, where="post")
    pr.set(xlabel="recall", ylabel="precision", title="Precision and recall", xlim=(0, 1), ylim=(0, 1.01))
    shown = np.where(np.isfinite(scores), scores, 0.0)
    bins = np.linspace(0, 1, 21).tolist()
    histogram.hist([shown[~labels], shown[labels]], bins=bins, label=["honest", "false"], density=False)
    if subject.threshold is not None:
        histogram.axvline(subject.threshold, color="0.3", linestyle="--", label="as shipped")
    histogram.set(xlabel="score", ylabel="pictures", title="Scores", yscale="symlog")
    histogram.legend()
    figure.suptitle(f"{subject.title}, version {subject.version}")
    return _save(figure, folder / f"{subject.name}-detection.png")


def _draw_reliability(
    subject: Subject, records: Sequence[Record], named: Mapping[str, Sample], calibration: Calibration, folder: Path
) -> list[Path]:
    pairs = [
        (is_positive(subject, named[record.sample]), ratio)
        for record in records
        if (ratio := calibration.log10_likelihood_ratio(subject.name, record.score, version=subject.version))
        is not None
    ]
    known = [(positive, even_odds_score(ratio)) for positive, ratio in pairs if positive is not None]
    if len({positive for positive, _ in known}) < 2:
        return []
    curve = reliability_curve([positive for positive, _ in known], [probability for _, probability in known])
    figure, axes = plt.subplots(figsize=(4.5, 4.2))
    axes.plot([0, 1], [0, 1], color="0.8", zorder=0)
    axes.plot(curve.predicted, curve.observed, marker="o")
    axes.set(xlabel="stated probability (even odds)", ylabel="share of false pictures", title=subject.title)
    return [_save(figure, folder / f"{subject.name}-reliability.png")]


def _draw_robustness(subject: Subject, records: Sequence[Record], named: Mapping[str, Sample], folder: Path) -> Path:
    names = sorted({record.degradation for record in records} - {"unchanged"})
    columns = min(4, len(names))
    rows = math.ceil(len(names) / columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3.4 * columns, 3.0 * rows), squeeze=False)
    for place in axes.ravel()[len(names) :]:
        place.axis("off")
    for place, name in zip(axes.ravel(), names, strict=False):
        of_curve = [record for record in records if record.degradation == name]
        levels = sorted({record.level for record in of_curve})
        for positive, label in ((True, "found"), (False, "accused")):
            rates = [
                alarm_rate(subject, [r for r in of_curve if r.level == level], named, positive=positive)
                for level in levels
            ]
            place.plot(levels, [math.nan if rate is None else rate for rate in rates], marker="o", label=label)
        axis = curves()[name].axis if name in curves() else ""
        place.set(title=name, xlabel=axis, ylim=(-0.02, 1.02))
    axes.ravel()[0].legend()
    figure.suptitle(f"{subject.title}: alarms at the shipped threshold")
    return _save(figure, folder / f"{subject.name}-robustness.png")


def contact_sheets(
    subject: Subject, records: Sequence[Record], named: Mapping[str, Sample], folder: Path
) -> list[Path]:
    """Sheets of the worst misses and the worst false alarms."""
    files = []
    for positive, word in ((True, "misses"), (False, "false-alarms")):
        relevant = [record for record in records if is_positive(subject, named[record.sample]) is positive]
        threshold = alarm_threshold(subject)
        wrong = [record for record in relevant if ((record.score or 0.0) >= threshold) is not positive]
        wrong.sort(key=lambda record: record.score or 0.0, reverse=not positive)
        if wrong:
            path = folder / f"{subject.name}-{word}.png"
            _sheet([(named[r.sample].path, f"{r.score or 0:.2f}  {Path(r.sample).name}") for r in wrong], path)
            files.append(path)
    return files


def _sheet(pictures: Sequence[tuple[Path, str]], path: Path) -> None:
    shown = pictures[: SHEET_COLUMNS * SHEET_ROWS]
    rows = math.ceil(len(shown) / SHEET_COLUMNS)
    sheet = Image.new("RGB", (SHEET_COLUMNS * TILE, rows * (TILE + CAPTION)), "white")
    pen = ImageDraw.Draw(sheet)
    for index, (picture, caption) in enumerate(shown):
        left, top = index % SHEET_COLUMNS * TILE, index // SHEET_COLUMNS * (TILE + CAPTION)
        try:
            with Image.open(io.BytesIO(picture.read_bytes())) as image:
                tile = image.convert("RGB")
                tile.thumbnail((TILE - 6, TILE - 6))
                sheet.paste(tile, (left + 3, top + 3))
        except OSError:
            pen.text((left + 6, top + 6), "cannot be shown", fill="red")
        pen.text((left + 4, top + TILE + 2), caption[:34], fill="black")
    sheet.save(path)
