"""What is found in a reduced picture is aligned and outlined at full size, where that tells more."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from skimage import data

from services.common.detection import RegionRole
from services.common.images import Picture
from services.passive.detectors._copy_move import full_size
from services.passive.detectors._copy_move.full_size import MaskPart, at_full_size
from services.passive.detectors._copy_move.search import CopiedRegion, find_copy_moves
from services.passive.detectors.copy_move import detect_copy_move

RGB = NDArray[np.uint8]
Mask = NDArray[np.bool_]

SHIFT = (1_071, -337)
COPY = (1_650, 560, 150)


def pasted(degrees: float, scale: float) -> tuple[RGB, Mask, Mask, NDArray[np.float64]]:
    """A picture of 3.2 megapixels with grain and a copied disc, its source, its copy, and the map between them."""
    rng = np.random.default_rng(0)
    rgb = cv2.resize(data.coffee(), (2_191, 1_461), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    rgb += cv2.GaussianBlur(rng.normal(0, 12, rgb.shape).astype(np.float32), (0, 0), 1.0)
    x, y, radius = COPY
    height, width = rgb.shape[:2]
    source_x, source_y = x - SHIFT[0], y - SHIFT[1]
    forth = cv2.getRotationMatrix2D((source_x, source_y), degrees, scale) + np.array(
        [[0, 0, SHIFT[0]], [0, 0, SHIFT[1]]]
    )
    rows, columns = np.mgrid[:height, :width]
    copy = (columns - x) ** 2 + (rows - y) ** 2 < radius**2
    rgb[copy] = cv2.warpAffine(rgb, forth, (width, height), flags=cv2.INTER_CUBIC)[copy]
    source = (columns - source_x) ** 2 + (rows - source_y) ** 2 < (radius / scale) ** 2
    return np.clip(np.rint(rgb), 0, 255).astype(np.uint8), source, copy, forth


def f1(marked: Mask, true: Mask) -> float:
    return float(2 * np.count_nonzero(marked & true) / (np.count_nonzero(marked) + np.count_nonzero(true)))


def enlarged(mask: Mask, like: Mask) -> Mask:
    return cv2.resize(mask.astype(np.float32), like.shape[::-1], interpolation=cv2.INTER_LINEAR) > 0.5


def placed(part: MaskPart, shape: tuple[int, ...]) -> Mask:
    whole = np.zeros(shape, np.bool_)
    whole[part.top : part.top + part.mask.shape[0], part.left : part.left + part.mask.shape[1]] = part.mask
    return whole


def found_in(rgb: RGB) -> CopiedRegion:
    region = find_copy_moves(Picture.from_array(rgb).working).regions[0]
    assert region.score > 0.5
    return region


@pytest.fixture(scope="module")
def moved() -> tuple[RGB, CopiedRegion]:
    rgb, *_ = pasted(0.0, 1.0)
    return rgb, found_in(rgb)


@pytest.mark.parametrize(("degrees", "scale"), [(0.0, 1.0), (12.0, 1.15)])
def test_outline_and_map_are_exact_at_full_size(degrees: float, scale: float) -> None:
    rgb, source, copy, forth = pasted(degrees, scale)
    region = found_in(rgb)
    (exact,) = at_full_size(rgb, [region])
    assert exact is not None
    for part, reduced, at_working_size, true in (
        (exact.copy, exact.reduced_copy, region.copy_mask, copy),
        (exact.source, exact.reduced_source, region.source_mask, source),
    ):
        whole = placed(part, true.shape)
        assert f1(whole, true) > 0.975
        assert 1 - f1(whole, true) < 0.8 * (1 - f1(enlarged(at_working_size, true), true))
        assert f1(enlarged(reduced, true), true) > 0.97
    corners = np.array([COPY[:2]], np.float64) - SHIFT + COPY[2] / 2 * np.array([[-1, -1], [1, -1], [-1, 1], [1, 1]])
    off = corners @ (exact.transform - forth)[:, :2].T + (exact.transform - forth)[:, 2]
    assert np.linalg.norm(off, axis=1).max() < 0.5


def test_the_answer_is_that_of_full_size(monkeypatch: pytest.MonkeyPatch) -> None:
    rgb, _, copy, _ = pasted(0.0, 1.0)
    finding = detect_copy_move(Picture.from_array(rgb))
    (told,) = finding.details["clusters"][:1]
    assert told["translation"] == pytest.approx(SHIFT, abs=0.3)
    assert told["area_px"] == pytest.approx(np.count_nonzero(copy), rel=0.03)
    drawn = np.zeros(copy.shape, np.uint8)
    for region in finding.regions:
        if region.role is RegionRole.COPY:
            corners = [[point.x - 0.5, point.y - 0.5] for point in region.polygon]
            cv2.fillPoly(drawn, [np.rint(corners).astype(np.int32)], 1)
    assert f1(drawn > 0, copy) > 0.97

    monkeypatch.setattr(full_size, "MAX_PIXELS", 1_000)
    rougher = detect_copy_move(Picture.from_array(rgb))
    assert rougher.score == finding.score
    assert [region.role for region in rougher.regions] == [region.role for region in finding.regions]
    assert rougher.details["clusters"][0]["translation"] == pytest.approx(SHIFT, abs=5)


def test_what_full_size_does_not_bear_out_keeps_its_outline(moved: tuple[RGB, CopiedRegion]) -> None:
    rgb, region = moved
    elsewhere = region.transform + np.array([[0, 0, 40.0], [0, 0, 25.0]])
    assert at_full_size(rgb, [replace(region, transform=elsewhere)]) == [None]


def test_only_so_many_pixels_are_looked_at_and_the_first_regions_first(
    moved: tuple[RGB, CopiedRegion], monkeypatch: pytest.MonkeyPatch
) -> None:
    rgb, region = moved
    # The box of the source holds that of the copy, and a margin more.
    side = 2 * (COPY[2] + 2 * full_size.MARGIN)
    monkeypatch.setattr(full_size, "MAX_PIXELS", int(2.5 * side * side))
    seen = at_full_size(rgb, [region] * 4)
    assert [exact is not None for exact in seen] == [True, True, False, False]


def test_a_map_that_leads_out_of_the_picture_is_left_alone(moved: tuple[RGB, CopiedRegion]) -> None:
    rgb, region = moved
    outside = region.transform + np.array([[0, 0, 90_000.0], [0, 0, 0]])
    assert at_full_size(rgb, [replace(region, transform=outside)]) == [None]


def test_a_part_of_a_mask_is_outlined_where_it_lies() -> None:
    mask = np.zeros((20, 30), np.bool_)
    mask[5:10, 5:15] = True
    part = MaskPart(mask=mask, left=100, top=50, pixel=2.0)
    assert part.area == 200.0
    (corners,) = part.outlines(least_area=50)
    assert corners.min(axis=0).tolist() == [111.0, 61.0]
    assert corners.max(axis=0).tolist() == [129.0, 69.0]
    assert part.outlines(least_area=500) == []


def test_what_is_too_long_for_opencv_is_left_alone(moved: tuple[RGB, CopiedRegion]) -> None:
    _, region = moved
    mask = np.zeros((36, 36_000), np.bool_)
    mask[16:] = True
    region = replace(region, copy_mask=mask, transform=np.array([[1.0, 0, 0], [0, 1.0, 18.0]]))
    assert at_full_size(np.zeros((40, 40_000, 3), np.uint8), [region]) == [None]
