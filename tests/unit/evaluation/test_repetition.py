"""The set of honest repetition: rendered anew the same, full of look-alikes, and photographs chosen by looks alone."""

from __future__ import annotations

import csv

import cv2
import numpy as np
from skimage import data

from evaluation.repetition import REPETITION, compose_repetition, repetition_pictures, self_similarity
from evaluation.samples import Label, Sample, load_samples
from services.common.images import encode_png


def test_every_scene_is_rendered_and_the_same_twice():
    first = list(repetition_pictures(size=160, variants=[3]))
    again = list(repetition_pictures(size=160, variants=[3]))

    assert [picture.source for picture in first] == [f"{scene}_3" for scene in REPETITION]
    for one, other in zip(first, again, strict=True):
        assert one.rgb.shape == (120, 160, 3)
        assert one.rgb.std() > 5
        np.testing.assert_array_equal(one.rgb, other.rgb)


def test_repetition_looks_more_alike_than_a_photograph_without():
    logos = next(p for p in repetition_pictures(size=400, variants=[0]) if p.source == "logos_0")

    assert self_similarity(logos.rgb) > 3 * self_similarity(data.chelsea())
    assert self_similarity(np.full((100, 100, 3), 7, np.uint8)) == 0.0


def test_the_manifest_names_the_pictures_and_the_most_alike_photographs(tmp_path):
    shelf = np.tile(cv2.resize(data.coffee(), (120, 80)), (4, 4, 1)).astype(np.uint8)
    samples = []
    for name, rgb, label in (("cat", data.chelsea(), "honest"), ("shelf", shelf, "honest"), ("fake", shelf, "edited")):
        (tmp_path / f"{name}.png").write_bytes(encode_png(rgb))
        samples.append(
            Sample(name=name, path=tmp_path / f"{name}.png", label=Label(label), source=name, set_name="pristine")
        )

    manifest = compose_repetition(samples, tmp_path / "set", size=120, variants=1, photographs=1)

    loaded = load_samples(manifest).samples
    assert len(loaded) == len(REPETITION) + 1
    assert {sample.label for sample in loaded} == {Label.HONEST}
    with manifest.open(encoding="utf-8") as file:
        photographs = [row for row in csv.DictReader(file) if row["set"] == "repetition_photographs"]
    assert [row["source"] for row in photographs] == ["shelf"]
