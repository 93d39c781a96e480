"""Copies are planted in photographs (scikit-image's own) and must be found where they are; their twins left alone."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from threading import Event
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from skimage import data

from services.common.detection import Applicability, Finding, Question, RegionRole, Technique
from services.common.images import Picture
from services.passive.detectors import registry
from services.passive.detectors._copy_move import search
from services.passive.detectors._copy_move.field import find_dense_maps, sow
from services.passive.detectors._copy_move.verify import Verified, verify
from services.passive.detectors.copy_move import (
    DECISION_SCORE,
    MAX_DRAWN_MATCHES,
    MAX_OVERLAP,
    detect_copy_move,
    find_copy_moves,
)

RGB = NDArray[np.uint8]
Mask = NDArray[np.bool_]

PHOTOGRAPHS: dict[str, Callable[[], RGB]] = {
    "astronaut": data.astronaut,
    "chelsea": data.chelsea,
    "coffee": data.coffee,
    "rocket": data.rocket,
}

# In each photograph a textured disc (x, y, radius) and a place that it fits in (x, y).
PLACES: dict[str, tuple[tuple[int, int, int], tuple[int, int]]] = {
    "astronaut": ((225, 110, 60), (390, 400)),
    "chelsea": ((150, 120, 55), (370, 210)),
    "coffee": ((370, 265, 60), (90, 90)),
}


def plant(
    rgb: RGB, place: str, *, degrees: float = 0.0, scale: float = 1.0, mirrored: bool = False
) -> tuple[RGB, Mask, Mask]:
    """The picture with a disc of it pasted elsewhere, and the masks of source and copy."""
    (x, y, radius), (to_x, to_y) = PLACES[place]
    height, width = rgb.shape[:2]
    transform = cv2.getRotationMatrix2D((x, y), -degrees, scale)  # OpenCV's angle is anticlockwise
    transform[:, 2] += [to_x - x, to_y - y]
    if mirrored:
        transform = transform @ np.array([[-1.0, 0.0, 2.0 * x], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    source = np.zeros((height, width), np.float32)
    cv2.circle(source, (x, y), radius, 1.0, cv2.FILLED)
    weight = cv2.GaussianBlur(cv2.warpAffine(source, transform, (width, height)), (0, 0), 1.0)[..., None]
    moved = cv2.warpAffine(rgb, transform, (width, height), flags=cv2.INTER_CUBIC)
    forged = np.clip(rgb * (1 - weight) + moved * weight + 0.5, 0, 255).astype(np.uint8)
    return forged, source > 0, weight[..., 0] > 0.5


def jpeg(rgb: RGB, quality: int) -> RGB:
    _, file = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.ascontiguousarray(cv2.imdecode(file, cv2.IMREAD_COLOR)[..., ::-1])


def examine(rgb: RGB) -> Finding:
    return detect_copy_move(Picture.from_array(rgb))


def overlap(finding: Finding, truth: Mask) -> float:
    """Intersection over union of the outlines of both roles with the true mask."""
    drawn = np.zeros(truth.shape, np.uint8)
    for region in finding.regions:
        corners = np.array([[point.x - 0.5, point.y - 0.5] for point in region.polygon])
        cv2.fillPoly(drawn, [np.round(corners).astype(np.int32)], 1)
    found = drawn > 0
    return float((found & truth).sum() / (found | truth).sum())


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_leaves_honest_photographs_alone(name: str) -> None:
    finding = examine(PHOTOGRAPHS[name]())

    assert finding.applicability is Applicability.APPLIED
    assert finding.score is not None
    assert finding.score < DECISION_SCORE
    assert finding.technique is None
    assert finding.regions == ()
    assert "No copied region" in finding.explanation


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize(("degrees", "scale"), [(0.0, 1.0), (25.0, 1.0), (-100.0, 1.0), (0.0, 1.25), (15.0, 0.85)])
def test_finds_a_planted_copy_where_it_is(name: str, degrees: float, scale: float) -> None:
    forged, source, copy = plant(PHOTOGRAPHS[name](), name, degrees=degrees, scale=scale)

    finding = examine(forged)

    assert finding.score is not None
    assert finding.score >= DECISION_SCORE
    assert finding.technique is Technique.COPY_MOVE
    assert {region.role for region in finding.regions} == {RegionRole.SOURCE, RegionRole.COPY}
    assert overlap(finding, source | copy) > 0.6
    best = finding.details["clusters"][0]
    # Which end is the copy is a guess, so the transform may be the inverse.
    turned = best["rotation_degrees"] * (1 if math.copysign(1, best["rotation_degrees"]) == np.sign(degrees) else -1)
    assert turned == pytest.approx(degrees, abs=1.5)
    assert max(best["scale"], 1 / best["scale"]) == pytest.approx(max(scale, 1 / scale), rel=0.03)


@pytest.mark.parametrize("name", PLACES)
def test_finds_half_a_turn_which_is_its_own_inverse(name: str) -> None:
    forged, source, copy = plant(PHOTOGRAPHS[name](), name, degrees=180.0)

    finding = examine(forged)

    assert finding.score is not None
    assert finding.score >= DECISION_SCORE
    assert overlap(finding, source | copy) > 0.6
    assert abs(finding.details["clusters"][0]["rotation_degrees"]) == pytest.approx(180.0, abs=1.5)


@pytest.mark.parametrize("name", PLACES)
def test_survives_jpeg(name: str) -> None:
    rgb = PHOTOGRAPHS[name]()
    forged, source, copy = plant(rgb, name, degrees=10.0)

    assert overlap(examine(jpeg(forged, 75)), source | copy) > 0.5
    assert examine(jpeg(rgb, 75)).regions == ()


def test_says_what_was_done() -> None:
    forged, _, copy = plant(data.astronaut(), "astronaut", degrees=20.0)

    finding = examine(forged)

    assert "appears twice: rotated 20 degrees" in finding.explanation
    best = finding.details["clusters"][0]
    assert best["area_px"] == pytest.approx(copy.sum(), rel=0.3)
    assert math.hypot(*best["translation"]) == pytest.approx(math.hypot(390 - 225, 400 - 110), abs=25)
    assert 4 <= len(finding.details["matched_points"]) <= MAX_DRAWN_MATCHES
    assert finding.log10_likelihood_ratio is not None
    assert finding.log10_likelihood_ratio > 0
    assert not finding.calibrated
    json.dumps(finding.details)


@pytest.mark.parametrize(("name", "degrees"), [("astronaut", 0.0), ("coffee", 40.0)])
def test_finds_a_mirrored_copy(name: str, degrees: float) -> None:
    forged, source, copy = plant(PHOTOGRAPHS[name](), name, degrees=degrees, mirrored=True)

    best = find_copy_moves(forged).regions[0]

    truth, found = source | copy, best.source_mask | best.copy_mask
    assert best.score >= DECISION_SCORE
    assert best.mirrored
    assert (found & truth).sum() / (found | truth).sum() > 0.6


@pytest.mark.parametrize("quarters", [1, 2])
def test_a_turned_picture_gives_the_turned_answer(quarters: int) -> None:
    forged, source, copy = plant(data.coffee(), "coffee", degrees=15.0)

    turned = examine(np.ascontiguousarray(np.rot90(forged, quarters)))

    assert overlap(turned, np.rot90(source | copy, quarters)) > 0.6


def test_the_dense_field_stops_once_it_is_enough() -> None:
    enough = Event()
    sown = sow(data.astronaut())
    assert find_dense_maps(sown, enough=enough)

    enough.set()

    assert find_dense_maps(sown, enough=enough) == []


@pytest.mark.parametrize(("agrees", "whole"), [(True, False), (False, True)])
def test_the_middle_of_a_large_map_speaks_for_it_only_if_enough_of_it_agrees(
    monkeypatch: pytest.MonkeyPatch, agrees: bool, whole: bool
) -> None:
    texture = cv2.GaussianBlur(np.random.default_rng(2).normal(0, 1, (760, 1000)).astype(np.float32), (0, 0), 2.0)
    scene = np.clip(128 + 150 * texture, 0, 255).astype(np.uint8)
    scene[400:700, 600:900] = scene[150:450, 150:450]

    def verify_little(*given: Any, **named: Any) -> Verified | None:
        verified = verify(*given, **named)
        if verified is None or verified.whole or agrees:
            return verified
        return dataclasses.replace(verified, copy_mask=verified.copy_mask & (np.arange(1000) % 8 == 0))

    monkeypatch.setattr(search, "verify", verify_little)
    monkeypatch.setattr(search, "DOUBT", math.inf)

    best = find_copy_moves(np.repeat(scene[..., None], 3, axis=2)).regions[0]

    assert (best.area_px > 0.7 * 300 * 300) is whole


def test_the_dense_field_alone_finds_what_has_few_keypoints() -> None:
    rng = np.random.default_rng(5)
    cloud = cv2.GaussianBlur(rng.normal(0, 1, (360, 480)).astype(np.float32), (0, 0), 4.0)
    sky = np.clip(150 + 60 * cloud + rng.normal(0, 1.0, cloud.shape), 0, 255).astype(np.uint8)
    sky[220:290, 300:380] = sky[60:130, 40:120]
    forged = np.repeat(sky[..., None], 3, axis=2)
    truth = np.zeros(sky.shape, np.bool_)
    truth[220:290, 300:380] = truth[60:130, 40:120] = True

    result = find_copy_moves(forged, by_keypoints=False)

    assert result.score >= DECISION_SCORE
    best = result.regions[0]
    assert best.way == "dense"
    found = best.source_mask | best.copy_mask
    assert (found & truth).sum() / (found | truth).sum() > 0.6


def test_tells_the_copy_by_its_seam() -> None:
    forged, source, copy = plant(data.coffee(), "coffee", scale=1.25)

    best = find_copy_moves(forged).regions[0]

    assert (best.copy_mask & copy).sum() > (best.copy_mask & source).sum()
    assert best.direction > 0.0


def test_says_where_a_copy_would_show() -> None:
    rgb = data.coffee().copy()
    rgb[:200, :300] = 128

    finding = examine(rgb)

    assert finding.reliability_map is not None
    assert finding.heat_map is not None
    assert finding.reliability_map.shape == finding.heat_map.shape
    assert finding.reliability_map[:150, :250].max() < 0.1
    assert finding.reliability_map[200:, 300:].mean() > 0.5


def test_finds_two_clones_of_one_region() -> None:
    rgb = data.coffee()
    forged = rgb.copy()
    patch = rgb[70:170, 350:450]
    forged[250:350, 60:160] = patch
    forged[20:120, 40:140] = patch

    finding = examine(forged)

    truth = np.zeros(rgb.shape[:2], np.bool_)
    for top, left in ((70, 350), (250, 60), (20, 40)):
        truth[top : top + 100, left : left + 100] = True
    assert overlap(finding, truth) > 0.6


def test_marks_the_heat_map_at_working_size_and_outlines_at_full_size() -> None:
    forged, source, copy = plant(data.astronaut(), "astronaut")
    large = cv2.resize(forged, (1800, 1800), interpolation=cv2.INTER_CUBIC).astype(np.uint8)
    picture = Picture.from_array(large)
    assert picture.scale < 1.0

    finding = detect_copy_move(picture)

    assert finding.heat_map is not None
    assert finding.heat_map.dtype == np.float32
    assert finding.heat_map.shape == picture.working.shape[:2]
    assert finding.heat_map.min() >= 0.0
    assert finding.heat_map.max() == pytest.approx(finding.score)
    truth = cv2.resize((source | copy).astype(np.uint8), (1800, 1800), interpolation=cv2.INTER_NEAREST) > 0
    assert overlap(finding, truth) > 0.6


def test_a_mirrored_picture_gives_the_mirrored_answer() -> None:
    forged, source, copy = plant(data.chelsea(), "chelsea", degrees=30.0)

    mirrored = examine(np.ascontiguousarray(forged[:, ::-1]))

    assert overlap(mirrored, (source | copy)[:, ::-1]) > 0.6
    assert abs(mirrored.details["clusters"][0]["rotation_degrees"]) == pytest.approx(30.0, abs=1.5)


def test_the_same_picture_gives_the_same_answer() -> None:
    forged, _, _ = plant(data.coffee(), "coffee", degrees=12.0)

    first, second = examine(forged), examine(forged)

    assert first.score == second.score
    assert first.regions == second.regions
    assert first.details == second.details


class HelpfulThread(Executor):
    """A second thread that has done everything by the time that it is asked for."""

    def submit(self, work, /, *arguments, **options):
        done = Future()
        done.set_result(work(*arguments, **options))
        return done


class LazyThread(Executor):
    """A second thread that begins nothing before it is waited for."""

    def submit(self, work, /, *arguments, **options):
        begun = Future()
        begun.result = lambda: work(*arguments, **options)
        return begun


@pytest.mark.parametrize("copied", [True, False])
def test_the_answer_is_the_same_whichever_thread_does_the_work(copied: bool, monkeypatch) -> None:
    rgb = plant(data.coffee(), "coffee")[0] if copied else data.coffee()
    answers = []
    for second in (HelpfulThread, LazyThread, ThreadPoolExecutor):
        monkeypatch.setattr(search, "ThreadPoolExecutor", lambda _, second=second: second())
        answers.append(find_copy_moves(rgb))
    assert answers[0].regions
    for answer in answers:
        assert answer.dense is not copied, "once a copy is certain, the dense field is given up"
        assert answer.matches == answers[0].matches
        assert [region.score for region in answer.regions] == [region.score for region in answers[0].regions]
        for region, first in zip(answer.regions, answers[0].regions, strict=True):
            assert (region.source_mask == first.source_mask).all()
            assert (region.copy_mask == first.copy_mask).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (63, 900), (8, 8)])
def test_does_not_apply_to_tiny_pictures(shape: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)

    finding = examine(noise)

    assert finding.applicability is Applicability.NOT_APPLICABLE
    assert "too small" in finding.explanation


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_does_not_apply_to_plain_pictures(grey: int) -> None:
    finding = examine(np.full((300, 400, 3), grey, np.uint8))

    assert finding.applicability is Applicability.NOT_APPLICABLE
    assert "too plain" in finding.explanation


def test_a_gradient_is_too_plain() -> None:
    ramp = np.linspace(0, 255, 600).astype(np.uint8)

    assert examine(np.tile(ramp[None, :, None], (400, 1, 3))).applicability is Applicability.NOT_APPLICABLE


def test_noise_is_no_copy() -> None:
    noise = np.random.default_rng(3).integers(0, 256, (400, 400, 3), dtype=np.uint8)

    assert find_copy_moves(noise).score < DECISION_SCORE


def test_a_symmetric_figure_is_no_copy_of_itself() -> None:
    quarter = data.coffee()[60:260, 330:530]
    half = np.concatenate([quarter, np.rot90(quarter, 1)], axis=1)
    figure = np.concatenate([half, np.rot90(half, 2)], axis=0)
    scene = cv2.resize(data.chelsea(), (800, 800)).astype(np.uint8)
    scene[350:450, 350:450] = cv2.resize(figure, (100, 100), interpolation=cv2.INTER_AREA)

    for region in find_copy_moves(scene).regions:
        assert (region.source_mask & region.copy_mask).sum() <= MAX_OVERLAP * region.copy_mask.sum()


def test_is_registered() -> None:
    spec, function = registry["copy_move"]

    assert function is detect_copy_move
    assert spec.question is Question.EDITED
    assert spec.techniques == (Technique.COPY_MOVE,)


def test_look_alikes_along_the_edges_of_a_plain_picture_are_no_hint():
    rgb = np.zeros((240, 320, 3), np.uint8)
    rgb[:120, :160] = 250
    _, content = cv2.imencode(".jpg", rgb, [cv2.IMWRITE_JPEG_QUALITY, 95])
    finding = detect_copy_move(Picture.from_array(cv2.imdecode(content, cv2.IMREAD_COLOR)))
    assert finding.applicability is Applicability.NOT_APPLICABLE
    assert "too plain" in finding.explanation
