"""Two things of a kind differ from a thing and its copy: by grain, place, light and colour."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from skimage import data

from services.passive.detectors._copy_move import repetition
from services.passive.detectors._copy_move.geometry import CandidateMap, apply
from services.passive.detectors._copy_move.repetition import FEATURES, features_of
from services.passive.detectors._copy_move.verify import NO_TEXTURE, Measurements, Verified, verify
from services.passive.detectors.copy_move import DECISION_SCORE, find_copy_moves

RGB = NDArray[np.uint8]

SOURCE = (slice(70, 190), slice(330, 450))
COPY = (slice(230, 350), slice(60, 180))
SHIFT = np.array([60 - 330, 230 - 70], np.float64)


def scene(*, own_grain: float = 0.0, bend: float = 0.0, gain: float = 1.0, slope: float = 0.0) -> RGB:
    """The coffee cup with a square of it shown twice; the second one bent, lit and with grain of its own.

    Light may fall off across it by `slope` grey levels, more of them in red.
    """
    rgb = cv2.GaussianBlur(data.coffee(), (0, 0), 1.0).astype(np.float32)
    square = rgb[SOURCE].copy()
    if bend:
        y, x = np.mgrid[0:120, 0:120].astype(np.float32)
        square = cv2.remap(square, x + bend * np.sin(y / 9), y + bend * np.sin(x / 9), cv2.INTER_CUBIC, borderMode=1)
    square += slope * np.linspace(-0.5, 0.5, 120, dtype=np.float32)[None, :, None] * np.float32([2.0, 1.0, 1.0])
    grain = np.random.default_rng(2).normal(0.0, 3.0, rgb.shape)
    noisy = rgb + grain
    noisy[COPY] = gain * square + grain[SOURCE]
    noisy += own_grain * np.random.default_rng(3).normal(0.0, 1.0, rgb.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def seen_twice(rgb: RGB, off: NDArray[np.float64] | None = None) -> Verified:
    """What is verified of the square's map; `off` (2, 3) is added to the map, and to the copy's points."""
    colours = cv2.cvtColor(rgb, cv2.COLOR_RGB2YCrCb).astype(np.float32)
    p = np.array([[x, y] for x in (340.0, 390.0, 440.0) for y in (80.0, 130.0, 180.0)])
    transform = np.column_stack([np.eye(2), SHIFT])
    if off is not None:
        transform = transform + off
    candidate = CandidateMap(transform=transform, p=p, q=apply(transform, p), way="keypoints")
    verified = verify(
        cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32), [colours[..., 1], colours[..., 2]], candidate
    )
    assert verified is not None
    return verified


def measured(rgb: RGB) -> Measurements:
    return seen_twice(rgb).measurements


def test_a_copy_agrees_in_everything() -> None:
    exact = measured(scene())

    assert exact.middle > 0.95
    assert exact.flat_fine > 0.95
    assert exact.grain_ratio < 0.3
    assert 0.0 <= exact.wobble < 0.05
    assert exact.residue < 1.0
    assert exact.chroma < 1.0
    assert exact.beyond < 0.5 < exact.cliff


def test_a_map_is_aligned_on_the_pixels() -> None:
    """One that is 1.5 pixels off, and enlarges and turns by 1 %, becomes the true one; in other light, too."""
    about = np.array([390.0, 130.0])
    linear = np.array([[0.01, -0.01], [0.01, 0.01]])
    off = np.column_stack([linear, np.array([1.5, -1.0]) - linear @ about])

    for rgb in (scene(), scene(gain=0.8)):
        aligned = seen_twice(rgb, off)
        corners = np.array([[330.0, 70.0], [450.0, 70.0], [330.0, 190.0], [450.0, 190.0]])
        assert np.abs(apply(aligned.transform, corners) - corners - SHIFT).max() < 0.1


def test_the_mask_ends_where_the_copy_does() -> None:
    mask = seen_twice(scene()).copy_mask

    inside = mask[COPY].sum()
    assert inside > 0.7 * 120 * 120
    assert mask.sum() - inside < 0.01 * 120 * 120


def test_grain_of_its_own_shows() -> None:
    noisy = measured(scene(own_grain=6.0))

    assert noisy.flat_fine < 0.5
    assert noisy.grain_ratio > 0.6


def test_a_bend_shows_as_wobble() -> None:
    assert measured(scene(bend=0.8)).wobble > 0.2 > measured(scene()).wobble


def test_other_light_shows() -> None:
    assert measured(scene(gain=0.8)).gain == pytest.approx(-np.log(0.8), abs=0.05)
    assert measured(scene(gain=0.8)).offset > 10


def test_light_that_falls_off_shows_though_the_median_does_not() -> None:
    exact, lit = measured(scene()), measured(scene(slope=24.0))

    assert exact.shading < 1.0
    assert exact.chroma_most < 1.5
    assert lit.shading > 4.0
    assert lit.chroma_most > lit.chroma + 1.0
    assert lit.offset < 1.5


def test_where_nothing_is_distinct_there_is_no_wobble_to_measure() -> None:
    stripes = np.repeat(128 + 40 * np.sin(np.arange(512, dtype=np.float32) / 5.0)[None, :], 400, axis=0)
    stripes[:, 256:] = stripes[:, :256]
    p = np.array([[x, y] for x in (40.0, 120.0, 200.0) for y in (60.0, 200.0, 340.0)])
    shift = np.array([256.0, 0.0])
    plane = np.zeros_like(stripes)

    verified = verify(
        stripes,
        [plane, plane],
        CandidateMap(transform=np.column_stack([np.eye(2), shift]), p=p, q=p + shift, way="keypoints"),
    )

    assert verified is not None
    assert verified.measurements.wobble == NO_TEXTURE


def test_things_of_a_kind_are_not_accused_and_their_copy_is() -> None:
    """Nine equal signs, each a little elsewhere, in its own light and grain; then one copied on another."""
    rng = np.random.default_rng(4)
    sign = cv2.resize(data.astronaut()[0:200, 130:330], (90, 90), interpolation=cv2.INTER_AREA).astype(np.float32)
    wall = cv2.resize(data.coffee(), (480, 480), interpolation=cv2.INTER_AREA).astype(np.float32)
    places = [(30 + 150 * column, 30 + 150 * row) for row in range(3) for column in range(3)]
    for x, y in places:
        at = np.array([[1.0, 0.0, x + rng.uniform(-2, 2)], [0.0, 1.0, y + rng.uniform(-2, 2)]])
        weight = cv2.warpAffine(np.ones((90, 90), np.float32), at, (480, 480))[..., None]
        wall = wall * (1 - weight) + cv2.warpAffine(sign, at, (480, 480)) * weight * rng.uniform(0.85, 1.1)
    honest = np.clip(np.rint(wall + rng.normal(0, 4, wall.shape)), 0, 255).astype(np.uint8)
    forged = honest.copy()
    forged[330:430, 40:140] = honest[180:280, 180:280]

    assert find_copy_moves(honest).score < DECISION_SCORE
    assert find_copy_moves(forged).score >= DECISION_SCORE


def test_features_are_as_many_as_their_names() -> None:
    one = measured(scene())

    features = features_of(one, "dense", [one])

    assert len(features) == len(FEATURES)
    assert dict(zip(FEATURES, features, strict=True))["way"] == 1.0


def test_many_that_agree_as_well_are_a_family() -> None:
    one, others = measured(scene()), [measured(scene()) for _ in range(4)]

    assert features_of(one, "keypoints", [one])[FEATURES.index("family")] == 0.0
    assert features_of(one, "keypoints", [one, *others])[FEATURES.index("family")] == 3.0


def test_of_a_large_map_the_middle_can_be_looked_at_alone() -> None:
    rgb = scene()
    whole = seen_twice(rgb)
    middle = np.abs(whole.candidate.q - whole.candidate.q.mean(axis=0)).max(axis=1) < 30
    colours = cv2.cvtColor(rgb, cv2.COLOR_RGB2YCrCb).astype(np.float32)
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32)
    corner = whole.candidate.q == whole.candidate.q.min(axis=0)

    part = verify(grey, [colours[..., 1], colours[..., 2]], whole.candidate, part=middle | corner.all(axis=1))

    assert part is not None
    assert (part.copy_mask & ~whole.copy_mask).mean() < 0.001
    assert 0.1 < part.copy_mask.sum() / whole.copy_mask.sum() < 0.8
    assert part.measurements.flat_fine > 0.95


def test_a_model_of_other_features_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = json.loads(repetition.MODEL.read_text(encoding="utf-8"))
    document["features"] = document["features"][:-1]
    path = tmp_path / "repetition.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    monkeypatch.setattr(repetition, "MODEL", path)
    repetition._model.cache_clear()

    try:
        with pytest.raises(ValueError, match="other features"):
            repetition._model()
    finally:
        repetition._model.cache_clear()
