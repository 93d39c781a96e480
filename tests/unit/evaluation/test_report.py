"""From records to figures: counted by hand on ten pictures, and shown as counted."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from evaluation.calibration.fit import fit_calibration
from evaluation.calibration.samples import Samples as CalibrationSamples
from evaluation.metrics.calibration import cllr
from evaluation.metrics.localization import score_image
from evaluation.plots import draw
from evaluation.report import figures_of, is_positive, markdown, robustness_markdown, robustness_of, to_json
from evaluation.runner import Record, Results
from evaluation.samples import Label, Sample
from evaluation.subjects import Subject
from services.common.detection import Applicability, Question, Technique

DETECTOR = Subject(
    name="copies",
    version="1",
    title="Copies",
    question=Question.EDITED,
    techniques=(Technique.COPY_MOVE,),
    threshold=0.5,
)
FINDER = Subject(name="finder", version="1", title="Finder", question=None)


def sample(name, label, technique=None, *, source=None, set_name="made", boxes=None, path=None):
    return Sample(
        name=name,
        path=path or name,
        label=label,
        technique=technique,
        source=source or name,
        set_name=set_name,
        boxes=boxes,
    )


def record(of, score, *, subject=DETECTOR, pixels=None, degradation="unchanged", level=0.0, boxes=None):
    return Record(
        sample=of.name,
        sha256="0",
        truth="0",
        degradation=degradation,
        level=level,
        subject=subject.name,
        version="1",
        applicability=Applicability.NOT_APPLICABLE if score is None else Applicability.APPLIED,
        score=score,
        seconds=0.2,
        explanation="",
        pixels=pixels,
        alarm_area=None,
        boxes=boxes,
    )


def half_marked(marked):
    """10 x 10, left half forged; as many of its columns marked, from the left."""
    mask = np.zeros((10, 10), bool)
    mask[:, :5] = True
    heat_map = np.zeros((10, 10), np.float32)
    heat_map[:, :marked] = 1.0
    return score_image(mask, heat_map)


@pytest.fixture
def case():
    """4 copy-moves (0.9, 0.8, 0.4 and not applicable), 5 honest pictures (one accused) and a splice, not counted."""
    forged = [sample(f"forged{i}", Label.EDITED, Technique.COPY_MOVE) for i in range(4)]
    honest = [sample(f"honest{i}", Label.HONEST, set_name="real") for i in range(5)]
    splice = sample("splice", Label.EDITED, Technique.SPLICING)
    records = [
        record(forged[0], 0.9, pixels=half_marked(5)),
        record(forged[1], 0.8, pixels=half_marked(10)),
        record(forged[2], 0.4, pixels=half_marked(0)),
        record(forged[3], None, pixels=half_marked(0)),
        record(splice, 1.0),
        *(record(of, score) for of, score in zip(honest, (0.6, 0.3, 0.2, 0.1, 0.0), strict=True)),
    ]
    return Results((DETECTOR,), tuple(records), ()), [*forged, *honest, splice]


def test_what_is_positive_for_whom():
    copy_move = sample("a", Label.EDITED, Technique.COPY_MOVE)
    unknown = sample("b", Label.EDITED)
    splice = sample("c", Label.EDITED, Technique.SPLICING)
    generated = sample("d", Label.GENERATED)
    honest = sample("e", Label.HONEST)
    everything = [copy_move, unknown, splice, generated, honest]
    decision = replace(DETECTOR, techniques=())
    network = replace(DETECTOR, question=Question.GENERATED, techniques=())
    assert [is_positive(DETECTOR, each) for each in everything] == [True, True, None, None, False]
    assert [is_positive(decision, each) for each in everything] == [True, True, True, None, False]
    assert [is_positive(network, each) for each in everything] == [None, None, None, True, False]


def test_figures_counted_by_hand(case):
    (figures,) = figures_of(*case)
    detection = figures.detection
    assert (detection.positives, detection.negatives, detection.groups) == (4, 5, 9)
    # Pairs of forged and honest: 0.9 and 0.8 beat all 5, 0.4 beats 4 of 5, "not applicable" beats none.
    assert detection.roc_auc.value == pytest.approx(14 / 20)
    assert (detection.shipped.tpr.successes, detection.shipped.tpr.total) == (2, 4)
    assert (detection.shipped.fpr.successes, detection.shipped.fpr.total) == (1, 5)
    assert detection.balanced_accuracy.value == pytest.approx((0.5 + 0.8) / 2)
    assert detection.tpr_at_fpr.value == pytest.approx(0.5)
    assert (figures.coverage.applied, figures.coverage.not_applicable) == (9, 1)
    made, real = figures.sets
    assert (made.set_name, made.false, made.alarms.successes, made.alarms.total) == ("made", True, 2, 4)
    assert (real.set_name, real.false, real.alarms.successes, real.alarms.total) == ("real", False, 1, 5)
    assert real.localization is None
    # F1 1, 2/3, 0, 0 and IoU 1, 1/2, 0, 0: misses count.
    assert made.localization.mean_f1.value == pytest.approx((1 + 2 / 3) / 4)
    assert made.localization.mean_iou.value == pytest.approx(1.5 / 4)
    assert made.localization_found.mean_f1.value == pytest.approx((1 + 2 / 3) / 2)
    assert figures.cllr is None


def test_tables_and_json_say_what_was_counted(case):
    figures = figures_of(*case)
    text = markdown(figures)
    assert "### Copies (`copies`, version 1)" in text
    assert "Applied to 9 of 10 pictures (1 not applicable, 0 failed); median 200 ms" in text
    assert "4 false and 5 honest pictures of 9 sources." in text
    assert "| TPR as shipped (score from 0.5) | 2/4 = 50.0%" in text
    assert "| FPR as shipped | 1/5 = 20.0%" in text
    assert "| made (to find) | 4 | 2/4 = 50.0%" in text
    assert "| 0.417 (" in text
    assert "Calibrated" not in text
    (facts,) = json.loads(json.dumps(to_json(figures)))
    assert facts["detection"]["roc_auc"]["value"] == pytest.approx(0.7)
    assert facts["subject"]["question"] == "edited"


def test_calibrated_ratios_are_judged(case):
    random = np.random.default_rng(0)
    labels = np.arange(200) % 2 == 1
    scores = np.where(labels, random.beta(4, 2, 200), random.beta(2, 4, 200))
    samples = CalibrationSamples.of(labels, [f"other{i}" for i in range(200)], {"copies": scores})
    calibration = fit_calibration({Question.EDITED: samples}, {"copies": "1"})
    results, pictures = case
    (figures,) = figures_of(results, pictures, calibration=calibration)
    applied = [(True, 0.9), (True, 0.8), (True, 0.4), *((False, score) for score in (0.6, 0.3, 0.2, 0.1, 0.0))]
    ratios = [calibration.log10_likelihood_ratio("copies", score, version="1") for _, score in applied]
    assert figures.cllr == pytest.approx(cllr([label for label, _ in applied], ratios))
    assert 0 <= figures.cllr_min <= figures.cllr
    assert 0 <= figures.ece <= 1
    assert f"Cllr {figures.cllr:.3f} bits" in markdown([figures])
    other = fit_calibration({Question.EDITED: samples}, {"copies": "2"})
    assert figures_of(results, pictures, calibration=other)[0].cllr is None, "of another version nothing is known"


def test_a_class_alone_gives_no_detection_figures(case):
    results, samples = case
    honest = tuple(record for record in results.records if record.sample.startswith("honest"))
    (figures,) = figures_of(Results((DETECTOR,), honest, ()), samples)
    assert figures.detection is None
    assert [each.alarms.total for each in figures.sets] == [5]
    assert "5" in markdown([figures])


def test_boxes_of_a_finder():
    scene = sample("scene", Label.HONEST, boxes=((0, 0, 10, 10), (20, 20, 30, 30)))
    empty = sample("empty", Label.HONEST, boxes=())
    unmarked = sample("unmarked", Label.HONEST)
    box, ghost = (0.0, 0.0, 10.0, 10.0, 0.9), (50.0, 50.0, 60.0, 60.0, 0.6)
    records = (
        record(scene, 0.9, subject=FINDER, boxes=(box,)),
        record(empty, 0.6, subject=FINDER, boxes=(ghost,)),
        record(unmarked, 0.9, subject=FINDER, boxes=(box,)),
    )
    (figures,) = figures_of(Results((FINDER,), records, ()), [scene, empty, unmarked])
    assert (figures.boxes.scores.found, figures.boxes.scores.truths) == (1, 2)
    assert figures.boxes.precision.value == pytest.approx(0.5)
    assert "1 of 2 found" in markdown([figures])


def test_robustness_by_level(case):
    results, samples = case
    degraded = [
        replace(each, degradation="jpeg", level=50.0, score=None if each.score is None else each.score / 2)
        for each in results.records
    ]
    results = replace(results, records=(*results.records, *degraded))
    rows = {(row.degradation, row.level): (row.found, row.accused) for row in robustness_of(results, samples)}
    assert rows == {("unchanged", 0.0): (0.5, 0.2), ("jpeg", 50.0): (0.0, 0.0)}
    text = robustness_markdown(robustness_of(results, samples), results.subjects)
    assert "| jpeg | 50 | 0.0% | 0.0% |" in text
    assert figures_of(results, samples) == figures_of(*case_of(results, samples)), "figures are of unchanged pictures"


def case_of(results, samples):
    unchanged = tuple(each for each in results.records if each.degradation == "unchanged")
    return replace(results, records=unchanged), samples


def test_plots_and_contact_sheets_are_written(case, tmp_path):
    results, samples = case
    Image.new("RGB", (300, 200), "navy").save(tmp_path / "picture.png")
    samples = [replace(each, path=tmp_path / "picture.png") for each in samples]
    samples[0] = replace(samples[0], path=tmp_path / "gone.png")
    degraded = tuple(replace(each, degradation="jpeg", level=50.0) for each in results.records)
    results = replace(results, records=(*results.records, *degraded))
    files = draw(results, samples, tmp_path / "plots")
    assert {path.name for path in files} == {
        "copies-detection.png",
        "copies-misses.png",
        "copies-false-alarms.png",
        "copies-robustness.png",
    }
    with Image.open(tmp_path / "plots" / "copies-misses.png") as sheet:
        colours = {colour for _, colour in sheet.getcolors(1 << 20)}
    assert (0, 0, 128) in colours, "the missed picture is shown"
