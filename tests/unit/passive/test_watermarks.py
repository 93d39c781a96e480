"""Marks are embedded by the published encoder, written anew, and must be recovered; photographs have none."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from PIL import Image

from evaluation.watermarking import embed
from services.common.detection import Applicability, Direction, Question, Strength
from services.common.images import Picture, decode_image
from services.passive.detectors import registry
from services.passive.detectors.watermarks import (
    FALSE_POSITIVE_BOUND,
    PAYLOADS,
    Payload,
    binomial_tail,
    detect_watermarks,
    find_mark,
    hypotheses,
    threshold,
)

RGB = NDArray[np.uint8]
DATA = Path(__file__).resolve().parents[4] / "shared" / "data"
PHOTOGRAPHS = {"astronaut": skimage.data.astronaut, "chelsea": skimage.data.chelsea, "rocket": skimage.data.rocket}
BY_NAME = {payload.name: payload for payload in PAYLOADS}


def jpeg(rgb: RGB, quality: int, subsampling: int) -> RGB:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    return decode_image(buffer.getvalue()).rgb


def found(rgb: RGB) -> str | None:
    mark = find_mark(rgb)
    return mark.payload.name if mark is not None and mark.found else None


@pytest.mark.parametrize("payload", PAYLOADS, ids=lambda payload: payload.name)
def test_recovers_what_the_published_encoder_embeds(payload: Payload):
    marked = embed(skimage.data.astronaut(), payload.bits)
    finding = detect_watermarks(Picture.from_array(marked))
    assert finding.score == 1.0
    (piece,) = finding.evidence
    assert (piece.source, piece.direction, piece.strength) == ("watermark", Direction.AI_GENERATED, Strength.STRONG)
    assert piece.details["payload"] == payload.name
    assert piece.details["false_positive_bound"] < FALSE_POSITIVE_BOUND
    assert finding.log10_likelihood_ratio is None
    assert found(jpeg(marked, 95, 0)) == payload.name
    assert found(jpeg(marked, 90, 0)) == payload.name


LONG = [payload for payload in PAYLOADS if len(payload.bits) > 32]


@pytest.mark.parametrize("payload", LONG, ids=lambda payload: payload.name)
@pytest.mark.parametrize(("top", "left"), [(0, 5), (13, 21), (64, 8)])
def test_recovers_the_mark_from_a_crop(payload: Payload, top: int, left: int):
    marked = embed(skimage.data.astronaut(), payload.bits)
    mark = find_mark(np.ascontiguousarray(marked[top:-9, left:-17]))
    assert mark is not None
    assert mark.found
    assert mark.payload == payload
    assert mark.offset == (-left % 8, -top % 8)


@pytest.mark.parametrize("exchanged", [False, True])
@pytest.mark.parametrize("floating", [False, True])
def test_recovers_the_mark_however_it_was_written(exchanged: bool, floating: bool):
    marked = embed(skimage.data.astronaut(), BY_NAME["SDXL"].bits, exchanged=exchanged, floating=floating)
    assert found(marked) == "SDXL"


def test_a_payload_that_is_too_short_is_not_looked_for_in_crops():
    marked = embed(skimage.data.astronaut(), BY_NAME["SDV2"].bits)
    assert found(marked) == "SDV2"
    assert threshold(BY_NAME["SDV2"], cropped=True) > 32
    assert found(np.ascontiguousarray(marked[13:-9, 21:-17])) is None


def test_does_not_take_another_payload_for_a_known_one():
    other = "".join(np.random.default_rng(7).choice(["0", "1"], 48))
    assert found(embed(skimage.data.astronaut(), other)) is None


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_photographs_carry_no_mark(name: str):
    finding = detect_watermarks(Picture.from_array(PHOTOGRAPHS[name]()))
    assert finding.applicability is Applicability.APPLIED
    assert finding.score == 0.0
    assert not finding.evidence
    assert "proves nothing" in finding.explanation


def test_plain_and_periodic_pictures_carry_no_mark():
    y, x = np.mgrid[:512, :512]
    for plane in (x * 0, x * 0 + 255, x % 256, (x // 8 % 2) * 255, ((x // 8 + y // 8) % 2) * 255, (y // 48 % 2) * 90):
        for channels in ((plane, plane, plane), (plane, plane * 0, 255 - plane)):
            assert found(np.stack(channels, axis=2).astype(np.uint8)) is None


def test_the_threshold_keeps_the_stated_bound():
    assert binomial_tail(0, 48) == 1.0
    assert binomial_tail(48, 48) == 2.0**-48
    total = sum(
        hypotheses(payload, cropped=cropped) * binomial_tail(threshold(payload, cropped=cropped), len(payload.bits))
        for payload in PAYLOADS
        for cropped in (False, True)
        if threshold(payload, cropped=cropped) <= len(payload.bits)
    )
    assert total <= FALSE_POSITIVE_BOUND


@pytest.mark.parametrize("shape", [(1, 1), (8, 8), (1, 3000), (3000, 1), (7, 400), (20, 20)])
def test_does_not_apply_to_pictures_without_enough_blocks(shape: tuple[int, int]):
    finding = detect_watermarks(Picture.from_array(np.zeros((*shape, 3), np.uint8)))
    assert finding.applicability is Applicability.NOT_APPLICABLE


@settings(max_examples=100, deadline=None)
@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 140), st.integers(1, 140), st.just(3))))
def test_never_raises(rgb: RGB):
    find_mark(rgb)


def test_is_registered():
    spec, _ = registry["watermarks"]
    assert spec.question is Question.GENERATED


PHOTOGRAPH_SETS = {
    "cameras": ("dev/camera_jpeg/*", 50),
    "bsds500": ("train/pristine/bsds500/*.jpg", 198),
    "imagenet": ("train/pristine/imagenet_sample/n0[1-2]*", 250),
}


@pytest.mark.timeout(600)
@pytest.mark.skipif(not DATA.is_dir(), reason="the evaluation data is not here")
@pytest.mark.parametrize("name", PHOTOGRAPH_SETS)
def test_honest_photographs_carry_no_mark(name: str):
    """More than 500 photographs; `python -m evaluation alone` counts the same, and more."""
    pattern, least = PHOTOGRAPH_SETS[name]
    files = sorted(DATA.glob(pattern))
    assert len(files) >= least
    assert [path.name for path in files if found(decode_image(path.read_bytes()).rgb)] == []
