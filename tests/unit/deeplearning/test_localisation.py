"""What the localiser is shown of a picture, and how its maps come back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.deeplearning.localisation import STRIDE, WORKING_SIDE, centred, prepared, restored, within


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (65, 300), (1024, 768), (10, 1024)])
def test_a_picture_that_fits_is_shown_as_it_is(height, width):
    rgb = noise(height, width)
    given = prepared(rgb)
    assert given.images.dtype == np.float32
    assert (given.height, given.width) == (height, width)
    assert all(side % STRIDE == 0 for side in given.images.shape[2:])
    assert np.array_equal(given.images[0, :, :height, :width].transpose(1, 2, 0), rgb)


def test_what_is_filled_up_mirrors_the_picture():
    rgb = noise(60, 64)
    filling = prepared(rgb).images[0, :, 60:].transpose(1, 2, 0)
    assert np.array_equal(filling, rgb[:-5:-1])


@pytest.mark.parametrize(("height", "width"), [(1080, 1920), (3000, 4000), (5000, 100)])
def test_a_larger_one_keeps_its_shape(height, width):
    given = prepared(np.zeros((height, width, 3), np.uint8))
    assert max(given.height, given.width) == WORKING_SIDE
    assert given.width / given.height == pytest.approx(width / height, rel=0.05)


def test_a_network_of_squares_sees_the_whole_picture_squeezed():
    rgb = np.zeros((90, 400, 3), np.uint8)
    rgb[:, 200:] = 255
    given = prepared(rgb, square_side=224)
    assert given.images.shape == (1, 3, 224, 224)
    assert given.images[0, :, :, :100].max() == 0
    assert given.images[0, :, :, 124:].min() == 255


@pytest.mark.parametrize("shape", [(70, 130), (1080, 1920), (40, 1500)])
def test_a_map_comes_back_at_the_pictures_size_and_place(shape):
    rgb = np.zeros((*shape, 3), np.uint8)
    rgb[: shape[0] // 2, : shape[1] // 3] = 255
    given = prepared(rgb)
    found = restored(within(given.images[:, 0] / 255, given), shape)
    assert found.shape == shape
    assert ((found >= 0.5) == (rgb[..., 0] > 0)).mean() > 0.99


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0.01, 0.99))
def test_a_threshold_comes_out_as_a_half_and_the_order_stays(one, other, threshold):
    low, high = sorted((one, other))
    moved = centred(np.array([low, threshold, high], np.float32), threshold)
    assert moved[1] == pytest.approx(0.5, abs=1e-5)
    assert 0 <= moved[0] <= moved[2] <= 1
    assert (moved[2] >= 0.5) == (np.float32(high) >= np.float32(threshold)) or high == pytest.approx(threshold)


def test_at_a_half_nothing_is_computed():
    values = np.array([0.1, 0.5], np.float32)
    assert centred(values, 0.5) is values
