"""Pairs made for detectors: the twin lacks only the trace, and the detector that it is made for tells them apart."""

from __future__ import annotations

import io

import numpy as np
import pytest
import skimage.data
from PIL import Image

from evaluation.forgery import Encoding
from evaluation.pairs import KINDS, LONGEST_SIDE, Host
from services.common.images import decode_image
from services.passive.detectors import registry

registry.load("services.passive.detectors")


def jpeg(rgb: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def camera_file() -> bytes:
    """A file as a camera writes it: its name, half the colours, a thumbnail behind the EXIF block's directories."""
    rgb = skimage.data.coffee()
    thumbnail = jpeg(np.asarray(Image.fromarray(rgb).resize((150, 100))), quality=75)
    make = b"Canon\x00"
    block = b"MM\x00*\x00\x00\x00\x08" + b"\x00\x01" + b"\x01\x0f\x00\x02\x00\x00\x00\x06\x00\x00\x00\x1a"
    start = 26 + len(make)
    block += start.to_bytes(4, "big") + make + b"\x00\x02"
    block += b"\x02\x01\x00\x04\x00\x00\x00\x01" + (start + 30).to_bytes(4, "big")
    block += b"\x02\x02\x00\x04\x00\x00\x00\x01" + len(thumbnail).to_bytes(4, "big") + bytes(4) + thumbnail
    return jpeg(rgb, quality=92, exif=b"Exif\x00\x00" + block)


HOST = Host.of(camera_file())
DONOR = Host.of(jpeg(skimage.data.astronaut(), quality=85))


@pytest.mark.parametrize("name", KINDS)
def test_a_pair_differs_by_its_trace_and_is_encoded_alike(name: str):
    made = KINDS[name].make(HOST, DONOR, 3)
    assert made is not None
    encoding = Encoding(quality=92, subsampling=KINDS[name].subsampling)
    forged, twin = (decode_image(write(encoding)) for write in (made.forged, made.twin))
    assert forged.file != twin.file
    assert forged.rgb.shape == twin.rgb.shape
    if name != "saved_again":
        assert KINDS[name].make(HOST, DONOR, 3).forged(encoding) == forged.file
        assert (forged.info.format, forged.info.mode) == (twin.info.format, twin.info.mode)
    if made.mask is not None:
        change = np.abs(forged.rgb.astype(np.int16) - twin.rgb).mean(axis=2)
        assert made.mask.shape == forged.rgb.shape[:2]
        assert change[made.mask].mean() > 3 * change[~made.mask].mean()


@pytest.mark.parametrize(
    ("name", "quality"), [("saved_twice", 85), ("old_thumbnail", 90), ("marked", 95), ("saved_again", 90)]
)
def test_the_detector_that_it_is_made_for_tells_the_two_apart(name: str, quality: int):
    kind = KINDS[name]
    # 4:2:0 is what cameras write: only the seed that saves full colours leaves a trace.
    seed = next(seed for seed in range(20) if name != "saved_again" or np.random.default_rng(seed).integers(2))
    made = kind.make(HOST, DONOR, seed)
    encoding = Encoding(quality=quality, subsampling=kind.subsampling)
    (subject,) = kind.subjects
    scores = [registry[subject][1](decode_image(write(encoding))).score for write in (made.forged, made.twin)]
    assert None not in scores
    assert scores[0] > scores[1]


def test_hosts_are_cropped_on_the_grid_and_never_resampled():
    rgb = np.random.default_rng(0).integers(0, 256, (LONGEST_SIDE + 100, 300, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "PNG")
    assert np.array_equal(Host.of(buffer.getvalue()).rgb, rgb[48 : 48 + LONGEST_SIDE])


def test_what_cannot_be_made_is_left_out():
    plain = Host.of(jpeg(np.full((300, 300, 3), 80, np.uint8), quality=90))
    assert KINDS["old_thumbnail"].make(plain, DONOR, 0) is None
    assert KINDS["saved_again"].make(plain, DONOR, 0) is None
    assert KINDS["noise"].make(Host.of(jpeg(skimage.data.coffee()[:40], quality=90)), DONOR, 0) is None
