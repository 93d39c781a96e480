"""The noise of a picture is measured where it is, and a noisier piece is bright; the view accuses nobody."""

from __future__ import annotations

import numpy as np
import pytest
import skimage.data
from numpy.typing import NDArray

from services.common.detection import Applicability
from services.common.images import Picture
from services.passive.detectors.noise_level import detect_noise_level, noise_levels

RGB = NDArray[np.uint8]
PIECE = np.s_[128:256, 64:192]


def with_noise(rgb: RGB, sigma: float, where=np.s_[:]) -> RGB:
    noisy = rgb.astype(np.float64)
    noisy[where] += np.random.default_rng(1).normal(0.0, sigma, noisy[where].shape[:2])[..., None]
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("sigma", [2.0, 5.0, 12.0])
def test_the_level_of_white_noise_is_recovered(sigma: float):
    grey = with_noise(np.full((256, 1200, 3), 128, np.uint8), sigma)[..., 0]
    levels = noise_levels(grey)
    assert levels.shape == (32, 150)
    assert float(np.median(levels)) == pytest.approx(sigma, rel=0.1)


def test_a_tall_picture_is_measured_in_strips_without_a_seam():
    grey = np.ascontiguousarray(np.tile(skimage.data.camera(), (3, 1)))
    levels = noise_levels(grey)
    # Blocks that no edge of the repeated picture, nor of a window, touches.
    assert np.array_equal(levels[4:60], levels[68:124])


def test_a_noisier_piece_is_bright_and_accuses_nobody():
    twin = np.asarray(skimage.data.astronaut(), np.uint8)
    forged, honest = (detect_noise_level(Picture.from_array(each)) for each in (with_noise(twin, 9.0, PIECE), twin))
    inside = np.zeros((64, 64), bool)
    inside[18:30, 10:22] = True
    assert forged.heat_map is not None
    assert honest.heat_map is not None
    assert float(np.median(forged.heat_map[inside])) > 0.4
    assert float(np.median(forged.heat_map[inside])) > float(np.median(honest.heat_map[inside])) + 0.2
    assert forged.score == honest.score == 0.0
    assert forged.log10_likelihood_ratio is None


def test_a_plain_picture_is_dark_and_a_small_one_is_left_alone():
    plain = detect_noise_level(Picture.from_array(np.full((128, 128, 3), 77, np.uint8)))
    assert plain.heat_map is not None
    assert plain.heat_map.max() == 0.0
    small = detect_noise_level(Picture.from_array(np.asarray(skimage.data.astronaut()[:60], np.uint8)))
    assert small.applicability is Applicability.NOT_APPLICABLE
