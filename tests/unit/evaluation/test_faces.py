"""Measuring the faces service: labels in names, strangers taken for one person, finders held against known places."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from evaluation.faces.attributes import label_of, measure_attributes
from evaluation.faces.finding import measure_finders
from evaluation.faces.matching import changed, false_match_rate
from evaluation.samples import Label, Sample
from services.common.errors import ModelUnavailable
from services.common.images import Picture
from services.faces.describing import Description
from services.faces.face import (
    AgeEstimate,
    Box,
    DescribedFace,
    DetectedFace,
    FaceDetector,
    Gender,
    GenderEstimate,
)
from services.faces.finders import Found


def sample(folder, name, boxes=None) -> Sample:
    path = folder / name
    Image.new("RGB", (300, 200), (90, 90, 90)).save(path, "PNG")
    return Sample(name=name, path=path, label=Label.HONEST, source=name, boxes=boxes)


def test_labels_are_read_from_names_and_other_names_have_none():
    person = label_of("100_0_0_20170112215240346.jpg.chip.jpg")
    assert (person.years, person.gender, person.race) == (100, Gender.MALE, "white")
    assert label_of("5_1_3_20161219222749039.png").race == "Indian"
    assert label_of("5_1_3_20161219222749039.png").gender is Gender.FEMALE
    assert label_of("00001.png") is None
    assert label_of("20_2_1_1.png") is None


def test_strangers_above_a_threshold_are_counted_and_nobody_is_a_stranger_to_himself():
    similar = np.array([[1.0, 0.9, 0.1], [0.9, 1.0, 0.3], [0.1, 0.3, 1.0]], np.float32)
    everybody = np.arange(3)
    assert false_match_rate(similar, everybody, 0.5) == pytest.approx(1 / 3)
    assert false_match_rate(similar, everybody, 0.95) == 0.0
    assert false_match_rate(similar, np.array([0, 0, 2]), 0.5) == 0.0


def test_a_changed_version_is_another_picture_of_the_same(astronaut_picture):
    other = changed(astronaut_picture, np.random.default_rng(0))
    assert other.rgb.shape != astronaut_picture.rgb.shape
    assert abs(other.rgb.mean() - astronaut_picture.rgb.mean()) < 60


@pytest.fixture
def astronaut_picture() -> Picture:
    from skimage import data

    return Picture.from_array(np.ascontiguousarray(data.astronaut()))


class Finders:
    """YuNet sees all but the last face, MediaPipe sees something where nothing is, Haar is away."""

    def __init__(self, boxes) -> None:
        self.boxes = boxes

    async def find(self, picture, detector=None, *, max_faces=None):
        if detector is FaceDetector.HAAR:
            raise ModelUnavailable("haar")
        boxes = self.boxes[:-1] if detector is FaceDetector.YUNET else [(200, 150, 240, 190)]
        found = [DetectedFace(box=Box(*box), confidence=0.9, detector=detector) for box in boxes]
        return Found(tuple(found), (), detector)


async def test_finders_are_held_against_the_places(tmp_path):
    boxes = ((10.0, 10.0, 40.0, 40.0), (100.0, 20.0, 170.0, 100.0))
    samples = [sample(tmp_path, "faces.png", boxes), sample(tmp_path, "empty.png", ())]
    table = await measure_finders(SimpleNamespace(finders=Finders(boxes)), samples)
    rows = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in table.splitlines() if line.startswith("|")}
    # Without a second picture with a face the bootstrap has no interval, or a trivial one; the values come first.
    assert rows["yunet"][1].startswith("0.500")
    assert rows["yunet"][2].startswith("0.500"), "the same box in the empty picture is a false alarm"
    assert rows["yunet"][4] == "1 of 1"
    assert rows["yunet"][5].startswith("1.00, -, 0.00, -")
    assert rows["mediapipe"][1].startswith("0.000")
    assert "not available" in rows["haar"][1]
    assert "consensus" in rows
    assert "1 scenes with 2 faces, 1 pictures without." in table


async def test_errors_of_age_and_gender_are_counted_by_group(tmp_path):
    names = ["30_0_0_1.png", "40_1_0_2.png", "70_1_1_3.png", "nobody.png"]
    samples = [sample(tmp_path, name) for name in names]

    class Describer:
        async def describe(self, picture, faces, attributes):
            age = AgeEstimate(years=35.0, distribution=(), age_range="(25-32)", range_probability=1.0)
            gender = GenderEstimate(gender=Gender.FEMALE, probability=0.9)
            return Description(tuple(DescribedFace(face=face, age=age, gender=gender) for face in faces), {})

    class One:
        async def find(self, picture, *, max_faces=None):
            return Found((DetectedFace(box=Box(0, 0, 9, 9), confidence=1.0, detector=FaceDetector.HAAR),))

    table = await measure_attributes(SimpleNamespace(finders=One(), describer=Describer()), samples)
    rows = {line.split(" | ")[0].strip("| "): line for line in table.splitlines() if line.startswith("|")}
    assert "3 faces, 0 of them not found." in table
    assert rows["all"].split(" | ")[1] == "3"
    assert rows["all"].split(" | ")[2].startswith("15.0"), "errors of 5, 5 and 35 years"
    assert "66.7%" in rows["all"]
    assert rows["60-116 years"].split(" | ")[2].startswith("35.0")
    assert "0.0%" in rows["male"]
    assert "gender 100.0 points (male against female)" in table
