"""The common encoding: the same for all, another for each, equal for equal names."""

import numpy as np

from tests.unit.training.conftest import scene
from training.data.encoding import MAX_SHORT_SIDE, MIN_SHORT_SIDE, encode_alike


def test_equal_names_and_seeds_give_equal_files():
    rgb = scene(1, 500)
    assert encode_alike(rgb, "a").content == encode_alike(rgb, "a").content
    assert encode_alike(rgb, "a").content != encode_alike(rgb, "b").content
    assert encode_alike(rgb, "a").content != encode_alike(rgb, "a", seed=1).content


def test_sizes_keep_to_the_range_and_nothing_is_enlarged():
    for side in (240, 700, 1500):
        rgb = scene(side, side)
        for name in range(30):
            done = encode_alike(rgb, str(name))
            assert done.scale <= 1.0
            least = min(MIN_SHORT_SIDE, 0.75 * side)
            assert least - 1 <= min(done.rgb.shape[:2]) <= MAX_SHORT_SIDE + 1
            assert max(done.rgb.shape[:2]) <= side


def test_a_picture_below_the_range_stays_as_it_is():
    done = encode_alike(scene(1, 100), "small")
    assert done.scale == 1.0
    assert min(done.rgb.shape[:2]) >= 74


def test_the_encoding_does_not_depend_on_the_picture():
    names = [str(number) for number in range(40)]
    small, large = scene(1, 256), np.ascontiguousarray(scene(2, 1200)[:800])
    assert [encode_alike(small, n).encoding for n in names] == [encode_alike(large, n).encoding for n in names]
    kinds = {encode_alike(small, n).encoding.format for n in names}
    assert kinds == {"jpeg", "webp", "png"}


def test_the_pixels_are_those_of_the_file():
    from training.data.pictures import read_pixels

    done = encode_alike(scene(1, 400), "a")
    assert np.array_equal(read_pixels(done.content), done.rgb)
