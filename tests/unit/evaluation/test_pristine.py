"""The set that the repository makes for itself: the same every time, varied, and fit to be forged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import skimage.data

from evaluation.forgery import make_forgery
from evaluation.pristine import PHOTOGRAPHS, SCENES, photographs, pristine_pictures, procedural


def test_the_set_is_deterministic_and_its_names_are_unique():
    one, again = list(pristine_pictures(size=160, variants=1)), list(pristine_pictures(size=160, variants=1))
    assert len(one) == len(PHOTOGRAPHS) + len(SCENES) == len({picture.name for picture in one})
    for picture, same in zip(one, again, strict=True):
        assert (picture.name, picture.source) == (same.name, same.source)
        assert np.array_equal(picture.rgb, same.rgb)
        assert picture.rgb.dtype == np.uint8
        assert max(picture.rgb.shape[:2]) <= 160
        assert min(picture.rgb.shape[:2]) >= 64


def test_photographs_come_with_the_wheel():
    folder = Path(skimage.data.__file__).parent
    assert all((folder / file).is_file() for file in PHOTOGRAPHS)
    assert all(picture.photograph for picture in photographs(size=96))


def test_variants_of_a_scene_differ():
    by_scene: dict[str, list[np.ndarray]] = {}
    for picture in procedural(size=128, variants=2):
        by_scene.setdefault(picture.name.rsplit("_", 1)[0], []).append(picture.rgb)
    for first, second in by_scene.values():
        assert np.abs(first.astype(int) - second).mean() > 5


@pytest.mark.parametrize("scene", sorted(SCENES))
def test_procedural_pictures_have_a_sensors_noise_and_can_be_forged(scene):
    rgb = next(picture.rgb for picture in procedural(size=192, variants=1) if picture.name == f"{scene}_0")
    grey = rgb.astype(float).mean(axis=2)
    detail = grey[:, 1:] - grey[:, :-1]
    assert np.median(np.abs(detail)) > 0.3
    donor = next(iter(photographs(size=192))).rgb
    assert make_forgery(rgb, "splicing", 0, donor=donor).mask.any()
