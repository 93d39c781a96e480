"""Decoded pictures: the right pixels, masks and objects; nothing is decoded twice."""

import dataclasses

import numpy as np
from PIL import Image

from training.localisation.store import MAX_SIDE, open_store


def test_pixels_and_masks_are_those_of_the_files(listed, store):
    assert len(store) == len(listed)
    for row, stored in zip(listed, store, strict=True):
        rgb, mask = stored.read()
        assert np.array_equal(rgb, np.asarray(Image.open(row.picture)))
        assert (mask is not None) == (row.mask is not None)
    assert np.array_equal(store[-1].read()[1], np.asarray(Image.open(listed[-1].mask)) > 127)


def test_what_is_decoded_stays(listed, tmp_path):
    first = open_store(listed, tmp_path)
    times = [stored.pixels.stat().st_mtime_ns for stored in first]
    assert [stored.pixels.stat().st_mtime_ns for stored in open_store(listed, tmp_path)] == times


def test_large_pictures_are_reduced_small_and_broken_ones_left_out(listed, tmp_path):
    def saved(name: str, height: int, width: int):
        Image.fromarray(np.full((height, width, 3), 99, np.uint8)).save(tmp_path / name)
        return dataclasses.replace(listed[0], picture=tmp_path / name)

    rows = [saved("large.png", 600, 2 * MAX_SIDE), saved("small.png", 60, 500)]
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nothing")
    rows.append(dataclasses.replace(listed[0], picture=tmp_path / "broken.png"))
    (stored,) = open_store(rows, tmp_path / "decoded")
    assert stored.read()[0].shape == (300, MAX_SIDE, 3)


def test_objects_lie_beside_the_pictures(listed, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    Image.fromarray(np.zeros((200, 200, 3), np.uint8)).save(tmp_path / "images" / "a.png")
    (tmp_path / "labels" / "a.txt").write_text("7 0.1 0.2 0.5 0.2 0.5 0.6\n")
    row = dataclasses.replace(listed[0], picture=tmp_path / "images" / "a.png")
    (stored,) = open_store([row], tmp_path / "decoded")
    assert stored.objects == (((0.1, 0.2), (0.5, 0.2), (0.5, 0.6)),)


def test_a_crop_is_cut_from_picture_and_mask(listed, tmp_path):
    row = dataclasses.replace(listed[-1], crop=(0.0, 0.2, 0.8, 1.0))
    (stored,) = open_store([row], tmp_path)
    rgb, mask = stored.read()
    assert np.array_equal(rgb, np.asarray(Image.open(row.picture))[40:, :160])
    assert np.array_equal(mask, np.asarray(Image.open(row.mask))[40:, :160] > 127)
