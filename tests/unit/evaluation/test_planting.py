"""Forgeries planted for the calibration: of the photograph's source, repeatable, and really there."""

from __future__ import annotations

import io

import numpy as np
import pytest
import skimage.data
from PIL import Image

from evaluation.planting import MIN_SIDE, PLANTED, plant
from evaluation.samples import Label, Sample
from services.common.detection import Technique


@pytest.fixture
def photographs(tmp_path):
    pictures = {"coffee": skimage.data.coffee(), "cat": skimage.data.chelsea(), "rocket": skimage.data.rocket()}
    samples = []
    for name, pixels in pictures.items():
        path = tmp_path / f"{name}.png"
        Image.fromarray(pixels).save(path)
        samples.append(Sample(name=name, path=path, label=Label.HONEST, source=f"source of {name}"))
    return samples


def pixels_of(sample: Sample) -> np.ndarray:
    with Image.open(io.BytesIO(sample.path.read_bytes())) as image:
        return np.asarray(image.convert("RGB"), dtype=np.int16)


def test_every_photograph_gets_a_forgery_and_its_twin(photographs, tmp_path):
    planted = plant(photographs, tmp_path / "planted")
    assert [each.label for each in planted] == [Label.EDITED, Label.HONEST] * 3
    assert {each.source for each in planted} == {sample.source for sample in photographs}
    assert {each.set_name for each in planted} == {PLANTED}
    for forged, twin in zip(planted[::2], planted[1::2], strict=True):
        assert forged.technique in {Technique.COPY_MOVE, Technique.SPLICING}
        assert twin.technique is None
        assert forged.source == twin.source
        assert np.abs(pixels_of(forged) - pixels_of(twin)).max() > 20


def test_the_same_seed_gives_the_same_files(photographs, tmp_path):
    once = {each.name: each.path.read_bytes() for each in plant(photographs, tmp_path / "once")}
    again = {each.name: each.path.read_bytes() for each in plant(photographs, tmp_path / "again")}
    other = {each.name: each.path.read_bytes() for each in plant(photographs, tmp_path / "other", seed=1)}
    assert once == again
    assert not set(once) & set(other)


def test_nothing_is_planted_in_small_portraits_and_false_pictures(photographs, tmp_path):
    small = tmp_path / "small.png"
    Image.new("RGB", (MIN_SIDE - 1, MIN_SIDE - 1)).save(small)
    others = [
        Sample(name="small", path=small, label=Label.HONEST, source="small"),
        Sample(name="portrait", path=photographs[0].path, label=Label.HONEST, source="p", portrait=True),
        Sample(name="forged", path=photographs[0].path, label=Label.EDITED, source="f"),
    ]
    assert plant(others, tmp_path / "planted") == []
