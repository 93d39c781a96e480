"""Scenes with faces: boxes lie where the faces were pasted, and the manifest reads back."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from evaluation import scenes
from evaluation.pristine import Pristine
from evaluation.samples import Label, Sample, load_samples
from evaluation.scenes import compose_scenes


@pytest.fixture
def portraits(tmp_path):
    """Portraits of pure magenta, which no procedural scene has."""
    samples = []
    for index in range(2):
        path = tmp_path / f"portrait{index}.png"
        Image.new("RGB", (128, 128), (255, 0, 255)).save(path)
        samples.append(Sample(name=path.name, path=path, label=Label.HONEST, source=f"person{index}"))
    return samples


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Small scenes of grey noise, and faces that fit into them."""
    rng = np.random.default_rng(0)
    backgrounds = [
        Pristine(name=str(i), source=str(i), photograph=False, rgb=np.repeat(grey, 3, axis=2))
        for i, grey in enumerate(rng.integers(60, 200, (2, 300, 300, 1), dtype=np.uint8))
    ]
    monkeypatch.setattr(scenes, "procedural", lambda **_: backgrounds)
    monkeypatch.setattr(scenes, "SIZES", (40, 90))


def magenta(path):
    rgb = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return (rgb[..., 0] > 180) & (rgb[..., 1] < 90) & (rgb[..., 2] > 180)


def test_faces_lie_in_their_boxes(portraits, tmp_path):
    manifest = compose_scenes(portraits, tmp_path / "scenes", count=4)
    loaded = load_samples(manifest).samples
    faces = [sample for sample in loaded if sample.set_name == "scenes_with_faces"]
    empty = [sample for sample in loaded if sample.set_name == "scenes_without_faces"]
    assert len(faces) == len(empty) == 4
    for sample in faces:
        assert sample.boxes
        assert sample.source in {"person0", "person1"}
        with Image.open(sample.path) as image:
            width, height = image.size
        pasted = magenta(sample.path)
        for left, top, right, bottom in sample.boxes:
            assert 0 <= left < right <= width
            assert 0 <= top < bottom <= height
            middle = pasted[round((top + bottom) / 2) - 5 :, round((left + right) / 2) - 5 :][:10, :10]
            assert middle.mean() > 0.9
            # An ellipse fills pi/4 of the box around it; tilted ones less.
            inside = pasted[round(top) : round(bottom), round(left) : round(right)].mean()
            assert inside > 0.6
    for sample in empty:
        assert sample.boxes == ()
        assert not magenta(sample.path).any()


def test_the_same_seed_makes_the_same_scenes(portraits, tmp_path):
    first, second = (compose_scenes(portraits, tmp_path / name, count=1, seed=3) for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()
    assert (first.parent / "faces_0000.jpg").read_bytes() == (second.parent / "faces_0000.jpg").read_bytes()


def test_without_portraits_there_are_no_scenes(tmp_path):
    with pytest.raises(ValueError, match="no portraits"):
        compose_scenes([], tmp_path, count=1)
