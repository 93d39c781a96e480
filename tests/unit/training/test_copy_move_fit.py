"""The trees that are written are the trees that were fitted, on pairs that are labelled as what they are."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from skimage import data

from services.passive.detectors._copy_move import repetition
from tests.unit.training.conftest import as_file
from training.copy_move import __main__ as commands
from training.copy_move import fitting
from training.copy_move.__main__ import main
from training.copy_move.fitting import fit, held_out, report, write_model
from training.copy_move.pairs import Pairs, label_of, regions_of
from training.copy_move.pictures import WORKED_OVER, Made, Task, make_picture, tasks
from training.copy_move.rendered import PAINTERS, products
from training.data.build import mask_path, picture_path
from training.data.manifest import Row

TELLING = repetition.FEATURES.index("over_noise")

FEW_TREES = 60


def synthetic(seed, *, pictures=120, difference=3.0):
    """Pairs of which one feature tells; even pictures are planted and have one copy each, odd ones are honest."""
    rng = np.random.default_rng(seed)
    of_picture = np.repeat(np.arange(pictures), 4)
    copied = (of_picture % 2 == 0) & (np.arange(len(of_picture)) % 4 == 0)
    features = rng.standard_normal((len(of_picture), len(repetition.FEATURES)))
    features[:, TELLING] -= difference * copied
    names = np.array([f"{seed}/{index}" for index in range(pictures)])
    return Pairs(
        features=features,
        copied=copied,
        pictures=of_picture,
        names=names,
        groups=np.array([str(index // 2 % 2) for index in range(pictures)]),  # two folds: a fit takes a second
        kinds=np.array(["planted", "honest"])[np.arange(pictures) % 2],
    )


@pytest.fixture(autouse=True)
def few_trees(monkeypatch):
    """Beside other work, scikit-learn's threads wait for each other at every tree: a few of them tell as much here."""
    monkeypatch.setattr(fitting, "TREES", FEW_TREES)


@pytest.fixture
def logits_of(monkeypatch, tmp_path):
    """Writes trees to a file and reads them as the detector does."""

    def read(trees, **options):
        write_model(trees, tmp_path / "model.json", **options)
        monkeypatch.setattr(repetition, "MODEL", tmp_path / "model.json")
        repetition._model.cache_clear()
        return repetition._model().logits

    yield read
    repetition._model.cache_clear()


def test_the_detector_reads_the_trees_that_were_fitted(logits_of):
    trees = fit(synthetic(1))
    logits = logits_of(trees, decision=0.9)
    unseen = synthetic(2).features
    expected = trees.decision_function(unseen) - np.log(0.9 / 0.1)
    assert np.ptp(expected) > 2.0
    assert logits(unseen) == pytest.approx(expected, abs=1e-4)


def test_the_feature_that_tells_is_found_and_chance_is_not():
    for difference, least, most in ((3.0, 0.9, 1.0), (0.0, 0.3, 0.7)):
        pairs = synthetic(3, difference=difference)
        probabilities = held_out(pairs)
        pairwise = probabilities[pairs.copied][:, None] > probabilities[~pairs.copied]
        assert least <= pairwise.mean() <= most


def test_what_speaks_for_a_copy_never_speaks_against_it():
    """Pairs in which the likest are no copies: the trees do not learn that from chance."""
    pairs = synthetic(7)
    features = pairs.features.copy()
    upside_down = features.copy()
    upside_down[:, TELLING] *= -1.0
    for table in (features, upside_down):
        trees = fit(dataclasses.replace(pairs, features=table))
        logits = []
        for over_noise in np.linspace(-4.0, 4.0, 9):
            table[:, TELLING] = over_noise
            logits.append(trees.decision_function(table))
        assert (np.diff(logits, axis=0) <= 1e-9).all()


def test_folds_do_not_learn_from_the_photograph_that_they_judge():
    """Four pictures a photograph that share a mark, which tells nothing of others: those left out stay in the dark."""
    pairs = synthetic(4, difference=0.0)
    photographs = pairs.pictures // 4
    copied = np.random.default_rng(4).random(photographs.max() + 1)[photographs] < 0.5
    features = pairs.features.copy()
    features[:, repetition.FEATURES.index("noise")] = photographs  # more of it may speak for or against
    marked = dataclasses.replace(pairs, features=features, copied=copied)
    apart = dataclasses.replace(marked, groups=np.array([str(index // 4 % 2) for index in range(len(pairs.names))]))

    def share_right(which):
        return ((held_out(which) > 0.5) == copied).mean()

    assert share_right(marked) > share_right(apart) + 0.2


def test_the_report_counts_pictures_found_and_names_the_accused():
    pairs = synthetic(5, pictures=4)
    probabilities = np.zeros(16)
    probabilities[0] = 0.95  # the copy of the first planted picture
    probabilities[9] = 0.99  # of the other planted picture a pair that is no copy: not found
    probabilities[6] = 0.91  # of the first honest one
    lines = report(pairs, probabilities, (0.9, 0.94)).splitlines()
    assert lines[1].split() == ["0.90", "1/2", "0/0", "1/2", "0/0"]
    assert lines[2].split() == ["0.94", "1/2", "0/0", "0/2", "0/0"]
    assert lines[3:] == ["accused: 5/1 (0.910)"]


def test_copies_alone_cannot_be_fitted():
    pairs = synthetic(6)
    with pytest.raises(ValueError, match="copies and look-alikes"):
        fit(dataclasses.replace(pairs, copied=np.ones_like(pairs.copied)))


def test_from_saved_pairs_to_the_file_of_the_detector(tmp_path, capsys):
    synthetic(1).save(tmp_path / "train.npz")
    synthetic(2).save(tmp_path / "calibrate.npz")
    files = [str(tmp_path / "train.npz"), "--calibrate", str(tmp_path / "calibrate.npz")]
    shipped = repetition.MODEL.read_bytes()
    assert main(["fit", *files, "--out", str(tmp_path / "model.json")]) == 0
    written = json.loads((tmp_path / "model.json").read_text())
    assert written["features"] == list(repetition.FEATURES)
    assert len(written["trees"]) == FEW_TREES
    assert capsys.readouterr().out.count("planted found") == 2
    assert repetition.MODEL.read_bytes() == shipped


def test_the_research_pictures_that_were_learnt_from_are_named(monkeypatch, capsys):
    def of(path, *, shared):
        return Task(name=path, kind="honest", group=path, rows=(SimpleNamespace(path=path, is_shared=shared),))

    chosen = [of("train/b.jpg", shared=True), of("photo.jpg", shared=False), of("train/a.jpg", shared=True)]
    chosen += [of("train/b.jpg", shared=True), Task(name="letters/1", kind="rendered", group="letters/1")]
    monkeypatch.setattr(commands, "tasks", lambda rows, data, split: chosen)
    monkeypatch.setattr(commands, "read_manifest", lambda *arguments, **options: [])
    assert main(["used"]) == 0
    assert capsys.readouterr().out.splitlines() == ["train/a.jpg", "train/b.jpg"]


def test_honest_photographs_that_are_whole_files_and_no_research_pictures_are_listed(monkeypatch, tmp_path, capsys):
    def of(kind="honest", *, shared=False, crop=""):
        row = SimpleNamespace(path="a/b.JPG", sha256="1" * 64, group="one", is_shared=shared, crop=crop)
        return Task(name=kind, kind=kind, group="one", rows=(row,))

    chosen = [of(), of(shared=True), of(crop="0 0 1 0.5"), of("planted"), Task(name="r", kind="rendered", group="r")]
    monkeypatch.setattr(commands, "tasks", lambda rows, data, split: chosen if split == "calibrate" else [])
    monkeypatch.setattr(commands, "read_manifest", lambda *arguments, **options: [])
    monkeypatch.setenv("PENTIMENTO_DATA", str(tmp_path))
    assert main(["photographs"]) == 0
    written = (tmp_path / "photographs.csv").read_text().splitlines()
    assert written == ["path,label,source", f"pictures/11/{'1' * 64}.jpg,honest,one"]
    assert capsys.readouterr().out.strip() == str(tmp_path / "photographs.csv")


def test_parts_are_joined_as_if_collected_at_once():
    parts = [synthetic(1, pictures=6), synthetic(2, pictures=4)]
    pairs = Pairs.joined(parts)
    assert len(pairs.names) == 10
    assert pairs.names[pairs.pictures].tolist() == [
        name for part in parts for name in part.names[part.pictures].tolist()
    ]
    assert (pairs.features == np.concatenate([part.features for part in parts])).all()
    assert pairs.copied.sum() == sum(part.copied.sum() for part in parts)
    assert len(pairs.groups) == len(pairs.kinds) == 10


# --- Pictures ---


@pytest.fixture
def photograph():
    return np.ascontiguousarray(data.astronaut()[:360, :400])


def planted(rgb):
    """A square of it twice, and where."""
    forged, truth = rgb.copy(), np.zeros(rgb.shape[:2], bool)
    forged[230:310, 20:100] = rgb[40:120, 180:260]
    truth[230:310, 20:100] = truth[40:120, 180:260] = True
    return Made(rgb=forged, truth=truth)


def test_the_planted_copy_is_labelled_and_nothing_in_the_honest_picture(photograph):
    tasks_of = [Task(name=kind, kind=kind, group="astronaut") for kind in ("planted", "honest")]
    pairs = Pairs.collect(zip(tasks_of, (planted(photograph), Made(rgb=photograph)), strict=True))
    assert pairs.names.tolist() == ["planted", "honest"]
    assert pairs.features.shape == (len(pairs.copied), len(repetition.FEATURES))
    assert pairs.copied[pairs.pictures == 0].sum() == 1
    assert not pairs.copied[pairs.pictures == 1].any()
    copy = pairs.features[pairs.copied][0]
    assert copy[repetition.FEATURES.index("flat_fine")] > 0.95
    assert copy[repetition.FEATURES.index("area")] == pytest.approx(np.log2(80 * 80), abs=0.3)


def test_the_dense_field_is_looked_at_also_where_keypoints_are_certain(photograph, monkeypatch):
    made = planted(photograph)
    called = []
    search = regions_of.__globals__["find_copy_moves"]
    monkeypatch.setitem(
        regions_of.__globals__, "find_copy_moves", lambda *a, **k: called.append(search(*a, **k)) or called[-1]
    )
    regions = regions_of(made)
    assert any(result.dense for result in called)
    assert sum(bool(label_of(region, "planted", made)) for region in regions) == 1  # not once for each way


def test_labels_follow_what_was_copied(photograph):
    made = planted(photograph)
    (region,) = (region for region in regions_of(made) if label_of(region, "planted", made))
    elsewhere = np.zeros_like(made.truth)
    elsewhere[:20] = True
    only_source = np.zeros_like(made.truth)
    only_source[40:120, 180:260] = True
    assert label_of(region, "rendered", Made(rgb=made.rgb)) is False
    assert label_of(region, "planted", Made(rgb=made.rgb, truth=elsewhere)) is False
    assert label_of(region, "forged", Made(rgb=made.rgb, truth=elsewhere)) is None
    assert label_of(region, "planted", Made(rgb=made.rgb, truth=only_source)) is None
    assert label_of(region, "forged", Made(rgb=made.rgb, truth=only_source)) is True


def row_of(number, kind="photograph", **fields):
    digits = f"{number:016x}"
    values = {"maker": "camera", "source": "photos", "path": f"{number}.png", "mask": "", "mask_sha256": "", "crop": ""}
    size = {"width": 400, "height": 360, "dhash": "0" * 64, "group": digits, "split": "train"}
    return Row(**{"id": digits, "kind": kind, "sha256": f"{number:064x}", **values, **size, **fields})


def test_tasks_are_of_the_split_and_what_is_there_and_make_the_same_picture_again(photograph, tmp_path):
    by_hand = row_of(
        3, "forged", maker="copy_move", source="shared/casia2_256", mask="m.png", mask_sha256="ab" * 32, path="f.png"
    )
    spliced = dataclasses.replace(by_hand, id="4" * 16, maker="splice")
    rows = [row_of(1), row_of(2, split="calibrate"), by_hand, spliced, row_of(9)]
    for row in rows[:4]:
        picture_path(tmp_path, row).parent.mkdir(parents=True, exist_ok=True)
        picture_path(tmp_path, row).write_bytes(as_file(photograph))
    truth = np.zeros((360, 400, 3), np.uint8)
    truth[40:120, 180:260] = 255
    mask_path(tmp_path, by_hand).parent.mkdir(parents=True)
    mask_path(tmp_path, by_hand).write_bytes(as_file(truth))

    chosen = tasks(rows, tmp_path, "train")
    of_photographs = {(task.kind, task.style in WORKED_OVER): task for task in chosen if not task.scene}
    assert len([task for task in chosen if not task.scene]) == 4
    assert {task.rows[0].id for task in of_photographs.values()} == {rows[0].id, by_hand.id}
    made = {kind: make_picture(task, tmp_path) for kind, task in of_photographs.items()}
    assert made["honest", False].truth is None
    assert made["forged", False].truth.mean() == pytest.approx(80 * 80 / (360 * 400), rel=0.05)
    for worked_over in (False, True):
        planted = made["planted", worked_over]
        assert 0.003 < planted.truth.mean() < 0.4
        again = make_picture(of_photographs["planted", worked_over], tmp_path)
        np.testing.assert_array_equal(again.rgb, planted.rgb)


def test_one_thing_is_copied_among_things_that_look_alike(tmp_path):
    chosen = tasks([], tmp_path, "train")
    among_alike = next(task for task in chosen if task.kind == "planted" and task.scene == "front")
    honest = next(task for task in chosen if task.kind == "rendered" and among_alike.name.endswith(task.name))

    assert make_picture(honest, tmp_path).truth is None
    assert 0.003 < make_picture(among_alike, tmp_path).truth.mean() < 0.4


def test_what_lies_on_even_ground_is_copied(tmp_path):
    """A strip of grey wall with discs in a picture of nothing but noise: the copy takes some of the wall."""
    wall = np.random.default_rng(3).integers(0, 255, (400, 400, 3)).astype(np.uint8)
    wall[:, 270:] = 120
    for y in range(40, 400, 50):
        cv2.circle(wall, (335, y), 14, (30, 30, 30), cv2.FILLED)
    row = row_of(1)
    picture_path(tmp_path, row).parent.mkdir(parents=True)
    picture_path(tmp_path, row).write_bytes(as_file(wall))
    task = Task(name="even", kind="planted", group="g", style="worked_over_even", rows=(row,))

    columns = make_picture(task, tmp_path).truth.nonzero()[1]
    assert (columns > 270).mean() > 0.35


@pytest.mark.parametrize("scene", PAINTERS)
def test_rendered_pictures_differ_by_seed_alone(scene):
    one, same, other = (PAINTERS[scene](240, 320, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert one.shape == (240, 320, 3)
    assert one.std() > 5
    np.testing.assert_array_equal(one, same)
    assert (one != other).mean() > 0.3


def test_products_stand_before_their_background(photograph):
    background = np.full((240, 320, 3), 250, np.uint8)
    seen = products(background, photograph, np.random.default_rng(1))
    assert seen.shape == background.shape
    assert (seen.mean(axis=2) < 120).mean() > 0.05
