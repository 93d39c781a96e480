"""Gender and age: who is learned from, the heads, and the files that are served."""

import numpy as np
import onnx
import pytest

from services.common.detection import Point
from services.faces.attributes.traces import SIDE
from services.faces.face import Box, DetectedFace, FaceDetector, Landmarks
from training.data.hashing import dhash, mirrored
from training.data.manifest import Row
from training.faces.attributes.faces import FaceStore, LabelledFace, far_from, parts
from training.faces.attributes.heads import fit_ages, fit_gender, years_of
from training.faces.attributes.judging import Judged, refusal, table
from training.faces.attributes.wild import Teacher, wild_faces
from training.faces.clip_face.export import ask, export_head
from training.faces.clip_face.heads import Head
from training.faces.clip_face.looking import TRACES
from training.faces.realfake.patches import landmark_places
from training.faces.tests.conftest import drawn_face, patch


def row(name: str, split: str, source: str = "shared/utkface") -> Row:
    return Row(
        id="0" * 16, kind="real_face", maker="utkface", source=source, path=f"train/faces/{name}", mask="",
        mask_sha256="", crop="", sha256="", width=200, height=200, dhash="", group="", split=split,
    )  # fmt: skip


def face(name: str, part: str, rgb: np.ndarray) -> LabelledFace:
    return LabelledFace(name=name, part=part, years=30, male=1, race="white", dhash=dhash(rgb))


def test_faces_that_are_judged_by_are_not_learned_from_nor_any_of_their_date():
    names = [
        "30_0_1_20170110183726390.jpg.chip.jpg",
        "31_1_0_20170110183726391.jpg.chip.jpg",
        "32_1_0_20170110183726392.jpg.chip.jpg",
        "33_1_0_20170110183726390.jpg.chip.jpg",
        "34_1_0_20170110183726394.jpg.chip.jpg",
        "39_1_20170116174525125.jpg.chip.jpg",
    ]
    manifest = [
        row(names[0], "dev"), row(names[1], "train"), row(names[2], "calibrate"), row(names[4], "dev", "elsewhere")
    ]  # fmt: skip
    assert parts(names, manifest) == {
        names[0]: "report", names[1]: "choose", names[2]: "choose", names[4]: "learn"
    }  # fmt: skip


def test_what_looks_like_a_judged_or_a_reserved_picture_is_not_learned_from():
    pictures = [drawn_face(number) for number in range(4)]
    faces = [
        face("a", "report", pictures[0]),
        face("same", "learn", np.clip(pictures[0] * 0.9, 0, 255).astype(np.uint8)),
        face("mirrored", "learn", pictures[0][:, ::-1]),
        face("b", "choose", pictures[1]),
        face("other", "learn", pictures[2]),
        face("reserved", "learn", pictures[3]),
    ]
    assert far_from(faces, []).tolist() == [False, False, False, False, True, True]
    assert far_from(faces, [mirrored(mirrored(dhash(pictures[3])))]).tolist() == [False] * 4 + [True, False]


def test_what_was_cut_is_kept_and_not_cut_again(tmp_path):
    store = FaceStore(tmp_path / "faces")
    view = np.full((SIDE, SIDE, 3), 7, np.uint8)
    with pytest.raises(FileNotFoundError, match="cut"):
        store.read()
    store.add([(face("a", "learn", drawn_face(1)), view)], ["nobody"])
    store.add([], ["neither"])
    store.add([(face("b", "choose", drawn_face(2)), view + 1)], [])
    faces = store.read()
    assert [each.name for each in faces] == ["a", "b"]
    assert faces[0].years == 30
    assert np.concatenate(list(store.views()))[:, 0, 0, 0].tolist() == [7, 8]
    assert store.done() == {"a", "b", "nobody", "neither"}


@pytest.fixture(scope="module")
def seen() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Traces of 600 faces, whether male, and years: both lie in the traces of the last block."""
    rng = np.random.default_rng(5)
    traces = rng.normal(3, 2, (600, TRACES)).astype(np.float32)
    male, years = rng.random(600) < 0.5, rng.integers(0, 81, 600)
    traces[:, -1] += 8 * male
    traces[:, -40:-2] += (years[:, None] - 40) / 4
    return traces, male, years


def test_gender_is_told_by_the_traces_of_the_last_block(seen):
    traces, male, _ = seen
    head = fit_gender(traces, male)
    assert head.weights.shape == (TRACES, 1)
    assert not head.weights[:-768].any()
    assert ((head(traces)[:, 0] > 0) == male).mean() > 0.95


def test_ages_are_learned_alike_each_time_and_near_the_labels(seen, tmp_path):
    traces, _, years = seen
    head = fit_ages(traces, years)
    assert np.array_equal(head.weights, fit_ages(traces, years).weights)
    export_head(head, tmp_path / "age.onnx", {})
    told = years_of(ask(tmp_path / "age.onnx", traces))
    assert np.abs(told - years).mean() < 0.5 * np.abs(np.median(years) - years).mean()


def test_a_file_gives_the_head_s_probabilities(seen, tmp_path):
    traces, _, _ = seen
    rng = np.random.default_rng(6)
    several = Head(rng.normal(0, 0.01, (TRACES, 5)).astype(np.float32), np.arange(5, dtype=np.float32))
    one = Head(several.weights[:, :1], several.bias[1:2])
    for head, odds in ((several, several(traces)), (one, np.pad(one(traces), ((0, 0), (1, 0))))):
        export_head(head, tmp_path / "head.onnx", {"input": "traces"})
        expected = np.exp(odds) / np.exp(odds).sum(axis=1, keepdims=True)
        assert ask(tmp_path / "head.onnx", traces) == pytest.approx(expected, abs=1e-4)
    assert onnx.load(tmp_path / "head.onnx").metadata_props[0].value == "traces"


def test_a_network_that_is_worse_is_refused():
    judged = Judged(np.zeros((4, TRACES), np.float32), np.array([True, False, True, False]), np.array([1, 5, 30, 70]))
    right, wrong = np.array([0.9, 0.1, 0.8, 0.2]), np.array([0.1, 0.1, 0.8, 0.2])
    assert "not good enough" in (refusal(judged, (wrong, judged.years + 1.0)) or "")
    assert refusal(judged, (right, judged.years + 1.0)) is None
    assert refusal(judged, (right, judged.years + 1.0), (wrong, judged.years + 1.0)) is None
    assert "worse" in (refusal(judged, (right, judged.years + 2.0), (wrong, judged.years + 1.0)) or "")


class Stub(Teacher):
    """Tells by the brightness of the chip: dark is unsure, bright is male."""

    def __init__(self):
        pass

    def genders(self, small, chips):
        assert small.shape[1:] == (32, 32, 3)
        bright = chips.mean(axis=(1, 2, 3))
        return np.where(bright < 20, -1, bright > 100)


class Everywhere:
    """Sees a face where faces lie in patches, unless the picture is black."""

    def find(self, rgb):
        if not rgb.any():
            return []
        points = {name: Point(*place) for name, place in landmark_places().items()}
        box = Box(60, 60, 200, 200)
        return [DetectedFace(box=box, confidence=0.9, detector=FaceDetector.YUNET, landmarks=Landmarks(**points))]


def test_faces_without_labels_are_labelled_where_the_teacher_is_sure():
    bright, dim = np.full((256, 256, 3), 200, np.uint8), np.full((256, 256, 3), 60, np.uint8)
    patches = [
        patch(0, "real_face"), patch(1, "fake_face", split="calibrate"), patch(2, "real_face", split="dev"),
        patch(3, "real_face", source="shared/utkface"), patch(4, "real_face"), patch(5, "real_face"),
    ]  # fmt: skip
    pixels = [bright, dim, bright, bright, np.full((256, 256, 3), 9, np.uint8), np.zeros((256, 256, 3), np.uint8)]
    found = wild_faces(patches, pixels, Everywhere(), Stub())
    assert [(face.name, face.part, face.male, face.years) for face, _ in found] == [
        (patches[0].id, "learn", 1, -1), (patches[1].id, "choose", 0, -1)
    ]  # fmt: skip
    assert found[0][1].shape == (SIDE, SIDE, 3)


def test_networks_are_compared_by_age_and_gender():
    judged = Judged(np.zeros((4, TRACES), np.float32), np.array([True, False, True, False]), np.array([1, 5, 30, 70]))
    right, wrong = np.array([0.9, 0.1, 0.8, 0.2]), np.array([0.1, 0.1, 0.8, 0.2])
    text = table(judged, {"a": (right, judged.years + 2.0), "b": (wrong, None)})
    lines = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")] for line in text.splitlines()}
    assert lines["all"][3].startswith("100.0%")
    assert lines["all"][4].startswith("2.0")
    assert lines["all"][5].startswith("75.0%")
    assert lines["0-2 years"][2] == "1"
    assert lines["0-2 years"][5].startswith("0.0%")
