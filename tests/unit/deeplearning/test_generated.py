"""How the picture is shown to the network, and what its score is taken for."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from services.common.detection import Applicability, Finding, Technique
from services.common.images import Picture
from services.common.triton import TritonClient
from services.deeplearning.clip import SIDE, input_tensor, whole_view
from services.deeplearning.detectors.generated import (
    ACCUSING_SCORE,
    MAX_LOG10,
    MIN_LOG10,
    detect_generated,
    log10_likelihood_ratio,
)


class Scored:
    """Stands in for Triton: answers every picture with one score, and keeps what it was shown."""

    def __init__(self, score: float) -> None:
        self.score = score
        self.shown: list[NDArray[Any]] = []

    async def infer(
        self, model: str, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str]
    ) -> dict[str, NDArray[Any]]:
        assert model == "generated"
        assert list(outputs) == ["score"]
        self.shown.append(inputs["pixel_values"])
        return {"score": np.array([[self.score]], np.float32)}


def look(score: float, rgb: NDArray[np.uint8] | None = None) -> tuple[Finding, Scored]:
    triton = Scored(score)
    pixels = np.random.default_rng(2).integers(0, 256, (300, 400, 3), dtype=np.uint8) if rgb is None else rgb
    picture = Picture.from_array(pixels)
    return asyncio.run(detect_generated(picture, cast("TritonClient", triton))), triton


@pytest.mark.parametrize(("height", "width"), [(224, 224), (100, 900), (900, 100), (2000, 3000), (225, 224)])
def test_the_view_is_the_middle_square_at_the_encoders_size(height: int, width: int):
    rgb = np.zeros((height, width, 3), np.uint8)
    rgb[:, : width // 2] = (255, 0, 0)
    view = whole_view(rgb)
    assert view.shape == (SIDE, SIDE, 3)
    assert view.dtype == np.uint8
    assert view[:, : SIDE // 2 - 8].mean(axis=(0, 1)).tolist() == [255.0, 0.0, 0.0]
    assert view[:, SIDE // 2 + 8 :].max() == 0


def test_a_picture_of_the_encoders_size_is_not_touched():
    rgb = np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    assert np.array_equal(whole_view(rgb), rgb)


def test_the_tensor_is_standardised_and_channels_come_first():
    tensor = input_tensor(np.full((SIDE, SIDE, 3), (255, 0, 128), np.uint8))
    assert tensor.shape == (1, 3, SIDE, SIDE)
    assert tensor.dtype == np.float32
    expected = [(1.0 - 0.48145466) / 0.26862954, -0.4578275 / 0.26130258, (128 / 255 - 0.40821073) / 0.27577711]
    assert tensor[0].mean(axis=(1, 2)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (10, 200, 90)])
def test_of_a_plain_picture_nothing_is_said(colour: tuple[int, int, int]):
    rgb = np.full((300, 400, 3), colour, np.uint8)
    rgb[::2, ::2] = np.maximum(rgb[::2, ::2], 4) - 4
    finding, asked = look(0.01, rgb)
    assert finding.applicability is Applicability.NOT_APPLICABLE
    assert "plain" in finding.explanation
    assert not asked.shown


def test_a_high_score_accuses_and_says_how_often_photographs_have_it():
    finding, triton = look(0.95)
    assert finding.score == pytest.approx(0.95)
    assert finding.technique is Technique.GENERATED
    assert finding.log10_likelihood_ratio == pytest.approx(np.log10(19), abs=1e-6)
    assert finding.calibrated
    assert "2 in 100" in finding.explanation
    assert triton.shown[0].shape == (1, 3, SIDE, SIDE)


def test_a_low_score_is_no_proof():
    finding, _ = look(0.02)
    assert finding.technique is None
    assert finding.log10_likelihood_ratio == MIN_LOG10
    assert "new to it often do" in finding.explanation


def test_between_the_two_nobody_is_accused():
    finding, _ = look(0.6)
    assert finding.technique is None
    assert "too little to accuse" in finding.explanation


def test_small_pictures_are_left_alone():
    finding, triton = look(0.9, np.zeros((127, 500, 3), np.uint8))
    assert finding.applicability is Applicability.NOT_APPLICABLE
    assert not triton.shown


@given(st.floats(0, 1), st.floats(0, 1))
def test_the_likelihood_ratio_grows_with_the_score_within_its_bounds(one: float, other: float):
    low, high = sorted((one, other))
    assert MIN_LOG10 <= log10_likelihood_ratio(low) <= log10_likelihood_ratio(high) <= MAX_LOG10


def test_even_odds_say_nothing():
    assert log10_likelihood_ratio(0.5) == 0.0
    assert log10_likelihood_ratio(ACCUSING_SCORE) > 0.3
