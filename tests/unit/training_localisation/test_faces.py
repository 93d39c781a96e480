"""A self-blended face is changed where the mask says, and nowhere else far from it."""

import cv2
import numpy as np
import pytest

from training.localisation.faces import self_blended


@pytest.fixture
def rgb() -> np.ndarray:
    return cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (160, 160, 3)).astype(np.uint8), (0, 0), 1.5)


@pytest.mark.parametrize("seed", range(8))
def test_only_the_face_is_changed(rgb, seed):
    made = self_blended(rgb, (40.0, 30.0, 120.0, 130.0), np.random.default_rng(seed))
    if made is None:
        pytest.skip("the draw changed too little, which is refused")
    image, mask = made
    assert 0.05 < mask.mean() < 0.6
    change = np.abs(image.astype(int) - rgb).mean(axis=2)
    assert change[mask].mean() >= 2.0
    assert change[:8].max() == change[:, :8].max() == 0


def test_a_tiny_face_is_refused(rgb):
    assert self_blended(rgb, (40.0, 30.0, 55.0, 50.0), np.random.default_rng(0)) is None
