"""The gate: fails when a detector accuses everything or finds nothing, and passes one that does what it should."""

from __future__ import annotations

import pytest

from evaluation import gate
from evaluation.gate import run_gate
from evaluation.pristine import pristine_pictures
from evaluation.subjects import Measurement, Subject
from services.common.detection import Applicability, Question, Technique


class Fake:
    """A detector that scores as it is told, by the file's bytes."""

    def __init__(self, score, *, name="copy_move", technique=Technique.COPY_MOVE, threshold=0.5):
        self._score = score
        self._subject = Subject(
            name=name,
            version="1",
            title=name,
            question=Question.EDITED,
            techniques=(technique,),
            threshold=threshold,
        )

    def subjects(self):
        return [self._subject]

    def measure(self, content, names):
        score = self._score(content)
        applicability = Applicability.NOT_APPLICABLE if score is None else Applicability.APPLIED
        return {name: Measurement(applicability=applicability, score=score, seconds=0.0) for name in names}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Six of the pictures, small: enough to count on."""
    pictures = list(pristine_pictures(size=192, variants=1))[:6]
    monkeypatch.setattr(gate, "pristine_pictures", lambda **_: pictures)
    return {gate.ENCODING.encode(picture.rgb) for picture in pictures}


def test_a_detector_that_finds_and_spares_passes(small):
    (result,) = run_gate([Fake(lambda content: 0.1 if content in small else 0.9)])
    assert result.failures == ()
    assert (result.accused, result.honest) == ((), 6)
    assert result.found == result.planted > 0


def test_a_detector_that_accuses_everything_fails(small):
    (result,) = run_gate([Fake(lambda _: 1.0)])
    assert len(result.accused) == 6
    assert len(result.failures) == 1
    assert result.failures[0].startswith("accuses 6 honest pictures (at most 1): ")


@pytest.mark.parametrize("score", [0.0, None])
def test_a_detector_that_finds_nothing_fails(score):
    (result,) = run_gate([Fake(lambda _: score)])
    assert (result.found, result.accused) == (0, ())
    assert result.failures == (f"finds 0 of {result.planted} planted forgeries (at least 60%)",)


def test_a_detector_without_bounds_may_not_accuse_either(small):
    (result,) = run_gate([Fake(lambda _: 1.0, name="new_one")])
    assert len(result.failures) == 1
    (result,) = run_gate([Fake(lambda _: 0.0, name="new_one")])
    assert result.failures == ()


def test_what_cannot_be_planted_is_not_asked_for(small):
    (result,) = run_gate([Fake(lambda _: 0.0, technique=Technique.GENERATED)])
    assert (result.planted, result.found) == (0, 0)


def test_the_detectors_own_threshold_holds(small):
    (result,) = run_gate([Fake(lambda _: 0.6, threshold=0.7)])
    assert (result.found, result.accused) == (0, ())
