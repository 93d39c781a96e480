"""Curves over the last quality: what is found at high quality is lost at low, and the tables say so."""

from __future__ import annotations

import re

import pytest
import skimage.data
from PIL import Image

from evaluation.__main__ import main
from evaluation.pairs import KINDS
from evaluation.planted_curves import STEPS, Answer, curves_of, draw_curves, measure_pairs, tables
from evaluation.samples import Label, Sample


@pytest.fixture
def photographs(tmp_path):
    samples = []
    for name in ("coffee", "chelsea", "astronaut"):
        path = tmp_path / f"{name}.jpg"
        Image.fromarray(getattr(skimage.data, name)()).save(path, quality=85)
        samples.append(Sample(name=name, path=path, label=Label.HONEST, source=name))
    return samples


def answer(step: str, source: str, *, forged: bool, score: float | None, f1: float | None = None) -> Answer:
    return Answer(
        kind="other_history",
        step=step,
        subject="double_quantisation",
        source=source,
        forged=forged,
        applied=score is not None,
        score=score,
        pixel_auc=0.9 if f1 is not None else None,
        pixel_f1=f1,
    )


def test_points_count_abstentions_as_no_alarm_and_misses_as_zero():
    answers = []
    for source, forged, twin in (("a", 0.9, 0.1), ("b", 0.8, 0.6), ("c", None, 0.2), ("d", None, None)):
        answers.append(answer("95", source, forged=True, score=forged, f1=0.8 if forged else 0.0))
        answers.append(answer("95", source, forged=False, score=twin))
    (curve,) = curves_of(answers)
    point = curve.points["95"]
    assert point.pairs == 4
    assert point.coverage == 5 / 8
    # Of 16 comparisons 8 are won by the two that were found, one abstention ties with the abstaining twin, each.
    assert point.auc.value == pytest.approx((8 + 2 * 0.5) / 16)
    assert (point.found, point.accused) == (0.5, 0.25)
    assert point.pixel_f1 == pytest.approx(0.4)
    assert "| double_quantisation | AUC | 0.56 |" in tables([curve])
    assert "50 / 25 %" in tables([curve])


@pytest.mark.timeout(300)
def test_photographs_are_measured_from_end_to_end(photographs, tmp_path, capsys):
    answers = measure_pairs(photographs, ["other_history"], pictures=1, jobs=1)
    steps, subjects = {name for name, _ in STEPS}, set(KINDS["other_history"].subjects)
    assert {each.step for each in answers} == steps
    assert {each.subject for each in answers} == subjects
    assert len(answers) == 2 * len(steps) * len(subjects)
    assert all((each.pixel_auc is not None) == each.forged for each in answers)
    # Ghosts and double quantisation are of JPEG files alone.
    assert not any(each.applied for each in answers if each.step == "PNG" and each.subject == "double_quantisation")
    draw_curves(curves_of(answers), tmp_path / "images" / "curves.png")
    with Image.open(tmp_path / "images" / "curves.png") as figure:
        assert figure.width > 200


def test_an_unknown_kind_is_refused(tmp_path, capsys):
    assert main(["planted", str(tmp_path), "--kinds", "magic"]) == 2
    assert re.search("unknown kind magic; there are other_history", capsys.readouterr().err)
