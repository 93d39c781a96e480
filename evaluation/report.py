"""From records to figures: what is false for which subject, and the tables.

Positives of a subject are the pictures that it exists for: edited ones of its techniques (an edited picture whose
technique nobody knows counts for all), or generated ones. Negatives are honest pictures, always all of them. A picture
to which a subject does not apply, or on which it failed, raises no alarm and is no hit: coverage is stated beside.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from evaluation.metrics.boxes import BoxSummary, match_boxes, summarise_boxes
from evaluation.metrics.calibration import cllr_scores, expected_calibration_error
from evaluation.metrics.coverage import Coverage, abstentions_as_no_alarm, coverage
from evaluation.metrics.detection import DetectionSummary, summarise_detection
from evaluation.metrics.errors import Undefined
from evaluation.metrics.intervals import Estimate, Proportion, proportion
from evaluation.metrics.localization import LocalizationSummary, summarise_localization
from evaluation.runner import Record, Results, by_subject
from evaluation.samples import Label, Sample
from evaluation.subjects import Subject
from services.common.calibration import Calibration
from services.common.detection import Question
from services.orchestrator.policy import posterior

__all__ = [
    "RobustnessRow",
    "SetFigures",
    "SubjectFigures",
    "alarm_rate",
    "alarm_threshold",
    "figures_of",
    "is_positive",
    "markdown",
    "robustness_markdown",
    "robustness_of",
    "to_json",
]

MAX_FPR: Final = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class SetFigures:
    """One subject on one set of pictures.

    Attributes:
        set_name: of the data. false: True if these are pictures to be found, False if honest ones.
        alarms: at the shipped threshold: found, or accused.
        localization: of the pictures with a mask, missed ones included.
        localization_found: of those among them at which an alarm was raised.
    """

    set_name: str
    false: bool
    alarms: Proportion
    localization: LocalizationSummary | None
    localization_found: LocalizationSummary | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SubjectFigures:
    """All figures of one subject.

    Attributes:
        subject: whose.
        coverage: how often it applied.
        detection: over all its positives and all honest pictures; None if a class is missing.
        sets: by set.
        boxes: of a face finder, over pictures with marked faces.
        cllr, cllr_min, ece: of its calibrated ratios (bits; at the set's share of false pictures), if there is one.
        median_seconds: per picture.
    """

    subject: Subject
    coverage: Coverage
    detection: DetectionSummary | None
    sets: tuple[SetFigures, ...]
    boxes: BoxSummary | None
    cllr: float | None
    cllr_min: float | None
    ece: float | None
    median_seconds: float


def is_positive(subject: Subject, sample: Sample) -> bool | None:
    """Whether a sample is one that the subject exists to find; None if it is neither that nor honest.

    A face finder exists to find the face of a portrait; whether other pictures show one, nobody said.
    """
    if subject.question is None:
        return True if sample.portrait else None
    if sample.label is Label.HONEST:
        return False
    if subject.question is Question.GENERATED:
        return True if sample.label is Label.GENERATED else None
    if subject.question is Question.EDITED and sample.label is Label.EDITED:
        fits = not subject.techniques or sample.technique is None or sample.technique in subject.techniques
        return True if fits else None
    return None


def figures_of(
    results: Results, samples: Sequence[Sample], *, calibration: Calibration | None = None
) -> list[SubjectFigures]:
    """The figures of every subject on the unchanged pictures."""
    named = {sample.name: sample for sample in samples}
    unchanged = [record for record in results.records if record.degradation == "unchanged"]
    grouped = by_subject(unchanged)
    return [
        _figures(subject, grouped.get(subject.name, []), named, calibration)
        for subject in results.subjects
        if grouped.get(subject.name)
    ]


def _figures(
    subject: Subject, records: Sequence[Record], named: Mapping[str, Sample], calibration: Calibration | None
) -> SubjectFigures:
    relevant = [(record, is_positive(subject, named[record.sample])) for record in records]
    counted = [(record, positive) for record, positive in relevant if positive is not None]
    labels = np.array([positive for _, positive in counted], dtype=np.bool_)
    scores = abstentions_as_no_alarm([record.score for record, _ in counted])
    groups = [named[record.sample].source for record, _ in counted]
    detection = None
    if subject.question is not None:
        try:
            detection = summarise_detection(
                labels, scores, threshold=subject.threshold, groups=groups, max_fpr=MAX_FPR, resamples=1000
            )
        except Undefined:
            detection = None
    calibrated = _calibrated(subject, counted, calibration)
    return SubjectFigures(
        subject=subject,
        coverage=coverage([record.applicability for record in records]),
        detection=detection,
        sets=tuple(_by_set(subject, counted, named)),
        boxes=_boxes(records, named),
        cllr=calibrated[0],
        cllr_min=calibrated[1],
        ece=calibrated[2],
        median_seconds=float(np.median([record.seconds for record in records])),
    )


def _calibrated(
    subject: Subject, counted: Sequence[tuple[Record, bool]], calibration: Calibration | None
) -> tuple[float | None, float | None, float | None]:
    if calibration is None:
        return None, None, None
    pairs = [
        (positive, ratio)
        for record, positive in counted
        if (ratio := calibration.log10_likelihood_ratio(subject.name, record.score, version=subject.version))
        is not None
    ]
    if len({positive for positive, _ in pairs}) < 2:
        return None, None, None
    labels = [positive for positive, _ in pairs]
    ratios = [ratio for _, ratio in pairs]
    scores = cllr_scores(labels, ratios)
    # Under the share of false pictures that this set has: at any other prior, perfect ratios would look wrong.
    share = sum(labels) / len(labels)
    probabilities = [posterior(ratio, share) for ratio in ratios]
    return scores.cllr, scores.minimum, expected_calibration_error(labels, probabilities)


def _by_set(subject: Subject, counted: Sequence[tuple[Record, bool]], named: Mapping[str, Sample]) -> list[SetFigures]:
    if subject.threshold is None:
        return []
    threshold = subject.threshold
    grouped: dict[tuple[str, bool], list[Record]] = {}
    for record, positive in counted:
        grouped.setdefault((named[record.sample].set_name, positive), []).append(record)
    figures = []
    for (set_name, false), records in sorted(grouped.items(), key=lambda item: (not item[0][1], item[0][0])):
        alarms = [record.score is not None and record.score >= threshold for record in records]
        groups = [named[record.sample].source for record in records]
        found = [record for record, alarm in zip(records, alarms, strict=True) if alarm]
        figures.append(
            SetFigures(
                set_name=set_name,
                false=false,
                alarms=proportion(alarms, groups),
                localization=_localization(records, named),
                localization_found=_localization(found, named),
            )
        )
    return figures


def _localization(records: Sequence[Record], named: Mapping[str, Sample]) -> LocalizationSummary | None:
    with_pixels = [(record.pixels, named[record.sample].source) for record in records if record.pixels is not None]
    if not with_pixels:
        return None
    images = [pixels for pixels, _ in with_pixels if pixels is not None]
    return summarise_localization(images, groups=[source for _, source in with_pixels], resamples=1000)


def _boxes(records: Sequence[Record], named: Mapping[str, Sample]) -> BoxSummary | None:
    matches, groups = [], []
    for record in records:
        truth = named[record.sample].boxes
        if record.boxes is None or truth is None:
            continue
        found = np.array(record.boxes, dtype=np.float64).reshape(-1, 5)
        matches.append(match_boxes(np.array(truth, dtype=np.float64).reshape(-1, 4), found[:, :4], found[:, 4]))
        groups.append(named[record.sample].source)
    try:
        return summarise_boxes(matches, groups=groups, resamples=1000) if matches else None
    except Undefined:
        return None


def alarm_threshold(subject: Subject) -> float:
    """Score from which a subject raises an alarm: as shipped, or 0.5 where it does not say."""
    return 0.5 if subject.threshold is None else subject.threshold


def alarm_rate(
    subject: Subject, records: Sequence[Record], named: Mapping[str, Sample], *, positive: bool
) -> float | None:
    """Share (0-1) of the subject's positives, or of the honest pictures, at which it raises an alarm; None without."""
    threshold = alarm_threshold(subject)
    relevant = [record for record in records if is_positive(subject, named[record.sample]) is positive]
    if not relevant:
        return None
    return sum(record.score is not None and record.score >= threshold for record in relevant) / len(relevant)


@dataclass(frozen=True, slots=True, kw_only=True)
class RobustnessRow:
    """Alarms of one subject (by name) under one degradation, at the shipped threshold.

    Attributes:
        subject, degradation, level: of what.
        found: share of its positives, 0-1; None without any. accused: of the honest pictures.
    """

    subject: str
    degradation: str
    level: float
    found: float | None
    accused: float | None


def robustness_of(results: Results, samples: Sequence[Sample]) -> list[RobustnessRow]:
    """A row for every subject that answers a question, degradation and level."""
    named = {sample.name: sample for sample in samples}
    grouped = by_subject(results.records)
    rows = []
    for subject in results.subjects:
        records = grouped.get(subject.name, []) if subject.question is not None else []
        for name, level in sorted({(record.degradation, record.level) for record in records}):
            at = [record for record in records if (record.degradation, record.level) == (name, level)]
            rows.append(
                RobustnessRow(
                    subject=subject.name,
                    degradation=name,
                    level=level,
                    found=alarm_rate(subject, at, named, positive=True),
                    accused=alarm_rate(subject, at, named, positive=False),
                )
            )
    return rows


def to_json(items: Sequence[Any]) -> list[dict[str, Any]]:
    """Figures, robustness rows or other dataclasses as JSON-serialisable objects."""
    return [_plain(each) for each in items]


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    return getattr(value, "value", value)


def markdown(figures: Sequence[SubjectFigures]) -> str:
    """The tables, for people."""
    parts = []
    for each in figures:
        parts += [f"### {each.subject.title} (`{each.subject.name}`, version {each.subject.version})", ""]
        share = each.coverage
        parts.append(
            f"Applied to {share.applied} of {share.total} pictures ({share.not_applicable} not applicable, "
            f"{share.failed} failed); median {each.median_seconds * 1000:.0f} ms a picture."
        )
        if each.detection:
            parts += ["", *_detection_table(each.detection, each.subject.threshold)]
        if each.sets:
            parts += ["", *_set_table(each.sets)]
        if each.boxes:
            precision = _estimate(each.boxes.precision) if each.boxes.precision else "-"
            counts = f"{each.boxes.scores.found} of {each.boxes.scores.truths} found"
            average = _estimate(each.boxes.average_precision)
            recall = _estimate(each.boxes.recall)
            parts += ["", f"Boxes at IoU 0.5: {counts}, recall {recall}, precision {precision}, AP {average}."]
        if each.cllr is not None:
            parts += ["", _calibration_line(each)]
        parts.append("")
    return "\n".join(parts)


def _calibration_line(figures: SubjectFigures) -> str:
    return (
        f"Calibrated likelihood ratios, where it applied: Cllr {figures.cllr:.3f} bits (1 says nothing; at best "
        f"{figures.cllr_min:.3f} with these scores), ECE {figures.ece:.3f} under the share of false pictures here."
    )


def robustness_markdown(rows: Sequence[RobustnessRow], subjects: Sequence[Subject]) -> str:
    """The rows as one table a subject."""
    lines = ["## Robustness: alarms at the shipped threshold", ""]
    for subject in subjects:
        of_subject = [row for row in rows if row.subject == subject.name]
        if not of_subject:
            continue
        lines += [f"### {subject.title}", "", "| degradation | level | found | accused |", "|---|---|---|---|"]
        for row in of_subject:
            found, accused = ("-" if rate is None else f"{rate:.1%}" for rate in (row.found, row.accused))
            lines.append(f"| {row.degradation} | {row.level:g} | {found} | {accused} |")
        lines.append("")
    return "\n".join(lines)


def _detection_table(summary: DetectionSummary, threshold: float | None) -> list[str]:
    lines = [
        f"{summary.positives} false and {summary.negatives} honest pictures of {summary.groups} sources.",
        "",
        "| metric | value (95 % interval by source) |",
        "|---|---|",
        f"| ROC-AUC | {_estimate(summary.roc_auc)} |",
        f"| average precision | {_estimate(summary.average_precision)} |",
        f"| equal error rate | {_estimate(summary.equal_error_rate)} |",
        f"| TPR at {MAX_FPR:.0%} FPR | {_estimate(summary.tpr_at_fpr)} |",
    ]
    if summary.shipped is not None and threshold is not None:
        lines.append(f"| TPR as shipped (score from {threshold:g}) | {_proportion(summary.shipped.tpr)} |")
        lines.append(f"| FPR as shipped | {_proportion(summary.shipped.fpr)} |")
    if summary.balanced_accuracy is not None:
        lines.append(f"| balanced accuracy as shipped | {_estimate(summary.balanced_accuracy)} |")
    return [*lines, *(f"\n{warning}" for warning in summary.warnings)]


def _set_table(sets: Sequence[SetFigures]) -> list[str]:
    lines = [
        "| set | pictures | alarms as shipped | pixel F1, misses 0 | F1 on found | IoU, misses 0 | MCC, misses 0 |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in sets:
        whole, found = each.localization, each.localization_found
        lines.append(
            f"| {each.set_name or '-'} ({'to find' if each.false else 'honest'}) | {each.alarms.total} "
            f"| {_proportion(each.alarms)} | {_estimate(whole.mean_f1) if whole else '-'} "
            f"| {_estimate(found.mean_f1) if found else '-'} | {_estimate(whole.mean_iou) if whole else '-'} "
            f"| {_estimate(whole.mean_mcc) if whole else '-'} |"
        )
    return lines


def _estimate(estimate: Estimate) -> str:
    if estimate.interval is None:
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} ({estimate.interval.low:.3f}-{estimate.interval.high:.3f})"


def _proportion(share: Proportion) -> str:
    return f"{share.successes}/{share.total} = {share.value:.1%} ({share.interval.low:.1%}-{share.interval.high:.1%})"
