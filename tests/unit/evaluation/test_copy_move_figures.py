"""The table of planted copies and the ablation measure what they say."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from skimage import data

from evaluation.ablation import AblationBackend
from evaluation.copy_move import LARGE, large_copies, main, planted_cells
from evaluation.forgery import Encoding, make_pair
from evaluation.subjects import make_backend
from services.common.detection import Applicability


def test_a_textured_copy_is_planted_and_found():
    cells = list(planted_cells([data.coffee()], series={"area": [0.05]}))

    assert [(cell.series, cell.level, cell.texture) for cell in cells] == [
        ("area", 0.05, "textured"),
        ("area", 0.05, "smooth"),
    ]
    assert (cells[0].planted, cells[0].found) == (1, 1)
    assert cells[0].pixel_f1 > 0.5


def test_copies_in_a_large_picture_are_outlined_better_at_full_size(monkeypatch):
    monkeypatch.setattr("evaluation.copy_move.LARGE", {"moved": LARGE["moved"]})
    rng = np.random.default_rng(0)
    photograph = cv2.resize(data.coffee(), (2400, 1600), interpolation=cv2.INTER_CUBIC)
    noisy = np.clip(np.rint(photograph + rng.normal(0, 3, photograph.shape)), 0, 255).astype(np.uint8)

    (outlined,) = large_copies([noisy])

    assert outlined.kind == "moved"
    assert outlined.working_f1 is not None
    assert outlined.full_f1 is not None
    assert 0.8 < outlined.working_f1 < outlined.full_f1


def test_a_folder_without_large_photographs_is_an_error(tmp_path, capsys):
    (tmp_path / "authentic").mkdir()
    cv2.imwrite(str(tmp_path / "authentic" / "small.png"), data.coffee()[..., ::-1])
    assert main(["large", str(tmp_path)]) == 2
    assert "2,000,000 pixels" in capsys.readouterr().err


def test_each_part_is_measured_by_itself():
    backend = make_backend("ablation:")
    pair = make_pair(
        data.coffee(), "copy_move", 3, Encoding(quality=95), clones=1, texture="textured", rotation=0.0, scale=1.0
    )

    measured = backend.measure(pair.forged, {subject.name for subject in backend.subjects()})

    parts = {"copy_move_keypoints", "copy_move_mirrored", "copy_move_small", "copy_move_dense"}
    assert set(measured) == {*parts, "copy_move_any"}
    assert {measurement.applicability for measurement in measured.values()} == {Applicability.APPLIED}
    assert measured["copy_move_any"].score == 1.0
    assert set(backend.measure(pair.forged, {"copy_move_mirrored"})) == {"copy_move_mirrored"}


def test_ablation_takes_no_argument():
    with pytest.raises(ValueError, match="no argument"):
        AblationBackend("dense")


def test_data_that_are_not_there_are_an_error(tmp_path, capsys):
    assert main(["planted", str(tmp_path / "none")]) == 2
    assert "does not exist" in capsys.readouterr().err
