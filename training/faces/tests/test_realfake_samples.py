"""From pictures to samples: where faces come to lie, what blending changes, who is learned from."""

import cv2
import numpy as np
import pytest

from services.common.detection import Point
from services.faces.alignment import face_chip
from services.faces.face import Box, DetectedFace, FaceDetector, Landmarks
from training.faces.realfake.blending import blended
from training.faces.realfake.config import RunConfig
from training.faces.realfake.patches import CHIP_SHARE, SIDE, PatchStore, chip_matrix, landmark_places
from training.faces.realfake.samples import Sampler
from training.faces.realfake.views import CELL, CHIP, drawn_matrix, judged_view, learned_view, seams
from training.faces.tests.conftest import drawn_face, patch

SETTINGS = {
    "seed": 3,
    "detail": 4,
    "dropout": 0.0,
    "bfloat16": False,
    "learning_rate": 1e-4,
    "new_learning_rate": 1e-3,
    "warmup": 0,
    "weight_decay": 0.0,
    "ema": 0.9,
    "report_every": 1,
    "judge_every": 2,
    "checkpoint_every": 1,
    "left_out": ["elsewhere"],
    "shares": {"real_face": 0.5, "fake_face": 0.3, "blended": 0.2},
    "stages": [{"steps": 2, "side": 96, "batch": 4}, {"steps": 1, "side": 112, "batch": 4}],
}
CONFIG = RunConfig.model_validate(SETTINGS)


def _marked_face() -> tuple[np.ndarray, DetectedFace]:
    """A large picture of a tilted face whose landmarks are bright dots."""
    picture = np.full((900, 1000, 3), 60, np.uint8)
    turn = cv2.getRotationMatrix2D((500, 450), 20, 1.0)
    places = {"right_eye": (-0.38, -0.39), "left_eye": (0.38, -0.39), "nose": (0, 0.1), "mouth": (0.01, 0.434)}
    points = {name: turn @ (500 + 300 * x, 450 + 300 * y, 1) for name, (x, y) in places.items()}
    for x, y in points.values():
        cv2.circle(picture, (round(x), round(y)), 12, (255, 255, 255), -1)
    marks = Landmarks(**{name: Point(x, y) for name, (x, y) in points.items()})
    box = Box(200, 150, 800, 750)
    return picture, DetectedFace(box=box, confidence=0.9, detector=FaceDetector.YUNET, landmarks=marks)


def test_landmarks_lie_in_a_patch_where_they_are_said_to_and_in_its_chip_where_the_service_has_them():
    picture, face = _marked_face()
    cut = face_chip(picture, face, SIDE, zoom=CHIP_SHARE)
    for name in ("right_eye", "left_eye", "mouth"):
        x, y = landmark_places()[name]
        assert cut[round(y), round(x)].min() > 200, name
    served = face_chip(picture, face, CHIP).astype(np.float64)
    # Without a history the chip of a patch is the service's chip.
    views = [judged_view(cut, "any", number).astype(np.float64) for number in range(30)]
    assert min(np.abs(view - served).mean() for view in views) < 2.0


def test_a_picture_is_judged_in_the_same_way_every_time():
    rgb = drawn_face(1)
    assert np.array_equal(judged_view(rgb, "a", 0), judged_view(rgb, "a", 0))
    assert not np.array_equal(judged_view(rgb, "a", 0), judged_view(rgb, "a", 1))
    matrix = drawn_matrix(np.random.default_rng(1))
    mirrored = learned_view(rgb, np.random.default_rng(2), matrix, mirrored=True)
    assert np.array_equal(mirrored[:, ::-1], learned_view(rgb, np.random.default_rng(2), matrix, mirrored=False))


@pytest.mark.parametrize("seed", range(12))
def test_blending_changes_a_part_about_its_middle_and_nothing_far_away(seed):
    target, donor = drawn_face(1), drawn_face(2)
    made = blended(target, donor if seed % 2 else None, np.random.default_rng(seed))
    if made is None:
        return
    changed = np.abs(made.rgb.astype(int) - target).max(axis=2)
    assert changed.max() > 8
    assert changed[:8].max() == changed[-8:].max() == 0, "the border is nobody's face"
    down, across = np.nonzero(changed > 8)
    y, x = (places.mean() for places in np.nonzero(made.inside))
    assert np.hypot(across.mean() - x, down.mean() - y) < 40


def test_a_grey_face_stays_grey_when_it_is_blended():
    grey = np.repeat(drawn_face(1)[..., :1], 3, axis=2)
    made = [blended(grey, drawn_face(2), np.random.default_rng(seed)) for seed in range(8)]
    spreads = [int(np.ptp(one.rgb.astype(int), axis=2).max()) for one in made if one is not None]
    assert spreads
    assert max(spreads) < 12, "rounding in CIELAB, and no more"


@pytest.mark.parametrize("mirrored", [False, True])
def test_seams_run_about_what_was_put_in_and_nowhere_else(mirrored):
    inside = np.zeros((SIDE, SIDE), bool)
    inside[96:160, 64:128] = True
    found = seams(inside, chip_matrix(CHIP), mirrored=mirrored)
    if mirrored:
        found = found[:, ::-1]
    assert found.shape == (CHIP // CELL, CHIP // CELL)
    # A patch's pixel (x, y) lies at (x - 128) * 160 / 171 + 80 in its chip: the square takes 20-80 and 50-110.
    assert found[6:14, 2].min() > 0.5
    assert found[6:14, 9:11].max(axis=1).min() > 0.5
    assert found[8:12, 4:8].max() == 0, "within, all is of one piece"
    assert found[:5].max() == found[15:].max() == found[:, 12:].max() == 0


def test_most_blends_succeed():
    made = [blended(drawn_face(n), drawn_face(n + 50), np.random.default_rng(n)) for n in range(40)]
    assert sum(one is not None for one in made) > 30


def test_only_the_train_split_is_learned_from_and_nothing_that_is_left_out():
    grey = {"train": 90, "calibrate": 20, "dev": 230, "elsewhere": 160}
    patches, pixels = [], []
    for number, (split, shade) in enumerate(grey.items()):
        for kind in ("real_face", "fake_face"):
            source = "elsewhere" if split == "elsewhere" else "here"
            patches.append(patch(number, kind, source=source, split="train" if split == "elsewhere" else split))
            pixels.append(np.full((SIDE, SIDE, 3), shade, np.uint8))
    config = CONFIG.model_copy(update={"shares": {"real_face": 0.5, "fake_face": 0.5}})
    sampler = Sampler(patches, pixels, config)
    faces = np.concatenate([sampler.batch(step, config.stages[0]).faces for step in range(20)])
    assert abs(float(np.median(faces)) - 90) < 20
    assert (np.median(faces.reshape(len(faces), -1), axis=1) < 140).all()


def test_batches_are_the_same_for_the_same_step_and_hold_both_classes(faces):
    sampler = Sampler(*faces, CONFIG)
    first, again, other = (sampler.batch(step, CONFIG.stages[1]) for step in (5, 5, 6))
    assert np.array_equal(first.faces, again.faces)
    assert np.array_equal(first.fake, again.fake)
    assert not np.array_equal(first.faces, other.faces)
    assert first.faces.shape == (4, 112, 112, 3)
    fakes = np.concatenate([sampler.batch(step, CONFIG.stages[1]).fake for step in range(40)])
    assert fakes.mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("side", [96, 160])
def test_a_blended_face_comes_beside_what_it_was_before_with_a_seam_in_sight(faces, side):
    config = CONFIG.model_copy(update={"shares": {"real_face": 0.5, "blended": 0.5}})
    sampler = Sampler(*faces, config)
    stage = config.stages[0].model_copy(update={"side": side, "batch": 8})
    for step in range(5):
        batch = sampler.batch(step, stage)
        before, after = batch.faces[~batch.fake].astype(int), batch.faces[batch.fake].astype(int)
        # Places of FaceNet's fine map: its stem takes 13 pixels on either side.
        places = len(range(13, side - 13, 8))
        assert batch.seams.shape == (8, places, places)
        assert batch.seams_known.all()
        assert batch.seams[~batch.fake].max() == 0
        assert (batch.seams[batch.fake].max(axis=(1, 2)) > 0).mean() > 0.5
        changed = np.abs(before - after).max(axis=3)
        assert (changed.max(axis=(1, 2)) > 0).all()
        assert np.median(changed) < 12, "most of the face is the same"


def test_where_generated_faces_have_seams_nobody_knows(faces):
    config = CONFIG.model_copy(update={"shares": {"real_face": 0.5, "fake_face": 0.5}})
    batch = Sampler(*faces, config).batch(0, config.stages[0])
    assert np.array_equal(batch.seams_known, ~batch.fake)


def test_without_faces_nothing_is_trained():
    with pytest.raises(ValueError, match="cut them first"):
        Sampler([], [], CONFIG)


def test_patches_are_kept_and_pictures_without_a_face_are_not_looked_at_again(tmp_path):
    store = PatchStore(tmp_path / "patches")
    store.add([(patch(1, "real_face"), drawn_face(1))], ["nobody"])
    store.add([(patch(2, "fake_face"), drawn_face(2)), (patch(3, "fake_face"), drawn_face(3))], [])
    store.add([], ["neither"])
    patches, pixels = PatchStore(tmp_path / "patches").read()
    assert patches == [patch(1, "real_face"), patch(2, "fake_face"), patch(3, "fake_face")]
    assert np.array_equal(pixels[2], drawn_face(3))
    assert store.done() == {"nobody", "neither"} | {one.id for one in patches}
