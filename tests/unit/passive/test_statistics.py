"""Each metric answers to what it is named after, and its score strictly increases with what it measures."""

from __future__ import annotations

import json
from collections.abc import Callable

import cv2
import numpy as np
import pytest
import skimage.data
from numpy.typing import NDArray

from services.common.detection import Applicability, Finding, MetricType
from services.common.images import Picture
from services.passive.detectors import (
    _statistics,
    color_statistics,
    frequency_statistics,
    gradient_statistics,
    noise_statistics,
    texture_statistics,
)
from services.passive.detectors._statistics import FLAGGED, WARNING, Fitted, Statistic, window

RGB = NDArray[np.uint8]

DETECTORS: dict[str, Callable[[Picture], Finding]] = {
    "gradient": gradient_statistics.detect_gradient_statistics,
    "frequency": frequency_statistics.detect_frequency_statistics,
    "noise": noise_statistics.detect_noise_statistics,
    "texture": texture_statistics.detect_texture_statistics,
    "color": color_statistics.detect_color_statistics,
}
STATISTICS: dict[str, Statistic] = {
    module.STATISTIC.metric_type.value: module.STATISTIC
    for module in (gradient_statistics, frequency_statistics, noise_statistics, texture_statistics, color_statistics)
}


def facts(kind: str, rgb: RGB) -> dict[str, float]:
    statistic = STATISTICS[kind]
    return dict(zip([fact.name for fact in statistic.facts], statistic.numbers(rgb), strict=True))


def changed(rgb: RGB, change: Callable[[NDArray[np.float32]], NDArray[np.floating]]) -> RGB:
    return np.clip(np.rint(change(rgb.astype(np.float32))), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("kind", DETECTORS)
@pytest.mark.parametrize("load", [skimage.data.astronaut, skimage.data.chelsea, skimage.data.coffee])
def test_the_answer_has_the_documented_form(kind: str, load: Callable[[], RGB]):
    finding = DETECTORS[kind](Picture.from_array(load()))
    assert finding.applicability is Applicability.APPLIED
    (metric,), (signal,) = finding.metrics, finding.signals
    assert metric.metric_type is signal.metric_type is MetricType(kind)
    assert metric.score == signal.score == finding.score
    assert 0.0 < metric.score < 1.0
    assert 0.0 <= metric.confidence <= 1.0
    assert set(metric.details) >= {fact.name for fact in STATISTICS[kind].facts}
    assert "photographs" in signal.explanation
    # A hint: what it is worth is left to a calibration.
    assert finding.log10_likelihood_ratio is None


@pytest.mark.parametrize("kind", DETECTORS)
def test_pictures_without_statistics_are_left_alone(kind: str):
    for rgb in (np.full((200, 300, 3), 90, np.uint8), skimage.data.astronaut()[:60]):
        finding = DETECTORS[kind](Picture.from_array(np.ascontiguousarray(rgb)))
        assert finding.applicability is Applicability.NOT_APPLICABLE
        assert not finding.metrics


@pytest.mark.parametrize("kind", DETECTORS)
def test_any_other_picture_gets_a_finite_answer(kind: str):
    rng = np.random.default_rng(3)
    half = np.zeros((300, 96, 3), np.uint8)
    half[:, 48:] = 255
    for rgb in (rng.integers(0, 256, (97, 1500, 3), dtype=np.uint8), half, np.repeat(half[..., :1], 3, axis=2)):
        score = DETECTORS[kind](Picture.from_array(rgb)).score
        assert score is not None
        assert 0.0 < score < 1.0


def test_stripes_have_gradients_in_one_direction():
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::8] = 200
    blobs = changed(np.zeros((256, 256, 3), np.uint8), lambda _: 128 + 40 * smooth_noise(256))
    assert facts("gradient", stripes)["eigenvalue_ratio"] < 0.01
    assert facts("gradient", blobs)["eigenvalue_ratio"] > 0.5
    assert facts("gradient", stripes)["half_coherence"] > facts("gradient", blobs)["half_coherence"]


def smooth_noise(side: int) -> NDArray[np.float32]:
    noise = np.random.default_rng(1).standard_normal((side, side)).astype(np.float32)
    blurred = cv2.GaussianBlur(noise, (0, 0), 4.0)
    return np.repeat((blurred / blurred.std())[..., None], 3, axis=2)


def test_a_periodic_pattern_is_a_peak_in_the_spectrum():
    rgb = skimage.data.astronaut()
    rows, columns = np.mgrid[0:512, 0:512]
    pattern = (4.0 * np.cos(2 * np.pi * (0.3 * rows + 0.2 * columns)))[..., None]
    with_pattern = facts("frequency", changed(rgb, lambda pixels: pixels + pattern))
    assert with_pattern["highest_peak"] > facts("frequency", rgb)["highest_peak"] + 0.5


def test_blur_takes_power_from_the_highest_frequencies():
    rgb = skimage.data.astronaut()
    blurred = facts("frequency", np.asarray(cv2.GaussianBlur(rgb, (0, 0), 1.2), np.uint8))
    for name in ("middle_excess", "high_excess", "top_excess"):
        assert blurred[name] < facts("frequency", rgb)[name]


def test_noise_that_grows_with_brightness_is_told_from_noise_that_does_not():
    ramp = np.repeat(np.tile(np.linspace(20, 220, 512, dtype=np.float32), (512, 1))[..., None], 3, axis=2)
    normal = np.random.default_rng(5).standard_normal(ramp.shape)
    sensor = facts("noise", changed(ramp.astype(np.uint8), lambda pixels: pixels + 0.4 * np.sqrt(pixels) * normal))
    even = facts("noise", changed(ramp.astype(np.uint8), lambda pixels: pixels + 4.0 * normal))
    assert sensor["brightness_dependence"] > 0.8
    assert abs(even["brightness_dependence"]) < 0.3
    assert abs(even["red_green"]) < 0.05
    assert even["quietest_level"] > facts("noise", ramp.astype(np.uint8))["quietest_level"] + 1.0


def test_classes_of_local_binary_patterns_are_shares_of_all_pixels():
    rgb = skimage.data.astronaut()
    measured = facts("texture", rgb)
    shares = [np.exp(measured[fact.name]) - 1e-3 for fact in STATISTICS["texture"].facts[:10]]
    assert sum(shares) == pytest.approx(1.0, abs=1e-6)
    turned = facts("texture", np.ascontiguousarray(np.rot90(rgb)))
    for fact in STATISTICS["texture"].facts[:10]:
        assert turned[fact.name] == pytest.approx(measured[fact.name], abs=1e-6)


def test_colours_are_measured_on_what_everyone_sees():
    rgb = skimage.data.coffee()
    grey = np.repeat(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    assert facts("color", grey)["saturation"] == 0.0 < facts("color", rgb)["saturation"]
    doubled = facts("color", np.asarray(cv2.resize(rgb, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC), np.uint8))
    assert doubled["colour_entropy"] == pytest.approx(facts("color", rgb)["colour_entropy"], abs=0.1)


def test_the_window_is_the_middle():
    rgb = np.zeros((2000, 1000, 3), np.uint8)
    rgb[1000, 500] = 255
    assert window(rgb).shape == (768, 768, 3)
    assert window(rgb)[1000 - 616, 500 - 116].tolist() == [255, 255, 255]


def test_the_score_is_strictly_increasing_and_its_thresholds_are_the_stated_percentiles():
    stored = Fitted(
        means=(0.0,), spreads=(1.0,), weights=(1.0,), intercept=0.0, auc=0.7,
        photographs=tuple(-3.0 + 0.04 * i for i in range(101)),
    )  # fmt: skip
    assert stored.score(stored.photographs[60]) == pytest.approx(WARNING)
    assert stored.score(stored.photographs[95]) == pytest.approx(FLAGGED)
    scores = [stored.score(value) for value in np.linspace(-10, 10, 200)]
    assert scores == sorted(set(scores))
    assert stored.share_of_photographs(-100.0) == 1.0
    assert stored.share_of_photographs(100.0) == 0.0


def test_the_stored_weights_are_those_of_the_facts_in_the_code():
    stored = json.loads(_statistics.WEIGHTS.read_text(encoding="utf-8"))["statistics"]
    assert set(stored) == set(STATISTICS)
    for kind, statistic in STATISTICS.items():
        assert stored[kind]["facts"] == [fact.name for fact in statistic.facts]
        assert len(stored[kind]["weights"]) == len(stored[kind]["means"]) == len(statistic.facts)
        assert list(stored[kind]["photographs"]) == sorted(set(stored[kind]["photographs"]))
        # Document 002 shows each as a signal, which a metric that tells nothing must not be.
        assert stored[kind]["auc"] >= 0.55
