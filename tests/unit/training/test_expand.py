"""From sources to the manifest: what is dropped, and what stays together."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from tests.unit.training.conftest import as_file, scene
from training.data.expand import expand
from training.data.hashing import dhash, mirrored, near_pairs, nearest, packed
from training.data.manifest import ManifestError, read_manifest, write_manifest
from training.data.sources import PictureSet, Source, read_shared
from training.data.splits import SplitRules, _Rule

KINDS = ("photograph", "generated", "edited", "forged", "real_face", "fake_face", "drawn")


def rules(by="maker", **named):
    """All pictures train, but for what is named: dev=(...), calibrate=(...)."""
    chosen = {split: tuple(named.get(split, ())) for split in ("dev", "calibrate", "train")}
    return SplitRules(seed=1, dev=0.0, calibrate=0.0, rules={kind: _Rule(by, chosen) for kind in KINDS})


def source(commit, *sets, name="pictures"):
    made = tuple(PictureSet(source=name, **{"files": ("*",), **entry}) for entry in sets)
    return Source(
        name=name, repository="someone/pictures", commit=commit, licence="x", publishable=False, about="x", sets=made
    )


def expanded(settings, make_repository, files, *sets, splits=None):
    commit = make_repository("someone/pictures", files)
    return expand([source(commit, *sets)], None, splits or rules(), settings)


GENERATED = {"kind": "generated", "maker": "{parent}"}


def test_a_row_says_where_the_picture_is_and_what(settings, make_repository):
    content = as_file(scene(1, 300))
    result = expanded(settings, make_repository, {"sdxl/1.png": content}, {**GENERATED, "crop": (0.0, 0.0, 1.0, 0.8)})
    (row,) = result.rows
    assert (row.kind, row.maker, row.source, row.path, row.split) == (
        "generated", "sdxl", "pictures", "sdxl/1.png", "train")  # fmt: skip
    assert (row.width, row.height, row.crop) == (300, 300, "0 0 1 0.8")
    assert row.dhash == dhash(scene(1, 300)[:240])
    assert not result.dropped


def test_what_cannot_be_used_is_dropped_and_counted(settings, make_repository):
    files = {
        "a/good.png": as_file(scene(1)),
        "a/pointer.png": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "a/broken.jpg": as_file(scene(2), "JPEG")[:400],
        "a/small.png": as_file(scene(3, 100)),
        "a/again.png": as_file(scene(1)),
    }
    result = expanded(settings, make_repository, files, GENERATED)
    assert len(result.rows) == 1
    assert result.dropped["pictures"] == {
        "pointer to a file elsewhere": 1, "unreadable": 1, "too small": 1, "the same file again": 1}  # fmt: skip


def test_of_pictures_that_look_alike_one_is_kept_and_of_the_left_out_maker(settings, make_repository):
    files = {
        "learned/1.png": as_file(scene(1)),
        "learned/2.jpg": as_file(scene(1, 400), "JPEG", quality=70),
        "learned/3.png": as_file(scene(2)),
        "left_out/4.jpg": as_file(scene(1, 260), "JPEG", quality=80),
    }
    result = expanded(settings, make_repository, files, GENERATED, splits=rules(dev=["left_*"]))
    assert {(row.path, row.split) for row in result.rows} == {("left_out/4.jpg", "dev"), ("learned/3.png", "train")}
    assert result.dropped["pictures"] == {"looks like another": 2}


def test_contrary_labels_of_one_picture_drop_both(settings, make_repository):
    files = {"ai/1.png": as_file(scene(1)), "photo/1.jpg": as_file(scene(1), "JPEG"), "photo/2.png": as_file(scene(2))}
    result = expanded(
        settings,
        make_repository,
        files,
        {**GENERATED, "files": ("ai/*",)},
        {"kind": "photograph", "maker": "phone", "files": ("photo/*",)},
    )
    assert [row.path for row in result.rows] == ["photo/2.png"]
    assert result.dropped["pictures"] == {"like one of the contrary kind": 2}


def test_forgeries_follow_their_original_into_its_split(settings, make_repository):
    original, other = scene(1), scene(2)
    forged = original.copy()
    forged[60:90, 60:90] = other[60:90, 60:90]
    mask = np.zeros((240, 240), np.uint8)
    mask[60:90, 60:90] = 255
    files = {
        "original/1.png": as_file(original),
        "forged/x.png": as_file(forged),
        "forged/y.png": as_file(scene(3)),
        "masks/x.png": as_file(mask),
    }
    result = expanded(
        settings,
        make_repository,
        files,
        {"kind": "photograph", "maker": "camera", "files": ("original/*",)},
        {"kind": "forged", "maker": "splice", "files": ("forged/*",), "mask": "masks/{stem}.png"},
        splits=rules(dev=["camera"]),
    )
    (forgery,) = [row for row in result.rows if row.kind == "forged"]
    (photograph,) = [row for row in result.rows if row.kind == "photograph"]
    assert forgery.group == photograph.group
    assert forgery.split == photograph.split == "dev"
    assert len(forgery.mask_sha256) == 64
    assert result.dropped["pictures"] == {"no mask": 1}


def test_named_groups_stay_in_one_split(settings, make_repository):
    import re

    files = {f"{folder}/{number}_{folder}.png": as_file(scene(10 * number + place))
             for place, folder in enumerate(("a", "b")) for number in (1, 2)}  # fmt: skip
    group = re.compile(r"^(\d+)_")
    of_faces = {"kind": "fake_face", "maker": "{parent}", "group": group}
    result = expanded(settings, make_repository, files, of_faces, splits=rules(calibrate=["b"]))
    assert Counter(row.split for row in result.rows) == {"calibrate": 4}
    assert len({row.group for row in result.rows}) == 2
    # Generators are left out by maker even where they were given the same words.
    result = expanded(settings, make_repository, {}, {**of_faces, "kind": "generated"}, splits=rules(calibrate=["b"]))
    assert Counter(row.split for row in result.rows) == {"calibrate": 2, "train": 2}


def test_reserved_pictures_are_dropped_mirrored_or_not(settings, make_repository):
    settings.reserved.write_text(f"{dhash(scene(1))}\n{dhash(np.ascontiguousarray(scene(2)[:, ::-1]))}\n")
    files = {f"a/{seed}.jpg": as_file(scene(seed, 300), "JPEG") for seed in (1, 2, 3)}
    files["a/2.jpg"] = as_file(np.ascontiguousarray(scene(2, 300)[:, ::-1]), "JPEG")
    result = expanded(settings, make_repository, files, GENERATED)
    assert [row.path for row in result.rows] == ["a/3.jpg"]
    assert result.dropped["pictures"] == {"reserved": 2}


def test_the_collected_datas_dev_pictures_are_never_trained_on(settings, make_repository, tmp_path):
    folder = settings.shared_data / "photos"
    folder.mkdir(parents=True)
    for seed in (1, 2):
        (folder / f"{seed}.png").write_bytes(as_file(scene(seed)))
    (settings.shared_data / "splits.csv").write_text(
        "path,set,source,split\nphotos/1.png,photos,p//1,dev\nphotos/2.png,photos,p//2,train\n"
    )
    description = tmp_path / "shared.toml"
    description.write_text(
        '[[pictures]]\nsource = "shared/photos"\nkind = "photograph"\nmaker = "camera"\nfiles = ["photos/*"]\n'
    )
    near = np.clip(scene(1, 300).astype(int) + 6, 0, 255).astype(np.uint8)
    commit = make_repository("someone/pictures", {"a/1.jpg": as_file(near, "JPEG"), "a/3.png": as_file(scene(3))})
    result = expand(
        [source(commit, {"kind": "photograph", "maker": "phone"})], read_shared(description), rules(), settings
    )
    assert {row.path: row.split for row in result.rows} == {
        "photos/1.png": "dev", "photos/2.png": "train", "a/3.png": "train"}  # fmt: skip
    assert result.dropped["pictures"] == {"like a dev picture": 1}


def test_a_source_that_cannot_be_had_is_told_and_the_rest_goes_on(settings, make_repository, monkeypatch):
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")  # no network in tests: https goes nowhere
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "url.file:///nowhere/.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "https://github.com/")
    commit = make_repository("someone/pictures", {"a/1.png": as_file(scene(1))})
    lost = Source(name="lost", repository="no/where", commit="0" * 40, licence="x", publishable=False, about="x",
                  sets=(PictureSet(source="lost", files=("*",), kind="generated", maker="x"),))  # fmt: skip
    result = expand([lost, source(commit, GENERATED)], None, rules(), settings)
    assert len(result.rows) == 1
    assert list(result.unavailable) == ["lost"]


def test_a_manifest_is_read_as_it_was_written(settings, make_repository, tmp_path):
    result = expanded(
        settings, make_repository, {"a/1.png": as_file(scene(1)), "b/2.png": as_file(scene(2))}, GENERATED
    )
    size = write_manifest(result.rows, tmp_path / "manifest")
    assert size == (tmp_path / "manifest" / "generated.csv").stat().st_size
    assert sorted(read_manifest(tmp_path / "manifest"), key=lambda row: row.id) == sorted(
        result.rows, key=lambda row: row.id
    )
    with pytest.raises(ManifestError, match="no manifest"):
        read_manifest(tmp_path / "nothing")
    (tmp_path / "manifest" / "generated.csv").write_text("id,kind\n1,generated\n")
    with pytest.raises(ManifestError, match="expected the columns"):
        read_manifest(tmp_path / "manifest")


def test_hashes_find_the_same_picture_in_another_size():
    first, again, other = scene(1, 240), scene(1, 500), scene(2)
    hashes = packed([dhash(first), dhash(other), dhash(again)])
    ((earlier, later, distance),) = near_pairs(hashes, 14)
    assert (earlier, later) == (0, 2)
    assert distance <= 4
    assert nearest(hashes[1:2], hashes[[0, 2]])[0] > 60
    mirror = packed([dhash(np.ascontiguousarray(first[:, ::-1])), mirrored(dhash(first))])
    assert nearest(mirror[:1], mirror[1:])[0] <= 12


def test_the_hash_is_the_one_of_lists_of_reserved_pictures():
    grey = Image.fromarray(scene(5)).convert("L").resize((17, 16), Image.Resampling.LANCZOS)
    px = grey.tobytes()
    expected = sum((px[r * 17 + c] > px[r * 17 + c + 1]) << (r * 16 + c) for r in range(16) for c in range(16))
    assert int(dhash(scene(5)), 16) == expected
