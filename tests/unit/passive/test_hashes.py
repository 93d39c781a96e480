"""Versions of a picture have hashes close to each other, other pictures do not."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable

import numpy as np
import pytest
import skimage.data
from numpy.typing import NDArray
from PIL import Image

from services.common.detection import Applicability
from services.common.images import Picture, decode_image
from services.passive.detectors.hashes import (
    NEAR_DUPLICATE_BITS,
    detect_hashes,
    hamming_distance,
    perceptual_hash,
    pixel_digest,
)

PHOTOGRAPHS = [skimage.data.astronaut, skimage.data.chelsea, skimage.data.coffee, skimage.data.rocket]


def saved(image: Image.Image, image_format: str, **options) -> NDArray[np.uint8]:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return decode_image(buffer.getvalue()).rgb


@pytest.mark.parametrize("load", PHOTOGRAPHS)
def test_versions_of_a_picture_are_near_duplicates(load: Callable[[], NDArray[np.uint8]]):
    original = load()
    image = Image.fromarray(original)
    width, height = image.size
    versions = [
        saved(image, "JPEG", quality=40),
        saved(image.resize((width // 3, height // 3)), "PNG"),
        saved(image.resize((width * 2, height * 2)), "WEBP", quality=60),
        np.clip(original.astype(np.int16) + 20, 0, 255).astype(np.uint8),
    ]
    known = perceptual_hash(original)
    for version in versions:
        assert hamming_distance(known, perceptual_hash(version)) <= NEAR_DUPLICATE_BITS


def test_other_pictures_are_not():
    hashes = [perceptual_hash(load()) for load in PHOTOGRAPHS]
    for i, one in enumerate(hashes):
        for other in hashes[i + 1 :]:
            assert hamming_distance(one, other) > NEAR_DUPLICATE_BITS


def test_the_pixels_digest_survives_the_container_and_not_a_changed_pixel():
    image = Image.fromarray(skimage.data.chelsea())
    assert pixel_digest(saved(image, "PNG")) == pixel_digest(saved(image, "WEBP", lossless=True))
    changed = skimage.data.chelsea().copy()
    changed[5, 5, 1] ^= 1
    assert pixel_digest(changed) != pixel_digest(skimage.data.chelsea())
    flat = np.zeros((2, 8, 3), np.uint8)
    assert pixel_digest(flat) != pixel_digest(flat.reshape(4, 4, 3))


def test_the_finding_is_no_evidence():
    picture = Picture.from_array(skimage.data.coffee())
    finding = detect_hashes(picture)
    assert finding.applicability is Applicability.APPLIED
    assert finding.score == 0.0
    assert not finding.evidence
    assert finding.log10_likelihood_ratio is None
    assert finding.details["sha256"] == hashlib.sha256(picture.file).hexdigest()
    assert not finding.details["phash_says_nothing"]


@pytest.mark.parametrize("shape", [(1, 1), (8, 8), (1, 900), (900, 1)])
def test_plain_pictures_are_marked(shape: tuple[int, int]):
    finding = detect_hashes(Picture.from_array(np.full((*shape, 3), 90, np.uint8)))
    assert finding.details["phash_says_nothing"]


def test_hashes_of_other_lengths_cannot_be_compared():
    with pytest.raises(ValueError, match="lengths"):
        hamming_distance("00", "0000")
