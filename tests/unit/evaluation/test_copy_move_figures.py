"""The table of planted copies and the ablation measure what they say."""

from __future__ import annotations

import pytest
from skimage import data

from evaluation.ablation import AblationBackend
from evaluation.copy_move import main, planted_cells
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
