"""Every passive detector on pictures that are no ordinary photographs: answers that can be sent, no accusation."""

from __future__ import annotations

import io

import numpy as np
import pytest
import skimage.data
from odd_pictures import PLAIN, TINY, odd_pictures, refused_files
from PIL import Image

from services.common.convert import evidence_to_proto, finding_to_proto
from services.common.detection import Applicability, Direction, Finding
from services.common.errors import PentimentoError
from services.common.images import ImageLimits, Picture, decode_image
from services.passive.detectors import registry
from tests.fuzz.targets import problems_of

LIMITS = ImageLimits(formats=frozenset({"JPEG", "PNG", "WEBP", "GIF"}))
DETECTORS = sorted(spec.name for spec, _ in registry.load("services.passive.detectors"))
PICTURES = dict(odd_pictures())
DECODED = {name: decode_image(content, LIMITS) for name, content in PICTURES.items()}

OF_ANY_PICTURE = {"generator_traces", "hashes"}
"""Detectors that look at the file, or compute what every picture has."""
ON_TINY = {"8x8.jpg": {"quantisation_tables"}, "one wide.jpg": {"quantisation_tables"}}
ON_PLAIN = {"black.jpg": {"quantisation_tables"}}
VIEWS_AND_SEARCHES = {"error_level", "noise_level", "watermarks"}
"""A view of a plain picture is dark, and a search in it finds nothing."""


@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize("name", PICTURES)
def test_an_answer_that_can_be_sent_and_no_accusation(name: str, detector: str):
    spec, detect = registry[detector]
    picture = DECODED[name]
    finding = detect(picture)
    assert list(problems_of(finding, picture)) == []
    assert finding.applicability in {Applicability.APPLIED, Applicability.NOT_APPLICABLE}
    message = finding_to_proto(spec, finding, seconds=0.1, model_digests={}, include_maps=True)
    assert message.explanation
    for piece in finding.evidence:
        evidence_to_proto(piece)
        assert piece.direction not in {Direction.AI_GENERATED, Direction.EDITED}, piece.finding
    assert (finding.log10_likelihood_ratio or 0.0) <= 0.0, finding.explanation


@pytest.mark.parametrize("name", sorted(TINY))
def test_only_what_the_file_says_applies_to_tiny_pictures(name: str):
    assert applied(DECODED[name]) == OF_ANY_PICTURE | ON_TINY.get(name, set())


@pytest.mark.parametrize("name", sorted(PLAIN))
def test_nothing_is_measured_on_plain_pictures(name: str):
    assert applied(DECODED[name]) - VIEWS_AND_SEARCHES == OF_ANY_PICTURE | ON_PLAIN.get(name, set())


def applied(picture: Picture) -> set[str]:
    return {name for name in DETECTORS if registry[name][1](picture).applicability is Applicability.APPLIED}


BROKEN = [name for name in PICTURES if name.startswith("broken ")]
OF_METADATA = {"generator_traces", "hashes", "metadata", "provenance", "quantisation_tables", "thumbnail"}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_metadata_keep_no_detector_from_the_pixels(name: str):
    """Five JPEG detectors once showed Pillow the whole file, and it stumbled over broken EXIF blocks."""
    for detector in set(DETECTORS) - OF_METADATA:
        sound, broken = (registry[detector][1](DECODED[which]) for which in ("sound.jpg", name))
        assert (broken.applicability, broken.score) == (sound.applicability, sound.score), detector


@pytest.mark.parametrize(("name", "content", "reason"), list(refused_files()), ids=lambda value: str(value)[:20])
def test_what_is_broken_is_refused_before_any_detector_sees_it(name: str, content: bytes, reason: str):
    with pytest.raises(PentimentoError) as refused:
        decode_image(content, LIMITS)
    assert refused.value.reason == reason


@pytest.mark.timeout(600)
def test_a_picture_of_24_megapixels_is_borne_by_every_detector():
    enlarged = Image.fromarray(skimage.data.astronaut()).resize((6000, 4000), Image.Resampling.BICUBIC)
    grain = np.random.default_rng(0).integers(0, 9, (4000, 6000, 1), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(np.minimum(np.asarray(enlarged), 247) + grain).save(buffer, "JPEG", quality=93)
    picture = decode_image(buffer.getvalue(), ImageLimits(max_bytes=64 * 1024 * 1024))
    for name in DETECTORS:
        finding = registry[name][1](picture)
        assert list(problems_of(finding, picture)) == [], name
        if finding.applicability is Applicability.NOT_APPLICABLE:
            assert name in {"jpeg_ghosts", "metadata", "provenance", "thumbnail"}, finding.explanation


@pytest.mark.parametrize(
    "finding",
    [
        Finding(applicability=Applicability.APPLIED, score=0.1, explanation=" "),
        Finding(
            applicability=Applicability.APPLIED,
            score=0.1,
            explanation="x",
            heat_map=np.full((2, 2), np.nan, np.float32),
        ),
        Finding(
            applicability=Applicability.APPLIED, score=0.1, explanation="x", heat_map=np.full((2, 2), 1.5, np.float32)
        ),
        Finding(
            applicability=Applicability.APPLIED,
            score=0.1,
            explanation="x",
            reliability_map=np.zeros((2, 0), np.float32),
        ),
        Finding(
            applicability=Applicability.NOT_APPLICABLE,
            score=None,
            explanation="x",
            heat_map=np.zeros((2, 2), np.float32),
        ),
    ],
)
def test_answers_that_must_not_be_are_told(finding: Finding):
    """The judge of all tests above, and of the fuzzer, can say no."""
    assert list(problems_of(finding, DECODED["8x8.png"]))
