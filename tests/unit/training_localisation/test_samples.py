"""Samples: reproducible, of every kind, and alike but for the forgery."""

import numpy as np
import pytest

from training.localisation.classes import CLASSES
from training.localisation.contact_sheet import contact_sheet
from training.localisation.samples import Sampler

WEIGHTS = {"pristine": 1.0, "handmade": 1.0, "copy_move": 1.0, "inpainting": 1.0, "splicing": 1.0}


def test_the_same_number_gives_the_same_sample(store):
    one, other = (Sampler(store, WEIGHTS, seed=5).sample(17, 64) for _ in range(2))
    assert np.array_equal(one.rgb, other.rgb)
    assert np.array_equal(one.mask, other.mask)
    assert not np.array_equal(one.rgb, Sampler(store, WEIGHTS, seed=6).sample(17, 64).rgb)


@pytest.mark.parametrize("name", sorted(WEIGHTS))
def test_masks_and_labels_agree(store, name):
    sampler = Sampler(store, {name: 1.0}, seed=1)
    for number in range(4):
        sample = sampler.sample(number, 64)
        assert sample.rgb.shape == (64, 64, 3)
        assert sample.mask.any() == (CLASSES[sample.label] != "pristine")
        assert sample.maker == name


def test_weights_are_checked(store):
    with pytest.raises(ValueError, match="no such makers: telekinesis"):
        Sampler(store, {"telekinesis": 1.0}, seed=1)
    with pytest.raises(ValueError, match="no faces in the list"):
        Sampler(store, {"face": 1.0}, seed=1)


def test_a_sheet_shows_them_all(store):
    sampler = Sampler(store, WEIGHTS, seed=2)
    sheet = contact_sheet([sampler.sample(number, 64) for number in range(7)], columns=4)
    assert sheet.shape == (2 * (64 + 64 + 14), 4 * 64, 3)
