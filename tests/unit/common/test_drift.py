"""Drift: live scores as they were calibrated give an index near 0, shifted ones a large one, few ones none."""

from __future__ import annotations

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from evaluation.calibration.artefact import save
from evaluation.calibration.fit import fit_calibration
from evaluation.calibration.samples import Samples
from services.common import telemetry
from services.common.calibration import SCORE_EDGES, population_stability_index, score_histogram
from services.common.detection import Question
from services.common.drift import MIN_SCORES, DriftCollector
from services.common.settings import ServiceSettings


@pytest.fixture(scope="module")
def reference():
    """400 scores: honest pictures low, false ones high."""
    random = np.random.default_rng(0)
    return np.concatenate([random.beta(1, 4, 200), random.beta(4, 1, 200)])


@pytest.fixture(scope="module")
def calibration(reference):
    labels = np.arange(reference.size) >= 200
    samples = Samples.of(labels, [str(i) for i in range(reference.size)], {"known": reference})
    return fit_calibration({Question.EDITED: samples}, {"known": "2"})


@pytest.fixture
def live(calibration):
    """A registry of its own, with the histogram of scores as telemetry declares it."""
    registry = CollectorRegistry()
    scores = Histogram(
        "score", "Scores.", telemetry.DETECTOR_SCORES._labelnames, buckets=SCORE_EDGES[1:], registry=registry
    )
    registry.register(DriftCollector(calibration, scores))
    return registry, scores


def indices(registry):
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {
        sample.labels["detector"]: sample.value
        for family in families
        if family.name == "pentimento_detector_psi"
        for sample in family.samples
    }


def observe(scores, values, detector="known", version="2"):
    for value in values:
        scores.labels(detector, version).observe(value)


def test_scores_as_calibrated_do_not_drift(live, reference):
    registry, scores = live
    observe(scores, reference)
    assert indices(registry)["known"] == pytest.approx(0.0, abs=1e-9)


def test_shifted_scores_drift_by_the_index_of_their_histograms(live, reference):
    registry, scores = live
    shifted = np.clip(reference + 0.3, 0, 1)
    observe(scores, shifted)
    expected = population_stability_index(score_histogram(reference.tolist()), score_histogram(shifted.tolist()))
    assert expected > 0.25
    assert indices(registry)["known"] == pytest.approx(expected)


def test_edges_fall_into_the_same_bins_as_in_the_artefact(live):
    _, scores = live
    values = [*SCORE_EDGES] * 20
    observe(scores, values)
    collector = DriftCollector(None, scores)
    assert collector._counts()["known", "2"] == list(score_histogram(values))


def test_too_few_scores_say_nothing(live, reference):
    registry, scores = live
    observe(scores, reference[: MIN_SCORES - 1])
    assert indices(registry) == {}
    observe(scores, reference[:1])
    assert set(indices(registry)) == {"known"}


def test_another_version_or_detector_is_not_compared(live, reference):
    registry, scores = live
    observe(scores, reference, version="3")
    observe(scores, reference, detector="unknown")
    assert indices(registry) == {}


def test_live_scores_have_the_buckets_of_the_calibration():
    assert telemetry.DETECTOR_SCORES._upper_bounds[:-1] == list(SCORE_EDGES[1:])


def test_a_configured_artefact_is_exported(monkeypatch, tmp_path, calibration, reference):
    registry = CollectorRegistry()
    monkeypatch.setattr(telemetry, "REGISTRY", registry)
    path = tmp_path / "calibration.json"
    save(calibration, path)
    telemetry._set_up_drift(ServiceSettings(calibration=str(path)))
    assert "pentimento_detector_psi" in generate_latest(registry).decode()


@pytest.mark.parametrize("content", [None, "{}"])
def test_an_artefact_that_cannot_be_read_ends_the_process_with_a_sentence(tmp_path, content):
    path = tmp_path / "calibration.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SystemExit, match="PENTIMENTO_CALIBRATION"):
        telemetry._set_up_drift(ServiceSettings(calibration=str(path)))


def test_no_artefact_is_asked_for_by_default():
    telemetry._set_up_drift(ServiceSettings())
