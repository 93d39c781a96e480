"""Small copies: few keypoints, none of them distinct, that bear each other out."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from skimage import data

from services.passive.detectors._copy_move.geometry import Floats, apply, errors
from services.passive.detectors._copy_move.keypoints import MAX_SMALL_MAPS, KeypointPairs, find_small_maps
from services.passive.detectors._copy_move.search import find_copy_moves


def moved(*, degrees: float, scale: float, mirrored: bool) -> Floats:
    """About (60, 60), mirrored left to right first if it is, and then to (300, 200)."""
    angle = math.radians(degrees)
    linear = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    if mirrored:
        linear = linear @ np.diag([-1.0, 1.0])
    return np.column_stack([linear, [300.0, 200.0] - linear @ [60.0, 60.0]])


def scattered(rng: np.random.Generator, count: int) -> Floats:
    return np.asarray(rng.uniform(0, 500, (count, 2)), np.float64)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(("degrees", "scale"), [(0.0, 1.0), (30.0, 1.2), (-100.0, 0.8)])
def test_three_that_agree_are_a_map_among_many_that_do_not(degrees: float, scale: float, mirrored: bool) -> None:
    rng = np.random.default_rng(3)
    transform = moved(degrees=degrees, scale=scale, mirrored=mirrored)
    p = np.array([[50.0, 52.0], [71.0, 60.0], [58.0, 75.0]])
    pairs = KeypointPairs(
        p=np.concatenate([scattered(rng, 200), p]),
        q=np.concatenate([scattered(rng, 200), apply(transform, p)]),
        octaves=np.append(rng.uniform(-1, 1, 200), np.full(3, math.log2(scale))),
        rotations=np.append(rng.uniform(-3, 3, 200), np.full(3, math.radians(degrees))),
        mirrored=mirrored,
    )

    found = find_small_maps(pairs)

    assert errors(found[0].transform, p, apply(transform, p)).max() < 0.01
    assert len(found[0].p) == 3


def test_what_agrees_on_nothing_gives_no_map() -> None:
    rng = np.random.default_rng(4)
    pairs = KeypointPairs(
        p=scattered(rng, 100),
        q=scattered(rng, 100),
        octaves=rng.uniform(-1, 1, 100),
        rotations=rng.uniform(-3, 3, 100),
        mirrored=False,
    )

    assert find_small_maps(pairs) == []
    assert find_small_maps(pairs[np.arange(1)]) == []
    assert find_small_maps(KeypointPairs.none(mirrored=False)) == []


def test_a_pattern_gives_no_more_maps_than_are_worth_their_time() -> None:
    at = np.stack(np.meshgrid(np.arange(10.0, 500.0, 14.0), np.arange(10.0, 240.0, 14.0)), axis=2).reshape(-1, 2)
    pairs = KeypointPairs(
        p=at, q=at + np.array([0.0, 250.0]), octaves=np.zeros(len(at)), rotations=np.zeros(len(at)), mirrored=False
    )

    assert 1 <= len(find_small_maps(pairs)) <= MAX_SMALL_MAPS


def test_a_small_thing_that_no_cluster_tells_is_found() -> None:
    forged = data.astronaut().copy()
    forged[220:248, 375:403] = forged[389:417, 162:190]
    truth = np.zeros(forged.shape[:2], np.bool_)
    truth[220:248, 375:403] = truth[389:417, 162:190] = True
    _, file = cv2.imencode(".jpg", forged[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
    forged = np.ascontiguousarray(cv2.imdecode(file, cv2.IMREAD_COLOR)[..., ::-1])

    def seen(*, small: bool) -> list[float]:
        regions = find_copy_moves(forged, dense_pixels=0, mirrored=False, small=small).regions
        masks = [region.source_mask | region.copy_mask for region in regions]
        return [float((mask & truth).sum() / (mask | truth).sum()) for mask in masks]

    assert max(seen(small=True), default=0.0) > 0.5
    assert max(seen(small=False), default=0.0) < 0.1
